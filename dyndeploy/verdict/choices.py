"""Discrete choices: a decision may flip where rounding alone can flip it, and nowhere else.

A region is an argmax over logits, a kept channel a saliency above the k-th smallest. Two right implementations
decide differently where the two candidates are closer than their noise. Such flips are counted and shown; the values
that follow from them are compared with a reference that was made to decide the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from dyndeploy.bundle import Arrays
from dyndeploy.ops.dgc.reference import kept
from dyndeploy.ops.drconv.reference import regions_of
from dyndeploy.testing.numeric import FACTORS, FLOORS, Array, Comparison, compare, eps
from dyndeploy.verdict.inner import Choice


@dataclass(frozen=True)
class ChoiceResult:
    """The decisions of one node in one runtime.

    Attributes:
        node, op_type: the node of model.onnx.
        decisions: how many it took: pixels of a region-aware, channels per head of a group convolution.
        flips: how many of them differ from those of float64, given the runtime's own decisions before.
        gap: how far apart the candidates of the worst flip are in float64 (best logit and chosen one;
            saliency and threshold), divided by the rms of the tensor.
        margin: the largest gap that is noise, also divided by the rms; see `margin_of`.
    """

    node: str
    op_type: str
    decisions: int
    flips: int
    gap: float
    margin: float

    @property
    def admissible(self) -> bool:
        """Whether every flip is within the margin."""
        return self.flips == 0 or self.gap <= self.margin


def decide(choice: Choice, tensor: Array) -> Array:
    """What a guide or saliency leads to in torch: regions [N, Ho, Wo], or kept channels (bool) [N, heads, C]."""
    values = torch.from_numpy(tensor if tensor.dtype == np.float64 else tensor.astype(np.float32))  # as the op widens
    if choice.spec.folder == "drconv":
        return regions_of(values).numpy()
    a = choice.attributes
    return kept(values, a["heads"], a["inactive"], a["threshold"]).numpy()


def same(decisions: Arrays, others: Arrays) -> bool:
    """Whether all decisions agree."""
    return all(np.array_equal(decisions[source], others[source]) for source in others)


def judge_choice(choice: Choice, decisions: Array, reference: Array, yardstick: Array, dtype: str) -> ChoiceResult:
    """Compare a runtime's decisions at one node with those of float64.

    Args:
        choice: the node.
        decisions: the runtime's, as it tells them (`dyndeploy.verdict.reading`).
        reference: guide or saliency in float64, under the runtime's decisions at the nodes before.
        yardstick: the same in PyTorch at `dtype`.
        dtype: in which the model computes.
    """
    flipped = decisions != decide(choice, reference)
    own = compare(yardstick, reference)
    gaps = _gaps(choice, reference, decisions)[flipped]
    return ChoiceResult(
        node=choice.node,
        op_type=choice.op_type,
        decisions=decisions.size,
        flips=int(np.count_nonzero(flipped)),
        gap=float(gaps.max(initial=0.0)) / (own.rms or 1.0),
        margin=margin_of(own, dtype),
    )


def margin_of(own: Comparison, dtype: str) -> float:
    """The largest gap that rounding may bridge, per rms of the tensor: 2 * (4 * PyTorch's largest error + 2 eps).

    Both candidates may err, each by as many times PyTorch's largest error as a whole tensor may in L2. The wider bounds
    of a maximum (8 times, 16 eps) are not for here: they allow for one value in many, a decision is about two. In a
    network of all five layers in float16 and bfloat16, the widest gap of a flip was 0.2 to 1.3 times PyTorch's largest
    error.

    Args:
        own: the tensor in PyTorch at `dtype` against float64.
        dtype: in which the model computes.
    """
    largest = 0.0 if own.mismatched else own.statistic("max")
    return 2 * (FACTORS["relative_l2"] * largest + FLOORS["relative_l2"] * eps(dtype))


def _gaps(choice: Choice, reference: Array, decisions: Array) -> Array:
    """For every decision, the distance in float64 that it would have taken to decide otherwise."""
    if choice.spec.folder == "drconv":
        taken = np.take_along_axis(reference, decisions[:, None], axis=1)[:, 0]
        gaps: Array = reference.max(axis=1) - taken
        return gaps
    s = reference.reshape(decisions.shape)
    inactive = choice.attributes["inactive"]
    if inactive == 0:
        return np.full(s.shape, math.inf)
    limit = choice.attributes["threshold"] if inactive < 0 else np.sort(s, axis=2)[:, :, inactive - 1, None]
    distance: Array = np.abs(s - limit)
    return distance
