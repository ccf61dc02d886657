"""`torch.ops.dyndeploy.modulated_deform_conv2d` and its function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dyndeploy.ops._spec import spec_of
from dyndeploy.ops._torch import four_pads, pair, register
from dyndeploy.ops.dcnv2 import reference

if TYPE_CHECKING:
    from torch.export import ExportedProgram

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
        [N, O, Ho, Wo], dtype of x. float16 and bfloat16 are computed in float32 (coordinates too) and rounded once;
        on a GPU, the factors of the products are of the dtype of x. There float32 products use TF32 where those of
        `torch.nn.Conv2d` do, torch's default: `torch.backends.cudnn.conv.fp32_precision = "ieee"` ends it.

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


def with_masks_of_one(offset: Tensor) -> Tensor:
    """[N, 2*G*K, Ho, Wo] offsets -> [N, 3*G*K, Ho, Wo]: DCNv1 is this op, without the sigmoid.

    The export widens the convolution that predicts the offsets instead (WidenPredictor).
    """
    mask = offset.new_ones(1).expand(offset.shape[0], offset.shape[1] // 2, *offset.shape[2:])
    return torch.cat([offset, mask], dim=1)


def decompose_torchvision(program: ExportedProgram) -> ExportedProgram:
    """Rewrite calls of torchvision.ops.deform_conv2d as this op, so that models which use it are exported unchanged.

    torchvision takes offsets and masks apart, and no mask for DCNv1.
    """
    namespace = getattr(torch.ops, "torchvision", None)
    overload = getattr(getattr(namespace, "deform_conv2d", None), "default", None)
    if overload is None or all(node.target is not overload for node in program.graph.nodes):
        return program
    decomposed: ExportedProgram = program.run_decompositions({overload: torchvision_deform_conv2d})
    return decomposed


def torchvision_deform_conv2d(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor,
    bias: Tensor,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Tensor:
    """torchvision's op in terms of this one; its arguments are those of `torch.ops.torchvision.deform_conv2d`."""
    return modulated_deform_conv2d(
        x,
        torch.cat([offset, mask], dim=1) if use_mask else with_masks_of_one(offset),
        weight,
        bias,
        stride=(stride_h, stride_w),
        padding=(pad_h, pad_w),
        dilation=(dilation_h, dilation_w),
        groups=groups,
        offset_groups=offset_groups,
        sigmoid=False,
    )
