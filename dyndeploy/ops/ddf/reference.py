"""Decoupled dynamic filter in plain torch: the truth that every other implementation is compared with.

Zhou et al., "Decoupled Dynamic Filter Networks", CVPR 2021, eq. 2 and 3; DDF-Up is section 3.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dyndeploy.errors import DynError

_EPSILON = 1e-10  # added to the standard deviation, as in the official code


class _Normed(NamedTuple):
    """Filters after FilterNorm: z, the standard deviation of each filter, and the axis of its K taps."""

    z: Tensor
    std: Tensor | None
    axis: int


def forward(
    x: Tensor,
    channel_filter: Tensor,
    spatial_filter: Tensor,
    channel_gain: Tensor,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    heads: int,
    scale: int,
    combine: bool,
    filter_norm: bool,
    spatial_gain: float,
    relu: bool,
) -> Tensor:
    """y[n, c, s*i + r//s, s*j + r%s] = sum over taps t of D[n,r,c,t,i,j] * x[n,c,h,v].

    s = scale, r = 0..s*s-1 the sub-pixel;
    h = i*stride - pad + row(t)*dilation (rows), v likewise (columns); a tap outside the map adds nothing.
    D = channel[n,r,c,t] * spatial[n,r,g,t,i,j], or their sum, with head g = c // (C/heads);
    channel = FN(channel_filter) * channel_gain, spatial = FN(spatial_filter) * spatial_gain;
    FN(D) = (D - mean) / (std + 1e-10) over the K taps of a filter, std unbiased, or D without filter_norm.

    Args:
        x: [N, C, H, W].
        channel_filter: [N, s*s*C*K], [sub-pixel r][channel][tap], taps row-major.
        spatial_filter: [N, s*s*heads*K, Ho, Wo], [sub-pixel r][head][tap].
        channel_gain: [s*s*C*K].
        kernel_size, stride, dilation: (h, w).
        padding: (top, left, bottom, right).
        combine: False multiplies the filters, True adds them.
        relu: y = max(y, 0).

    Returns:
        [N, C, s*Ho, s*Wo] in the dtype of x.

    Raises:
        DynError: filter_norm with a kernel of one tap.
    """
    channel, spatial = _norm(channel_filter, spatial_filter, x.shape[1], heads, scale, kernel_size, filter_norm)
    channel_weights = channel.z * _gain(channel_gain, channel)
    spatial_weights = spatial.z * spatial_gain
    ho, wo = spatial_filter.shape[2:]
    y = x.new_zeros(x.shape[0], scale * scale, heads, x.shape[1] // heads, ho, wo)
    padded = _pad(x, padding)
    for t, window in enumerate(_windows(kernel_size, stride, dilation, ho, wo)):
        y += _combined(channel_weights, spatial_weights, t, combine) * _grouped(padded[window], heads)
    y = _shuffle(y, scale)
    return y.relu() if relu else y


def backward(
    grad: Tensor,
    x: Tensor,
    channel_filter: Tensor,
    spatial_filter: Tensor,
    channel_gain: Tensor,
    *,
    needs: tuple[bool, ...],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    heads: int,
    scale: int,
    combine: bool,
    filter_norm: bool,
    spatial_gain: float,
    relu: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, channel_filter, spatial_filter and channel_gain; `grad` is the one before the ReLU."""
    channel, spatial = _norm(channel_filter, spatial_filter, x.shape[1], heads, scale, kernel_size, filter_norm)
    gain = _gain(channel_gain, channel)
    channel_weights, spatial_weights = channel.z * gain, spatial.z * spatial_gain
    grad_y = _unshuffle(grad, heads, scale)
    padded = _pad(x, padding)

    grad_padded = torch.zeros_like(padded)
    grad_channel, grad_spatial = torch.empty_like(channel.z), torch.empty_like(spatial.z)
    for t, window in enumerate(_windows(kernel_size, stride, dilation, *spatial_filter.shape[2:])):
        if needs[0]:
            share = (grad_y * _combined(channel_weights, spatial_weights, t, combine)).sum(1)
            grad_padded[window] += share.flatten(1, 2)
        grad_filter = grad_y * _grouped(padded[window], heads)
        if needs[1] or needs[3]:
            other = grad_filter if combine else grad_filter * spatial_weights[:, :, :, :, t]
            grad_channel[:, :, :, :, t] = other.sum((4, 5), keepdim=True)
        if needs[2]:
            other = grad_filter if combine else grad_filter * channel_weights[:, :, :, :, t]
            grad_spatial[:, :, :, :, t] = other.sum(3, keepdim=True)

    grad_x = grad_channel_filter = grad_spatial_filter = grad_gain = None
    if needs[0]:
        top, left = padding[:2]
        grad_x = grad_padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    if needs[1]:
        grad_channel_filter = _norm_gradient(grad_channel * gain, channel).reshape(channel_filter.shape)
    if needs[2]:
        grad_spatial_filter = _norm_gradient(grad_spatial * spatial_gain, spatial).reshape(spatial_filter.shape)
    if needs[3]:
        grad_gain = (grad_channel * channel.z).sum(0).reshape(channel_gain.shape)
    return grad_x, grad_channel_filter, grad_spatial_filter, grad_gain


def check_taps(taps: int, filter_norm: bool) -> None:
    """Raise DynError where FilterNorm is undefined: the standard deviation of one tap does not exist."""
    if filter_norm and taps == 1:
        raise DynError(
            "decoupled_dynamic_filter: kernel_size=(1, 1) with filter_norm=True.",
            why="FilterNorm divides by the standard deviation of a filter's taps, and one tap has none.",
            fix="filter_norm=False, or a larger kernel_size.",
        )


def _norm(
    channel_filter: Tensor,
    spatial_filter: Tensor,
    channels: int,
    heads: int,
    scale: int,
    kernel_size: Sequence[int],
    filter_norm: bool,
) -> tuple[_Normed, _Normed]:
    """The filters, normalised: [N, R, heads, C/heads, K, 1, 1] and [N, R, heads, 1, K, Ho, Wo]; R = s*s."""
    n, taps = channel_filter.shape[0], kernel_size[0] * kernel_size[1]
    check_taps(taps, filter_norm)
    per_channel = channel_filter.reshape(n, scale * scale, heads, channels // heads, taps, 1, 1)
    per_pixel = spatial_filter.reshape(n, scale * scale, heads, 1, taps, *spatial_filter.shape[2:])
    return _filter_norm(per_channel, filter_norm), _filter_norm(per_pixel, filter_norm)


def _filter_norm(filters: Tensor, filter_norm: bool) -> _Normed:
    axis = 4
    if not filter_norm:
        return _Normed(filters, None, axis)
    # From the first tap on: the mean of equal numbers is not always that number, and the rounding error that is left
    # of a constant filter would be blown up to size 1.
    shifted = filters - filters.narrow(axis, 0, 1)
    centred = shifted - shifted.mean(axis, keepdim=True)
    std = (centred.square().sum(axis, keepdim=True) / (filters.shape[axis] - 1)).sqrt()
    return _Normed(centred / (std + _EPSILON), std, axis)


def _norm_gradient(grad: Tensor, normed: _Normed) -> Tensor:
    """The gradient of a filter from that of its z.

    With e = epsilon: dL/dD = (g - mean(g) - z * (1 + e/std) * sum(g*z)/(K-1)) / (std + e).

    A constant filter (std 0, z = 0) gets g - mean(g), as if its std were 1. Its slope is 1e10 in theory: the first
    step of an optimizer would throw the weights behind it out of reach of the second, and float16 overflows.
    """
    z, std, axis = normed
    if std is None:
        return grad
    slope = (grad * z).sum(axis, keepdim=True) / (z.shape[axis] - 1)
    spread = torch.where(std > 0, std, 1.0)
    along = z * slope * (1 + _EPSILON / spread)
    return (grad - grad.mean(axis, keepdim=True) - along) / (spread + _EPSILON)


def _gain(channel_gain: Tensor, channel: _Normed) -> Tensor:
    """channel_gain in the shape of the channel filters, without the batch."""
    return channel_gain.reshape(channel.z.shape[1:])


def _combined(channel: Tensor, spatial: Tensor, tap: int, combine: bool) -> Tensor:
    """The filter of one tap, [N, R, heads, C/heads, Ho, Wo]."""
    a, b = channel[:, :, :, :, tap], spatial[:, :, :, :, tap]
    return a + b if combine else a * b


def _pad(x: Tensor, padding: Sequence[int]) -> Tensor:
    top, left, bottom, right = padding
    return F.pad(x, (left, right, top, bottom))


def _windows(
    kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int], ho: int, wo: int
) -> Iterator[tuple[slice, ...]]:
    """For every tap, row-major: the part of the padded map that it meets."""

    def part(tap: int, axis: int, size: int) -> slice:
        begin = tap * dilation[axis]
        return slice(begin, begin + (size - 1) * stride[axis] + 1, stride[axis])

    for i in range(kernel_size[0]):
        for j in range(kernel_size[1]):
            yield slice(None), slice(None), part(i, 0, ho), part(j, 1, wo)


def _grouped(window: Tensor, heads: int) -> Tensor:
    """[N, C, Ho, Wo] -> [N, 1, heads, C/heads, Ho, Wo]."""
    n, c, ho, wo = window.shape
    return window.reshape(n, 1, heads, c // heads, ho, wo)


def _shuffle(y: Tensor, scale: int) -> Tensor:
    """[N, R, heads, C/heads, Ho, Wo] -> [N, C, s*Ho, s*Wo]; branch r makes sub-pixel (r // s, r % s)."""
    n, _, heads, width, ho, wo = y.shape
    split = y.reshape(n, scale, scale, heads * width, ho, wo)
    return split.permute(0, 3, 4, 1, 5, 2).reshape(n, heads * width, ho * scale, wo * scale)


def _unshuffle(grad: Tensor, heads: int, scale: int) -> Tensor:
    """The inverse of `_shuffle`."""
    n, c, height, width = grad.shape
    split = grad.reshape(n, heads, c // heads, height // scale, scale, width // scale, scale)
    return split.permute(0, 4, 6, 1, 2, 3, 5).flatten(1, 2)
