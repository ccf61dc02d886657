"""Modulated deformable convolution in plain torch: the truth that every other implementation is compared with.

Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019, eq. 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class _Samples(NamedTuple):
    """The four neighbours of every sampling point.

    values: [4, N, C, K, Ho, Wo] pixel values, 0 outside the map; position: [4, N, G, K, Ho, Wo] flat index in the map;
    inside: the same shape, whether the neighbour exists; dy, dx: [N, G, K, Ho, Wo] fractions.
    """

    values: Tensor
    position: Tensor
    inside: Tensor
    dy: Tensor
    dx: Tensor


def forward(
    x: Tensor,
    offset_mask: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_groups: int,
    sigmoid: bool,
    mask_scale: float,
    relu: bool,
) -> Tensor:
    """y[n,o,i,j] = b[o] + sum over c, taps t of w[o,c,t] * bilinear(x[n,c], h, v) * mask[n,g,t,i,j].

    h = i*stride - pad + row(t)*dilation + offset_y (rows), v likewise (columns). A sample counts iff -1 < h < H and
    -1 < v < W; each of its four neighbours that lies outside the map is 0 (the border rule of DCNv2, not of DCNv1).

    Args:
        x: [N, C, H, W].
        offset_mask: [N, 3*G*K, Ho, Wo]; 2*G*K offsets in pixels, [group][tap][y, x], then G*K masks, [group][tap].
        weight: [O, C/groups, kh, kw].
        bias: [O].
        stride, dilation: (h, w).
        padding: (top, left, bottom, right).
        sigmoid, mask_scale: mask = mask_scale * (sigmoid(m) if sigmoid else m).
        relu: y = max(y, 0).

    Returns:
        [N, O, Ho, Wo] in the dtype of x.
    """
    kernel = weight.shape[2:]
    samples = _sample(x, offset_mask, kernel, stride, padding, dilation, offset_groups)
    columns = _interpolate(samples, offset_groups) * _mask(offset_mask, x.shape[1], sigmoid, mask_scale, kernel)
    y = torch.einsum("gok,ngkp->ngop", _rows(weight, groups), _grouped(columns, groups))
    y = y.reshape(x.shape[0], weight.shape[0], *offset_mask.shape[2:]) + bias[:, None, None]
    return y.relu() if relu else y


def backward(
    grad: Tensor,
    x: Tensor,
    offset_mask: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    needs: tuple[bool, ...],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_groups: int,
    sigmoid: bool,
    mask_scale: float,
    relu: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, offset_mask, weight and bias; `grad` is that of the output before the ReLU.

    The gradient of an offset is that of bilinear interpolation on the zero-padded map; where the interpolation has a
    kink (an integer coordinate) it is the one of the cell to the lower right, as in the official code.
    """
    n, c = x.shape[:2]
    kernel = weight.shape[2:]
    samples = _sample(x, offset_mask, kernel, stride, padding, dilation, offset_groups)
    mask = _mask(offset_mask, c, sigmoid, mask_scale, kernel)
    sampled = _interpolate(samples, offset_groups)
    grad_rows = grad.reshape(n, groups, weight.shape[0] // groups, math.prod(grad.shape[2:]))
    grad_columns = torch.einsum("gok,ngop->ngkp", _rows(weight, groups), grad_rows).reshape(sampled.shape)
    grad_sampled = grad_columns * mask

    grad_x = grad_offset_mask = grad_weight = None
    if needs[0]:
        grad_x = _scatter(grad_sampled, samples, x, offset_groups)
    if needs[1]:
        grad_offset_mask = torch.cat(
            [
                _offset_gradient(grad_sampled, samples, offset_groups),
                _mask_gradient(grad_columns * sampled, offset_mask, sigmoid, mask_scale, offset_groups),
            ],
            dim=1,
        )
    if needs[2]:
        columns = _grouped(sampled * mask, groups)
        grad_weight = torch.einsum("ngop,ngkp->gok", grad_rows, columns).reshape(weight.shape)
    return grad_x, grad_offset_mask, grad_weight, grad.sum((0, 2, 3)) if needs[3] else None


def _rows(weight: Tensor, groups: int) -> Tensor:
    """[O, C/g, kh, kw] -> [g, O/g, (C/g)*K]."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def _grouped(columns: Tensor, groups: int) -> Tensor:
    """[N, C, K, Ho, Wo] -> [N, g, (C/g)*K, Ho*Wo]."""
    n, c, k, ho, wo = columns.shape
    return columns.reshape(n, groups, c // groups * k, ho * wo)


def _mask(offset_mask: Tensor, channels: int, sigmoid: bool, mask_scale: float, kernel: Sequence[int]) -> Tensor:
    """The modulation of every channel: [N, C, K, Ho, Wo]."""
    n, total, ho, wo = offset_mask.shape
    mask = offset_mask[:, total // 3 * 2 :]
    mask = mask_scale * (mask.sigmoid() if sigmoid else mask)
    taps = kernel[0] * kernel[1]
    mask = mask.reshape(n, total // 3 // taps, taps, ho, wo)
    return mask.repeat_interleave(channels // mask.shape[1], dim=1)


def _sample(
    x: Tensor,
    offset_mask: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    offset_groups: int,
) -> _Samples:
    n, c, height, width = x.shape
    ho, wo = offset_mask.shape[2:]
    taps = kernel[0] * kernel[1]
    points = taps * ho * wo
    offset = offset_mask[:, : 2 * offset_groups * taps].reshape(n, offset_groups, taps, 2, ho, wo)

    def grid(size: int, step: int, pad: int) -> Tensor:
        return torch.arange(size, device=x.device, dtype=x.dtype) * step - pad

    row = grid(kernel[0], dilation[0], 0).repeat_interleave(kernel[1])[:, None, None]
    column = grid(kernel[1], dilation[1], 0).repeat(kernel[0])[:, None, None]
    h = offset[:, :, :, 0] + row + grid(ho, stride[0], padding[0])[:, None]
    v = offset[:, :, :, 1] + column + grid(wo, stride[1], padding[1])
    top, left = h.floor(), v.floor()

    flat = x.reshape(n, offset_groups, c // offset_groups, height * width)
    values, positions, inside = [], [], []
    for i in (0, 1):
        for j in (0, 1):
            hi, vj = top + i, left + j
            exists = (hi >= 0) & (hi < height) & (vj >= 0) & (vj < width)
            # Offsets are unbounded (and may be NaN): only a valid position is converted to int.
            # In int64: float32 holds no index above 2^24.
            position = torch.where(exists, hi, 0.0).long() * width + torch.where(exists, vj, 0.0).long()
            picked = flat.gather(3, position.reshape(n, offset_groups, 1, points).expand(-1, -1, flat.shape[2], -1))
            picked = picked.reshape(n, offset_groups, flat.shape[2], taps, ho, wo)
            # Not a product: 0 * inf is NaN, and what stands in for a missing neighbour is pixel (0, 0).
            values.append(torch.where(exists[:, :, None], picked, 0.0).reshape(n, c, taps, ho, wo))
            positions.append(position)
            inside.append(exists)
    reached = torch.stack(inside)
    # Infinite and NaN offsets reach nothing, and contribute nothing.
    dy, dx = (torch.where(reached.any(0), fraction, 0.0) for fraction in (h - top, v - left))
    return _Samples(torch.stack(values), torch.stack(positions), reached, dy, dx)


def _spread(per_group: Tensor, channels: int) -> Tensor:
    """[N, G, K, Ho, Wo] -> [N, C, K, Ho, Wo]."""
    return per_group.repeat_interleave(channels // per_group.shape[1], dim=1)


def _corner_weights(samples: _Samples) -> list[Tensor]:
    dy, dx = samples.dy, samples.dx
    return [(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx]


def _interpolate(samples: _Samples, offset_groups: int) -> Tensor:
    """[N, C, K, Ho, Wo]."""
    channels = samples.values.shape[2]
    return sum(
        (v * _spread(w, channels) for v, w in zip(samples.values, _corner_weights(samples))),
        torch.zeros_like(samples.values[0]),
    )


def _scatter(grad_sampled: Tensor, samples: _Samples, x: Tensor, offset_groups: int) -> Tensor:
    n, c, height, width = x.shape
    channels, points = c // offset_groups, math.prod(grad_sampled.shape[2:])
    per_group = grad_sampled.reshape(n, offset_groups, channels, *grad_sampled.shape[2:])
    grad_x = torch.zeros(n, offset_groups, channels, height * width, dtype=x.dtype, device=x.device)
    for weight, position, inside in zip(_corner_weights(samples), samples.position, samples.inside):
        share = per_group * (weight * inside)[:, :, None]
        target = position.reshape(n, offset_groups, 1, points).expand(-1, -1, channels, -1)
        grad_x.scatter_add_(3, target, share.reshape(n, offset_groups, channels, points))
    return grad_x.reshape(x.shape)


def _offset_gradient(grad_sampled: Tensor, samples: _Samples, offset_groups: int) -> Tensor:
    """[N, 2*G*K, Ho, Wo], (y, x) interleaved per tap."""
    n, c, taps, ho, wo = grad_sampled.shape
    v00, v01, v10, v11 = samples.values
    dy, dx = _spread(samples.dy, c), _spread(samples.dx, c)
    slope_y = (1 - dx) * (v10 - v00) + dx * (v11 - v01)
    slope_x = (1 - dy) * (v01 - v00) + dy * (v11 - v10)
    slopes = torch.stack([slope_y, slope_x], dim=3) * grad_sampled[:, :, :, None]
    per_group = slopes.reshape(n, offset_groups, c // offset_groups, taps, 2, ho, wo).sum(2)
    return per_group.reshape(n, 2 * offset_groups * taps, ho, wo)


def _mask_gradient(
    grad_mask: Tensor, offset_mask: Tensor, sigmoid: bool, mask_scale: float, offset_groups: int
) -> Tensor:
    """[N, G*K, Ho, Wo] from the per-channel gradient of the mask."""
    n, c, taps, ho, wo = grad_mask.shape
    per_group = grad_mask.reshape(n, offset_groups, c // offset_groups, taps, ho, wo).sum(2)
    total = per_group.reshape(n, offset_groups * taps, ho, wo) * mask_scale
    if sigmoid:
        s = offset_mask[:, offset_mask.shape[1] // 3 * 2 :].sigmoid()
        total = total * s * (1 - s)
    return total
