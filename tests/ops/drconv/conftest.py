"""Seeded inputs of the operator."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

Draw = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


@pytest.fixture(scope="session")
def draw() -> Draw:
    """A function that draws x, filters, guide and bias in float64.

    Logits are multiples of a half, from -1.5 to 1.5: no dtype changes a choice, and ties are frequent.
    """

    def draw_tensors(
        n: int = 2,
        c: int = 3,
        o: int = 5,
        size: Sequence[int] = (7, 6),
        kernel_size: Sequence[int] = (3, 3),
        *,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
        dilation: Sequence[int] = (1, 1),
        regions: int = 8,
        seed: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        top, left, bottom, right = padding
        padded = torch.empty(1, 1, size[0] + top + bottom, size[1] + left + right, device="meta")
        plain = torch.nn.functional.conv2d(
            padded,
            torch.empty(1, 1, *kernel_size, device="meta"),
            stride=tuple(stride),
            dilation=tuple(dilation),
        )
        guide = torch.randint(-3, 4, (n, regions, *plain.shape[2:]), generator=generator).double() / 2
        filters = normal(n, regions * o, c * kernel_size[0] * kernel_size[1])
        return normal(n, c, *size), filters, guide, normal(o)

    return draw_tensors
