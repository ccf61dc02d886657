"""`torch.ops.dyndeploy.decoupled_dynamic_filter` and its function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from dyndeploy.errors import DynError
from dyndeploy.ops._spec import spec_of
from dyndeploy.ops._torch import four_pads, pair, register
from dyndeploy.ops.ddf import reference

Combine = Literal["mul", "add"]

SPEC = spec_of("ddf")
_op = register(SPEC, reference.forward, reference.backward)


def decoupled_dynamic_filter(
    x: Tensor,
    channel_filter: Tensor,
    spatial_filter: Tensor,
    channel_gain: Tensor | None = None,
    *,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    heads: int = 1,
    scale: int = 1,
    combine: Combine = "mul",
    filter_norm: bool = True,
    spatial_gain: float = 1.0,
    relu: bool = False,
) -> Tensor:
    """Decoupled dynamic filter: one filter per sample, channel and pixel (Zhou et al., CVPR 2021, eq. 2).

    y[n, c, s*i + r//s, s*j + r%s] = sum over taps t of channel[n,r,c,t] * spatial[n,r,g,t,i,j] * x[n,c,h,v]

    with s = scale, sub-pixels r = 0..s*s-1, head g = c // (C/heads), (h, v) as in a convolution with zero
    padding, channel = FN(channel_filter) * channel_gain and spatial = FN(spatial_filter) * spatial_gain.
    FilterNorm (eq. 3): FN(D) = (D - mean) / (std + 1e-10) over the K = kh*kw taps of a filter, std unbiased.

    Args:
        x: [N, C, H, W].
        channel_filter: [N, s*s*C*K], raw output of a branch, [sub-pixel][channel][tap], taps row-major.
        spatial_filter: [N, s*s*heads*K, Ho, Wo], raw output of a branch, [sub-pixel][head][tap].
        channel_gain: [s*s*C*K] or None (ones): the learned gain of the channel filters.
        kernel_size, stride, dilation: one int or (h, w).
        padding: one int, (h, w) or (top, left, bottom, right).
        heads: channel groups with spatial filters of their own; divides C.
        scale: 1 is DDF, s > 1 is DDF-Up: s*s filters per input pixel, outputs stored as by a pixel shuffle.
        combine: "mul", or "add" for the sum of the two filters instead of their product.
        filter_norm: normalise the filters; False takes them as they are.
        spatial_gain: fixed gain of the spatial filters.
        relu: apply max(y, 0).

    Returns:
        [N, C, s*Ho, s*Wo], dtype of x, with Ho, Wo as of a convolution. float16 and bfloat16 are computed in
        float32 and rounded once.

    Raises:
        DynError: shapes, dtypes or attributes do not fit, or filter_norm with a kernel of one tap.
    """
    if combine not in ("mul", "add"):
        raise DynError(f"decoupled_dynamic_filter: combine={combine!r}.", fix='combine="mul" or combine="add"')
    kernel = pair(kernel_size)
    reference.check_taps(kernel[0] * kernel[1], filter_norm)
    return _op(
        x,
        channel_filter,
        spatial_filter,
        x.new_ones(channel_filter.shape[1:]) if channel_gain is None else channel_gain,
        kernel,
        pair(stride),
        four_pads(padding),
        pair(dilation),
        heads,
        scale,
        combine == "add",
        filter_norm,
        spatial_gain,
        relu,
    )
