"""Dynamic region-aware convolution with mixed filters in plain torch: what all implementations are compared with.

The mixture of the official code of Chen et al., "Dynamic Region-Aware Convolution", CVPR 2021.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dyndeploy.ops.drconv import reference


def mix(share: Tensor, banks: Tensor, channels: int) -> Tensor:
    """filters[n,t] = sum over j of share[n,t,j] * banks[j].

    Args:
        share: [N, m, bases].
        banks: [bases*O, C*K], rows [base][O].
        channels: O.

    Returns:
        [N, m*O, C*K], rows [region][O].
    """
    n, regions, bases = share.shape
    return (share @ banks.reshape(bases, -1)).reshape(n, regions * channels, banks.shape[1])


def forward(x: Tensor, share: Tensor, banks: Tensor, guide: Tensor, bias: Tensor, **attributes: Any) -> Tensor:
    """`reference.forward` with the mixed filters.

    Args:
        x: [N, C, H, W].
        share: [N, m, bases].
        banks: [bases*O, C*K], [base][O] rows over [C][tap].
        guide: [N, m, Ho, Wo] logits; the first of equal ones wins.
        bias: [O], shared by all regions.
        **attributes: as for `reference.forward`.

    Returns:
        [N, O, Ho, Wo] in the dtype of x.
    """
    return reference.forward(x, mix(share, banks, bias.shape[0]), guide, bias, **attributes)


def mixture_backward(grad_filters: Tensor, share: Tensor, banks: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of share and banks from that of the filters [N, m*O, C*K]."""
    n, regions, bases = share.shape
    grad = grad_filters.reshape(n, regions, banks.numel() // bases)
    grad_share = grad @ banks.reshape(bases, -1).mT
    grad_banks = share.flatten(0, 1).mT @ grad.flatten(0, 1)
    return grad_share, grad_banks.reshape(banks.shape)
