"""What all layers check alike: arguments when they are made, the input before their predictors read it.

The ops check everything too, but a layer's own convolutions come first, and torch's errors do not name the layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dyndeploy.errors import DynError
from dyndeploy.ops._spec import output_size
from dyndeploy.ops._torch import four_pads, pair


def check_arguments(layer: str, *, padding: int | Sequence[int] = 0, **positive: int | Sequence[int]) -> None:
    """Raise DynError when the padding is negative, or another argument is not positive; each is one int or (h, w)."""
    if min(pair(padding)) < 0:
        raise DynError(f"{layer}: padding={padding!r} is negative.")
    for name, value in positive.items():
        if min(pair(value)) < 1:
            raise DynError(f"{layer}: {name}={value!r} is not positive.")


def check_input(layer: str, x: Tensor, channels: int, *, name: str = "input") -> None:
    """Raise DynError when x is not [N, channels, H, W]."""
    if x.dim() != 4 or x.shape[1] != channels:
        raise DynError(f"{layer}: the {name} has shape {list(x.shape)}, expected [N, {channels}, H, W].")


def check_fits(
    layer: str, x: Tensor, *, kernel_size: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> None:
    """Raise DynError when not one window fits into x [N, C, H, W], padded."""
    output_size(layer, x.shape[2:], kernel_size, (1, 1), four_pads(padding), dilation)
