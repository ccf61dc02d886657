"""`torch.ops.dyndeploy.dynamic_group_conv2d` and its function."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dyndeploy.ops._spec import spec_of
from dyndeploy.ops._torch import four_pads, pair, register
from dyndeploy.ops.dgc import reference

SPEC = spec_of("dgc")
_op = register(SPEC, reference.forward, reference.backward)


def dynamic_group_conv2d(
    x: Tensor,
    saliency: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    heads: int = 4,
    inactive: int = 0,
    threshold: float = 0.0,
    shuffle: bool = True,
    relu: bool = False,
) -> Tensor:
    """Dynamic group convolution, DGC (Su et al., ECCV 2020).

    row[i] = bias[i] + weight[i] * (gate[h] x),  gate[h,c] = saliency[h,c] if head h keeps channel c, else 0

    h is the head of row i. It drops the channels whose saliency is <= its `inactive`-th smallest one; ties
    drop more. Only kept channels get a gradient.

    Args:
        x: [N, C, H, W], after BatchNorm and ReLU.
        saliency: [N, heads*C], [head][channel], >= 0 (after a ReLU; negative values are not defined).
        weight: [O, C, kh, kw], rows [head][O/heads].
        bias: [O] or None, in the order of the rows of weight.
        stride, dilation: one int or (h, w).
        padding: one int, (h, w) or (top, left, bottom, right).
        heads: groups of output channels with a gate of their own; divides O.
        inactive: channels dropped per head, 0 to C; -1: those whose saliency is <= threshold (DGC-G).
        threshold: one limit for all heads, read with inactive = -1.
        shuffle: interleave the heads: output channel = row_in_head*heads + head.
        relu: apply max(y, 0).

    Returns:
        [N, O, Ho, Wo], dtype of x. float16 and bfloat16 are computed in float32 and rounded once.

    Raises:
        DynError: shapes, dtypes or attributes do not fit.
    """
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    return _op(
        x,
        saliency,
        weight,
        bias,
        pair(stride),
        four_pads(padding),
        pair(dilation),
        heads,
        inactive,
        threshold,
        shuffle,
        relu,
    )
