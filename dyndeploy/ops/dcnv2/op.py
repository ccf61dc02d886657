"""`torch.ops.dyndeploy.modulated_deform_conv2d` and its function."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dyndeploy.ops._spec import spec_of
from dyndeploy.ops._torch import four_pads, pair, register
from dyndeploy.ops.dcnv2 import reference

SPEC = spec_of("dcnv2")
_op = register(SPEC, reference.forward, reference.backward)


def modulated_deform_conv2d(
    x: Tensor,
    offset_mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    offset_groups: int = 1,
    sigmoid: bool = True,
    mask_scale: float = 1.0,
    relu: bool = False,
) -> Tensor:
    """Modulated deformable convolution, DCNv2 (Zhu et al., CVPR 2019, eq. 1).

    y[n,o,i,j] = b[o] + sum over c, t of w[o,c,t] * bilinear(x[n,c], p(i,j,t) + offset[n,g,t,i,j]) * mask[n,g,t,i,j]

    Args:
        x: [N, C, H, W].
        offset_mask: [N, 3*G*K, Ho, Wo], the raw output of a predictor: 2*G*K offsets in input pixels, (y, x)
            interleaved per tap, then G*K mask logits. K = kh*kw taps, row-major; G = offset_groups.
        weight: [O, C/groups, kh, kw].
        bias: [O] or None.
        stride, dilation: one int or (h, w).
        padding: one int, (h, w) or (top, left, bottom, right).
        groups: groups of the convolution; divides C and O.
        offset_groups: channel groups with offsets of their own; divides C; independent of `groups`.
        sigmoid, mask_scale: mask = mask_scale * sigmoid(m), or mask_scale * m without the sigmoid.
        relu: apply max(y, 0).

    Returns:
        [N, O, Ho, Wo], dtype of x. float16 and bfloat16 are computed in float32 (coordinates too) and rounded once.

    Raises:
        DynError: shapes, dtypes or attributes do not fit.
    """
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    return _op(
        x,
        offset_mask,
        weight,
        bias,
        pair(stride),
        four_pads(padding),
        pair(dilation),
        groups,
        offset_groups,
        sigmoid,
        mask_scale,
        relu,
    )
