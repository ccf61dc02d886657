"""`torch.ops.dyndeploy.mixed_region_aware_conv2d` and its function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dyndeploy.ops._spec import spec_of
from dyndeploy.ops._torch import four_pads, pair, register
from dyndeploy.ops.drconv import op, reference_mix

SPEC = spec_of("drconv_mix")


def _backward(
    grad: Tensor,
    x: Tensor,
    share: Tensor,
    banks: Tensor,
    guide: Tensor,
    bias: Tensor,
    *,
    needs: tuple[bool, ...],
    **attributes: Any,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, share, banks, guide and bias: the convolution's with filters mixed again, then the mixture's.

    The filters of all samples are there while it runs. The convolution's gradients come from its own kernels, where
    there are some.
    """
    filters = reference_mix.mix(share, banks, bias.shape[0])
    of_convolution = [needs[0], needs[1] or needs[2], needs[3], needs[4]]
    values = [attributes[a.torch_name] for a in op.SPEC.attributes]
    backward = torch.ops.dyndeploy.dynamic_region_aware_conv2d_backward
    grads: list[Tensor] = backward(grad, x, filters, guide, bias, of_convolution, *values)
    grad_share = grad_banks = None
    if of_convolution[1]:
        grad_share, grad_banks = reference_mix.mixture_backward(grads[1], share, banks)
    every = (grads[0], grad_share, grad_banks, grads[2], grads[3])
    return tuple(g if need else None for g, need in zip(every, needs))


_op = register(SPEC, reference_mix.forward, _backward)


def mixed_region_aware_conv2d(
    x: Tensor,
    share: Tensor,
    banks: Tensor,
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
    """Dynamic region-aware convolution with filters that are mixed of shared banks (official code of DRConv).

    W[n,t] = sum over j of share[n,t,j] * banks[j]
    y[n,:,u,v] = b + W[n, M[n,u,v]] * patch(x[n], u, v),  M[n,u,v] = argmax over t of guide[n,t,u,v]

    The same as `dynamic_region_aware_conv2d` with W, which as a tensor is regions / bases times the banks for every
    sample: here it never becomes one.

    Args:
        x: [N, C, H, W].
        share: [N, m, bases].
        banks: [bases*O, C*K], one filter bank per base: rows [base][O], columns [C][tap], K = kh*kw taps row-major.
        guide: [N, m, Ho, Wo] logits; the first of equal ones wins.
        bias: [O] or None; shared by all regions.
        kernel_size, stride, dilation: one int or (h, w).
        padding: one int, (h, w) or (top, left, bottom, right).
        regions: number of regions m, 1 to 32.
        relu: apply max(y, 0).

    Returns:
        [N, O, Ho, Wo], dtype of x. float16 and bfloat16 are computed in float32 and rounded once; a GPU rounds one
        factor of every product besides.

    Raises:
        DynError: shapes, dtypes or attributes do not fit.
    """
    if bias is None:
        bases = share.shape[2] if share.dim() == 3 else 1  # another shape is the op's to refuse
        bias = banks.new_zeros(banks.shape[0] // max(bases, 1))
    return _op(
        x,
        share,
        banks,
        guide,
        bias,
        pair(kernel_size),
        pair(stride),
        four_pads(padding),
        pair(dilation),
        regions,
        relu,
    )
