"""The network of the demo: five dynamic layers in a row, each where it makes sense."""

from __future__ import annotations

from torch import Tensor, nn

from dyndeploy import nn as dyn


class DigitsNet(nn.Module):
    """A classifier of 32x32 images with one of each dynamic layer.

    Args:
        classes: number of classes.
        width: channels of the stem; the later stages have twice and four times as many. A multiple of 4.

    Shape:
        [N, 1, 32, 32] -> [N, classes] logits.

    Example:
        >>> import torch
        >>> DigitsNet().eval()(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        wide, widest = 2 * width, 4 * width
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        # Context: a pixel is calibrated by what its 4x4 surroundings contain.
        self.calibrate = dyn.SCConv2d(width)
        # Geometry: strokes are slanted and bent, the sampling grid follows them.
        self.bend = nn.Sequential(
            dyn.ModulatedDeformConv2d(width, wide, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
        )
        # One filter per pixel and per channel, cheaply; DDF is depth-wise, so it keeps the channels.
        self.filter = nn.Sequential(dyn.DDF(wide), nn.BatchNorm2d(wide), nn.ReLU())
        # Paper, stroke and edge are regions with filters of their own.
        self.region = nn.Sequential(
            dyn.DRConv2d(wide, wide, 3, padding=1, bias=False, regions=4, bases=4),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
        )
        # Each image drops the channels that it does not need. The layer begins with a BatchNorm and a ReLU.
        self.select = nn.Sequential(
            dyn.DGConv2d(wide, widest, 3, padding=1, keep=0.5), nn.BatchNorm2d(widest), nn.ReLU()
        )
        self.classify = nn.Linear(widest, classes)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 1, 32, 32] -> logits [N, classes]."""
        x = self.stem(images)
        x = (x + self.calibrate(x)).relu()
        x = self.bend(x)
        x = x + self.filter(x)
        x = x + self.region(x)
        x = self.select(x)
        logits: Tensor = self.classify(x.mean((2, 3)))
        return logits


def dynamic_layers(network: nn.Module) -> tuple[str, ...]:
    """Class names of the layers from `dyndeploy.nn`, in order."""
    classes = tuple(getattr(dyn, name) for name in dyn.__all__)
    return tuple(type(layer).__name__ for layer in network.modules() if isinstance(layer, classes))
