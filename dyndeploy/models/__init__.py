"""The papers' networks.

create_model, list_models   a network by its name
Backbone                    what they share: a classifier's head, or the maps for a detector
"""

from __future__ import annotations

from dyndeploy.models import dcnv2, ddf, dgc, drconv, fpn, joint_upsampling, scconv
from dyndeploy.models.backbone import Backbone
from dyndeploy.models.registry import create_model, list_models

__all__ = [
    "Backbone",
    "create_model",
    "dcnv2",
    "ddf",
    "dgc",
    "drconv",
    "fpn",
    "joint_upsampling",
    "list_models",
    "scconv",
]
