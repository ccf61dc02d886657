"""Seeded inputs of the operator."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

Draw = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


@pytest.fixture(scope="session")
def draw() -> Draw:
    """A function that draws x, offset_mask, weight and bias; `spread` is the offsets' deviation in pixels."""

    def draw_tensors(
        n: int = 2,
        c: int = 4,
        o: int = 6,
        size: Sequence[int] = (7, 6),
        kernel: Sequence[int] = (3, 3),
        *,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
        offset_groups: int = 1,
        spread: float = 1.5,
        seed: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        top, left, bottom, right = padding
        padded = torch.empty(1, 1, size[0] + top + bottom, size[1] + left + right, device="meta")
        plain = torch.nn.functional.conv2d(
            padded, torch.empty(1, 1, *kernel, device="meta"), stride=tuple(stride), dilation=tuple(dilation)
        )
        masks = offset_groups * kernel[0] * kernel[1]
        offset_mask = normal(n, 3 * masks, *plain.shape[2:])
        offset_mask[:, : 2 * masks] *= spread
        return normal(n, c, *size), offset_mask, normal(o, c // groups, *kernel), normal(o)

    return draw_tensors
