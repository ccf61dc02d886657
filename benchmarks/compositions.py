"""The operators as code in torch composes them, after their papers' code: what else a network can be trained with.

Each takes a problem and the operator's tensors in their order, on any device, and gives Y; autograd differentiates it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from problems import HEADS, Problem
from torch import Tensor
from torch.nn import functional as F


def deform_conv(problem: Problem, x: Tensor, offset_mask: Tensor, weight: Tensor, bias: Tensor) -> Any:
    """torchvision's operator, behind the sigmoid of the masks."""
    from torchvision import ops

    offset, mask = offset_mask[:, :18], offset_mask[:, 18:].sigmoid()
    return ops.deform_conv2d(x, offset, weight, bias, stride=problem.stride, padding=1, mask=mask)


def unfold(problem: Problem, x: Tensor, channel: Tensor, spatial: Tensor, gain: Tensor) -> Any:
    """Nine shifted copies of the map, times both filters, summed."""
    n, c = problem.shape[:2]
    columns = F.unfold(x, 3, padding=1, stride=problem.stride).view(n, c, 9, *spatial.shape[2:])
    per_channel = filter_norm(channel.view(n, c, 9), 2) * gain.view(c, 9)
    return (columns * per_channel[..., None, None] * filter_norm(spatial, 1)[:, None]).sum(2)


def filter_norm(filters: Tensor, axis: int) -> Tensor:
    """DDF's FilterNorm without its gain."""
    centred = filters - filters.mean(axis, keepdim=True)
    return centred / (filters.std(axis, keepdim=True) + 1e-10)


def select(problem: Problem, x: Tensor, filters: Tensor, guide: Tensor, bias: Tensor) -> Any:
    """The convolution of every region everywhere, as one grouped convolution, then the choice."""
    return _select(problem, x, filters, guide, bias)[0]


def select_softly(problem: Problem, x: Tensor, filters: Tensor, guide: Tensor, bias: Tensor) -> Any:
    """`select`, with the gradient of a soft choice for the guide (eq. 6-8 of the paper)."""
    y, everything = _select(problem, x, filters, guide, bias)
    soft = (everything.detach() * guide.softmax(1)[:, :, None]).sum(1)
    return y + (soft - soft.detach())


def _select(problem: Problem, x: Tensor, filters: Tensor, guide: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    n, c, h, w = problem.shape
    regions = guide.shape[1]
    weight, biases = filters.reshape(-1, c, 3, 3), bias.repeat(n * regions)
    everything = F.conv2d(x.reshape(1, n * c, h, w), weight, biases, problem.stride, 1, 1, n)
    everything = everything.view(n, regions, c, *guide.shape[2:])
    chosen = guide.argmax(1)[:, None, None].expand(-1, -1, c, -1, -1)
    return everything.gather(1, chosen)[:, 0], everything


def sorted_rows(problem: Problem, x: Tensor, filters: Tensor, guide: Tensor, bias: Tensor) -> Any:
    """Windows sorted by sample and region, and one grouped product of torch: what mixtures of experts run on."""
    n, c = problem.shape[:2]
    regions, (ho, wo) = guide.shape[1], guide.shape[2:]
    region = guide.argmax(1).flatten(1) + regions * torch.arange(n, device=x.device)[:, None]
    order = region.flatten().argsort()
    ends = torch.bincount(region.flatten(), minlength=n * regions).cumsum(0).to(torch.int32)
    rows = F.unfold(x, 3, padding=1, stride=problem.stride).transpose(1, 2).reshape(n * ho * wo, 9 * c)
    banks = filters.reshape(n * regions, -1, 9 * c).transpose(1, 2)
    products = torch._grouped_mm(rows[order], banks, offs=ends)
    y = torch.empty_like(products).index_copy_(0, order, products)
    return (y + bias).view(n, ho, wo, -1).permute(0, 3, 1, 2)


def masked(problem: Problem, x: Tensor, saliency: Tensor, weight: Tensor, bias: Tensor) -> Any:
    """The official form: the gated maps of all heads side by side, one dense grouped convolution, a shuffle."""
    n, c = problem.shape[:2]
    inactive = problem.case.attributes["inactive"]
    gated = []
    for s in saliency.view(n, HEADS, c).unbind(1):
        limit = s.topk(inactive, 1, largest=False, sorted=True).values[:, -1:]
        gated.append(x * s.masked_fill(s <= limit, 0)[..., None, None])
    y = F.conv2d(torch.cat(gated, 1), weight, bias, problem.stride, 1, 1, HEADS)
    return y.view(n, HEADS, c // HEADS, *y.shape[2:]).transpose(1, 2).reshape(y.shape)


#: Operator -> what a training step of it is measured against.
LEARNING: dict[str, Callable[..., Any]] = {
    "dcnv2": deform_conv,
    "ddf": unfold,
    "drconv": select_softly,
    "dgc": masked,
}
