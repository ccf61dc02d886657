"""Seeded inputs of the operator."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

Draw = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


@pytest.fixture(scope="session")
def draw() -> Draw:
    """A function that draws x, channel_filter, spatial_filter and channel_gain in float64."""

    def draw_tensors(
        n: int = 2,
        c: int = 4,
        size: Sequence[int] = (6, 7),
        *,
        kernel_size: Sequence[int] = (3, 3),
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
        dilation: Sequence[int] = (1, 1),
        heads: int = 1,
        scale: int = 1,
        seed: int = 0,
        **_: object,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        padded = (size[0] + padding[0] + padding[2], size[1] + padding[1] + padding[3])
        plain = torch.nn.functional.conv2d(
            torch.empty(1, 1, *padded, device="meta"),
            torch.empty(1, 1, *kernel_size, device="meta"),
            stride=tuple(stride),
            dilation=tuple(dilation),
        )
        taps = scale * scale * kernel_size[0] * kernel_size[1]
        return (
            normal(n, c, *size),
            normal(n, c * taps),
            normal(n, heads * taps, *plain.shape[2:]),
            normal(c * taps),
        )

    return draw_tensors
