"""SCNet: residual networks of self-calibrated convolutions (Liu et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dyndeploy.errors import DynError
from dyndeploy.models.registry import register, variant
from dyndeploy.models.resnet import DEPTHS, Place, ResidualBlock, ResNet, projection
from dyndeploy.nn import SCConv2d

_POOLING = 4


class SCBottleneck(ResidualBlock):
    """Two halves made by 1x1 convolutions: a plain 3x3 (K1) and a self-calibrated one; a 1x1 joins them.

    Modules are named as in the official code.

    Args:
        place: where it stands.
        average_down: halve the resolution by averages, in both halves and in the shortcut (the "v1d" networks).
    """

    expansion = 4

    def __init__(self, place: Place, average_down: bool = False) -> None:
        super().__init__()
        half, out_channels = place.planes // 2, place.planes * self.expansion
        # The official "v1d" averages in the first block of stages 2 to 4, also with a dilation for the stride.
        average = average_down and (place.stride > 1 or (place.opens and place.stage > 1))
        stride = 1 if average else place.stride
        self.conv1_a = nn.Conv2d(place.in_channels, half, 1, bias=False)
        self.bn1_a = nn.BatchNorm2d(half)
        self.conv1_b = nn.Conv2d(place.in_channels, half, 1, bias=False)
        self.bn1_b = nn.BatchNorm2d(half)
        self.k1 = nn.Sequential(
            nn.Conv2d(half, half, 3, stride, place.dilation, place.dilation, bias=False), nn.BatchNorm2d(half)
        )
        self.scconv = SCConv2d(half, stride, place.dilation, pooling=_POOLING)
        self.average = nn.AvgPool2d(3, place.stride, padding=1) if average else None
        self.conv3 = nn.Conv2d(2 * half, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = projection(place, out_channels, average=average_down)

    def branch(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, 4*planes, ceil(H/stride), ceil(W/stride)]."""
        plain = self.k1(self.bn1_a(self.conv1_a(x)).relu())
        calibrated = self.scconv(self.bn1_b(self.conv1_b(x)).relu())
        halves = torch.cat([plain, calibrated], dim=1).relu()
        if self.average is not None:
            halves = self.average(halves)
        y: Tensor = self.bn3(self.conv3(halves))
        return y


@register
def scnet50(
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    features_only: bool = False,
    dilated: bool = False,
    dilation: int = 1,
    average_down: bool = False,
    stem_width: int = 0,
    width: int = 64,
    layers: Sequence[int] = DEPTHS[50],
) -> ResNet:
    """SCNet-50: 25,564,584 parameters.

    The pooling by 4 needs maps of 4x4 pixels, in the last stage too: images from 97x97.

    Args:
        num_classes, in_channels, features_only, width, layers, stem_width: as in `ResNet`.
        dilated: for dense prediction, the last two strides become dilations of 2 and 4: a stride of 8.
        dilation: 4 is `dilated=True`; 2 turns the last stride into a dilation: a stride of 16.
        average_down: halve the resolution by averages (the "v1d" networks).

    Raises:
        DynError: an argument is out of range.
    """
    if dilation not in (1, 2, 4):
        raise DynError(f"dilation={dilation}.", fix="1, 2 or 4")
    if width % 2:
        raise DynError(f"width={width} is odd.", why="A block has two halves.")
    return ResNet(
        lambda place: SCBottleneck(place, average_down),
        layers,
        num_classes=num_classes,
        in_channels=in_channels,
        features_only=features_only,
        width=width,
        output_stride=8 if dilated or dilation == 4 else 32 // dilation,
        stem_width=stem_width,
        minimum_map=_POOLING,
    )


scnet101 = variant(scnet50, "scnet101", "SCNet-101, 44,565,416 parameters", layers=DEPTHS[101])
scnet50_v1d = variant(
    scnet50,
    "scnet50_v1d",
    "SCNet-50 with a stem of three 3x3 convolutions and averages in place of strides, 25,583,816 parameters",
    average_down=True,
    stem_width=32,
)
scnet101_v1d = variant(
    scnet50,
    "scnet101_v1d",
    "SCNet-101 with a stem of three 3x3 convolutions (64, 64, 128 channels) and averages in place of strides",
    layers=DEPTHS[101],
    average_down=True,
    stem_width=64,
)
