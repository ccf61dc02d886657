"""A training step of one operator: what is timed, whoever computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def training_step(function: Callable[..., Any], tensors: list[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """A call of `function` and the gradients of all its tensors, for a seeded gradient of its output."""
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    with torch.no_grad():
        like = function(*leaves)
    direction = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*leaves), leaves, direction)

    return call
