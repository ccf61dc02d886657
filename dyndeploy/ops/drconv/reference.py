"""Dynamic region-aware convolution in plain torch: the truth that all implementations are compared with.

Chen et al., "Dynamic Region-Aware Convolution", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def regions_of(guide: Tensor) -> Tensor:
    """The region of every output pixel: int64 [N, Ho, Wo] from logits [N, m, Ho, Wo].

    M[n,u,v] = argmax over t of guide[n,t,u,v]. The first of equal logits wins, as torch.max promises.
    """
    return guide.max(dim=1).indices


def forward(
    x: Tensor,
    filters: Tensor,
    guide: Tensor,
    bias: Tensor,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    regions: int,
    relu: bool,
) -> Tensor:
    """y[n,:,u,v] = b + W[n, M[n,u,v]] * patch(x[n], u, v), M = argmax over the regions of the guide.

    The filter is that of the output pixel; the window may reach into other regions.

    Args:
        x: [N, C, H, W].
        filters: [N, m*O, C*K], [region][O] rows over [C][tap]: one filter bank W[n, t] per sample and region.
        guide: [N, m, Ho, Wo] logits; the first of equal ones wins.
        bias: [O], shared by all regions.
        kernel_size, stride, dilation: (h, w).
        padding: (top, left, bottom, right).
        regions: m.
        relu: y = max(y, 0).

    Returns:
        [N, O, Ho, Wo] in the dtype of x.
    """
    responses = _responses(filters, _columns(x, kernel_size, stride, padding, dilation), regions)
    y = responses.gather(1, _selection(guide, responses.shape[2])).squeeze(1)
    y = y.reshape(x.shape[0], bias.shape[0], *guide.shape[2:]) + bias[:, None, None]
    return y.relu() if relu else y


def backward(
    grad: Tensor,
    x: Tensor,
    filters: Tensor,
    guide: Tensor,
    bias: Tensor,
    *,
    needs: tuple[bool, ...],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    regions: int,
    relu: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, filters, guide and bias; `grad` is that of the output before the ReLU.

    x and filters learn through the chosen region only. The guide learns as if the output were the soft choice
    sum_t F[t] * (W[t] * x), F = softmax_t(guide) (eq. 6-8): with g[t] = <grad, W[t] * x> per pixel,
    d guide[t] = F[t] * (g[t] - sum_s F[s] * g[s]). The bias, the same in all regions, cancels in it.
    """
    columns = _columns(x, kernel_size, stride, padding, dilation)
    rows = grad.flatten(2)[:, None]
    chosen = rows.new_zeros(x.shape[0], regions, *rows.shape[2:])
    chosen = chosen.scatter_(1, _selection(guide, bias.shape[0]), rows).flatten(1, 2)

    grad_x = grad_filters = grad_guide = None
    if needs[0]:
        height, width = x.shape[2:]
        top, left, bottom, right = padding
        padded = (height + top + bottom, width + left + right)
        windows = filters.transpose(1, 2) @ chosen
        grad_x = F.fold(windows, padded, tuple(kernel_size), tuple(dilation), stride=tuple(stride))
        grad_x = grad_x[:, :, top : top + height, left : left + width]
    if needs[1]:
        grad_filters = chosen @ columns.transpose(1, 2)
    if needs[2]:
        share = guide.softmax(1).flatten(2)
        g = (rows * _responses(filters, columns, regions)).sum(2)
        grad_guide = share * (g - (share * g).sum(1, keepdim=True))
    return grad_x, grad_filters, grad_guide, grad.sum((0, 2, 3)) if needs[3] else None


def _columns(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """All windows of x: [N, C*K, Ho*Wo]."""
    top, left, bottom, right = padding
    return F.unfold(F.pad(x, (left, right, top, bottom)), tuple(kernel_size), tuple(dilation), stride=tuple(stride))


def _responses(filters: Tensor, columns: Tensor, regions: int) -> Tensor:
    """What every region's filters would give at every pixel: [N, m, O, Ho*Wo]."""
    n, rows, _ = filters.shape
    return (filters @ columns).reshape(n, regions, rows // regions, columns.shape[2])


def _selection(guide: Tensor, channels: int) -> Tensor:
    """The chosen region as an index into [N, m, O, Ho*Wo]: [N, 1, O, Ho*Wo]."""
    return regions_of(guide).flatten(1)[:, None, None].expand(-1, -1, channels, -1)
