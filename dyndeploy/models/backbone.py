"""What all backbones share: a classifier's head, or the maps that a detector's neck reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from dyndeploy.errors import DynError
from dyndeploy.nn import DGConv2d, DRConv2d, ModulatedDeformConv2d
from dyndeploy.ops._layer import check_input


class Backbone(nn.Module):
    """Base class: a subclass has `forward_features` and, unless `features_only`, a head and `classify`.

    Attributes:
        features_only: forward returns the maps instead of logits, and there is no head.
        feature_channels: channels of each map.
        feature_strides: input pixels per pixel of each map; the map of stride s has ceil(H/s) rows.
        in_channels: channels of the image.
        minimum_size: smallest H and W.
        size_multiple: H and W are multiples of it; with a `stem_stride` s, or up to s - 1 pixels less, as what counts
            is the map behind the stem, ceil(H/s) rows.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        features_only: bool,
        feature_channels: Sequence[int],
        feature_strides: Sequence[int],
        minimum_size: int = 1,
        size_multiple: int = 1,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels, self.stem_stride = in_channels, stem_stride
        self.features_only = features_only
        self.feature_channels, self.feature_strides = tuple(feature_channels), tuple(feature_strides)
        self.minimum_size, self.size_multiple = minimum_size, size_multiple

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """[N, C, H, W] -> one map per entry of `feature_channels`, the finest first."""
        raise NotImplementedError

    def classify(self, x: Tensor) -> Tensor:
        """The last map -> logits [N, classes]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """[N, C, H, W] -> logits [N, classes], or with `features_only` the maps.

        Raises:
            DynError: H or W is smaller than `minimum_size` or no multiple of `size_multiple`.
        """
        self._check_size(x)
        maps = self.forward_features(x)
        return maps if self.features_only else self.classify(maps[-1])

    def _check_size(self, x: Tensor) -> None:
        network = type(self).__name__
        check_input(network, x, self.in_channels)
        if torch.compiler.is_exporting():
            return  # sizes are symbols then; the bundle's dims say which ones may come
        (height, width), small, step = x.shape[2:], self.minimum_size, self.size_multiple
        if min(height, width) < small:
            raise DynError(
                f"{network}: the input is {height}x{width}, smaller than {small}x{small}.",
                why="Nothing would be left for the last stage.",
                fix=f"Enlarge the image to {max(height, small)}x{max(width, small)} or more.",
            )
        rest = max(1, step // self.stem_stride)
        if any(-(-size // self.stem_stride) % rest for size in (height, width)):
            padded = "x".join(str(-(-size // step) * step) for size in (height, width))
            raise DynError(
                f"{network}: {height}x{width} are not multiples of {step}.",
                why="As in the official code: its maps are halved without a remainder.",
                fix=f"torch.nn.functional.pad(x, (0, right, 0, bottom)) to {padded}",
            )


def outputs_of(stages: Iterable[nn.Module], x: Tensor) -> tuple[Tensor, ...]:
    """What each of some modules in a row makes of x."""
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return tuple(maps)


def init_convolutions(network: nn.Module) -> None:
    """He et al.'s normal weights by fan-out, for every convolution outside of layers that initialise themselves."""
    own = (ModulatedDeformConv2d, DRConv2d, DGConv2d)
    inside = {id(m) for layer in network.modules() if isinstance(layer, own) for m in layer.modules()}
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and id(module) not in inside:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, DGConv2d):
            # The official code initialises the convolution of each head, O/heads x C, on its own.
            fan_out = module.weight[:, 0].numel() / module.heads
            nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5)
