"""Seeded inputs of the operator."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

Draw = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


@pytest.fixture(scope="session")
def draw() -> Draw:
    """A function that draws x, saliency, weight and bias in float64.

    Saliencies are multiples of a quarter, from 0 to 1.75: no dtype changes a choice, zeros and ties are
    frequent. `distinct` gives every channel of a head another positive one instead.
    """

    def draw_tensors(
        n: int = 2,
        c: int = 8,
        o: int = 8,
        size: Sequence[int] = (7, 6),
        kernel: Sequence[int] = (3, 3),
        *,
        heads: int = 4,
        distinct: bool = False,
        seed: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        if distinct:
            saliency = (normal(n, heads, c).argsort(dim=2).double() + 1).reshape(n, -1) / 4
        else:
            saliency = torch.randint(0, 8, (n, heads * c), generator=generator).double() / 4
        return normal(n, c, *size).relu(), saliency, normal(o, c, *kernel), normal(o)

    return draw_tensors
