"""Dynamic group convolution in plain torch: the truth that every other implementation is compared with.

Su et al., "Dynamic Group Convolution for Accelerating Convolutional Neural Networks", ECCV 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def kept(saliency: Tensor, heads: int, inactive: int, threshold: float) -> Tensor:
    """The channels that every head reads: bool [N, heads, C] from a saliency [N, heads*C].

    A channel is dropped when its saliency is <= the `inactive`-th smallest of its head, so that ties (all
    zeros, for one) drop more than `inactive` channels, as in the official code; inactive = 0 keeps all.
    With inactive = -1 the limit is `threshold` for all heads (DGC-G).
    """
    s = saliency.reshape(saliency.shape[0], heads, saliency.shape[1] // heads)
    if inactive == 0:
        return torch.ones_like(s, dtype=torch.bool)
    if inactive < 0:
        return ~(s <= threshold)
    return ~(s <= s.kthvalue(inactive, dim=2, keepdim=True).values)


def forward(
    x: Tensor,
    saliency: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    heads: int,
    inactive: int,
    threshold: float,
    shuffle: bool,
    relu: bool,
) -> Tensor:
    """row[i] = bias[i] + weight[i] * (gate[h] x); h is the head of row i, gate its saliency, 0 where dropped.

    Args:
        x: [N, C, H, W], after BatchNorm and ReLU.
        saliency: [N, heads*C], >= 0; head h reads saliency[:, h*C:(h+1)*C].
        weight: [O, C, kh, kw]; head h has rows h*O/heads to (h+1)*O/heads.
        bias: [O], in the order of the rows of weight.
        stride, dilation: (h, w).
        padding: (top, left, bottom, right).
        inactive, threshold: which channels are dropped, see `kept`.
        shuffle: output channel = row_in_head*heads + head, instead of head*O/heads + row_in_head.
        relu: y = max(y, 0).

    Returns:
        [N, O, Ho, Wo] in the dtype of x.
    """
    gated = _gated(x, _gate(saliency, heads, inactive, threshold), padding)
    y = F.conv2d(gated, weight, bias, tuple(stride), 0, tuple(dilation), heads)
    if shuffle:
        y = _transposed(y, heads)
    return y.relu() if relu else y


def backward(
    grad: Tensor,
    x: Tensor,
    saliency: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    needs: tuple[bool, ...],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    heads: int,
    inactive: int,
    threshold: float,
    shuffle: bool,
    relu: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, saliency, weight and bias; `grad` is that of the output before the ReLU.

    Only what was kept learns: where a head drops a channel, the saliency gets exactly zero, and x and weight
    nothing from there.
    """
    if shuffle:
        grad = _transposed(grad, grad.shape[1] // heads)
    gate = _gate(saliency, heads, inactive, threshold)
    gated = _gated(x, gate, padding)
    grad_gated, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad,
        gated,
        weight,
        bias.shape,
        stride,
        (0, 0),
        dilation,
        False,
        (0, 0),
        heads,
        (needs[0] or needs[1], needs[2], needs[3]),
    )
    grad_x = grad_saliency = None
    if grad_gated is not None:
        top, left, _, _ = padding
        height, width = x.shape[2:]
        grad_gated = grad_gated[:, :, top : top + height, left : left + width]
        grad_gated = grad_gated.reshape(x.shape[0], heads, *x.shape[1:])
        if needs[0]:
            grad_x = (grad_gated * gate[..., None, None]).sum(1)
        if needs[1]:
            slope = (grad_gated * x[:, None]).sum((3, 4))
            grad_saliency = torch.where(kept(saliency, heads, inactive, threshold), slope, 0.0)
    return grad_x, grad_saliency, grad_weight, grad_bias


def _gate(saliency: Tensor, heads: int, inactive: int, threshold: float) -> Tensor:
    """What every head multiplies the channels by: [N, heads, C]."""
    keep = kept(saliency, heads, inactive, threshold)
    return torch.where(keep, saliency.reshape(keep.shape), 0.0)


def _gated(x: Tensor, gate: Tensor, padding: Sequence[int]) -> Tensor:
    """Every head's own copy of x, padded: [N, heads*C, H+top+bottom, W+left+right]."""
    top, left, bottom, right = padding
    return F.pad((x[:, None] * gate[..., None, None]).flatten(1, 2), (left, right, top, bottom))


def _transposed(y: Tensor, groups: int) -> Tensor:
    """Channels [groups][rows] -> [rows][groups]: the channel shuffle, undone with groups and rows swapped."""
    n, channels, height, width = y.shape
    return y.reshape(n, groups, channels // groups, height, width).transpose(1, 2).reshape(y.shape)
