"""What the papers' layers need while they are trained, and nothing of it afterwards.

parameter_groups                            learning-rate multipliers and weight decay, for any torch optimizer
PruningSchedule, ThresholdSchedule          DGC drops more and more channels: per head, or network-wise (DGC-G)
SparsityLoss                                DGC's lasso on the saliencies
rcnn_branch_loss, feature_mimicking_loss    DCNv2's R-CNN feature mimicking
sample_positives, crop_rois                 the images that its R-CNN branch sees
"""

from __future__ import annotations

from dyndeploy.training.dcnv2_mimicking import (
    crop_rois,
    feature_mimicking_loss,
    rcnn_branch_loss,
    sample_positives,
)
from dyndeploy.training.dgc_schedule import PruningSchedule, ThresholdSchedule
from dyndeploy.training.dgc_sparsity import SparsityLoss
from dyndeploy.training.parameter_groups import parameter_groups, vectors_and_biases

__all__ = [
    "PruningSchedule",
    "SparsityLoss",
    "ThresholdSchedule",
    "crop_rois",
    "feature_mimicking_loss",
    "parameter_groups",
    "rcnn_branch_loss",
    "sample_positives",
    "vectors_and_biases",
]
