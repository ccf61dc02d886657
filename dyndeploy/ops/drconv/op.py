"""`torch.ops.dyndeploy.dynamic_region_aware_conv2d` and its function."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dyndeploy.ops._spec import spec_of
from dyndeploy.ops._torch import four_pads, pair, register
from dyndeploy.ops.drconv import reference

SPEC = spec_of("drconv")
_op = register(SPEC, reference.forward, reference.backward)


def dynamic_region_aware_conv2d(
    x: Tensor,
    filters: Tensor,
    guide: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    regions: int = 8,
    relu: bool = False,
) -> Tensor:
    """Dynamic region-aware convolution, DRConv (Chen et al., CVPR 2021).

    y[n,:,u,v] = b + W[n, M[n,u,v]] * patch(x[n], u, v),  M[n,u,v] = argmax over t of guide[n,t,u,v]

    The choice has no derivative: the guide learns by the paper's softmax surrogate (eq. 6-8), x and the
    filters through the chosen region.

    Args:
        x: [N, C, H, W].
        filters: [N, m*O, C*K], one filter bank per sample and region: rows [region][O], columns [C][tap],
            K = kh*kw taps row-major.
        guide: [N, m, Ho, Wo] logits; the first of equal ones wins.
        bias: [O] or None; shared by all regions.
        kernel_size, stride, dilation: one int or (h, w).
        padding: one int, (h, w) or (top, left, bottom, right).
        regions: number of regions m, 1 to 32.
        relu: apply max(y, 0).

    Returns:
        [N, O, Ho, Wo], dtype of x. float16 and bfloat16 are computed in float32 and rounded once.

    Raises:
        DynError: shapes, dtypes or attributes do not fit.
    """
    if bias is None:
        bias = filters.new_zeros(filters.shape[1] // max(regions, 1))  # regions < 1 is the op's to refuse
    return _op(
        x,
        filters,
        guide,
        bias,
        pair(kernel_size),
        pair(stride),
        four_pads(padding),
        pair(dilation),
        regions,
        relu,
    )
