"""Residual networks of decoupled dynamic filters (Zhou et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from dyndeploy.models.registry import register, variant
from dyndeploy.models.resnet import DEPTHS, Bottleneck, ResNet
from dyndeploy.nn import DDF


@register
def ddf_resnet50(
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    features_only: bool = False,
    combine: Literal["mul", "add"] = "mul",
    se_ratio: float = 0.2,
    zero_init_last: bool = True,
    output_stride: int = 32,
    width: int = 64,
    layers: Sequence[int] = DEPTHS[50],
) -> ResNet:
    """ResNet-50 with a DDF in place of every 3x3 convolution: 16,843,748 parameters.

    H and W are multiples of `output_stride`, or up to three pixels less: as the official filter, which takes no odd map
    with a stride of 2.

    Args:
        num_classes, in_channels, features_only, width, layers, output_stride: as in `ResNet`.
        combine: "mul" (paper) or "add" (an option of the official code).
        se_ratio: hidden channels of the channel branch, as a share of the layer's.
        zero_init_last: the last BatchNorm of a block starts at zero, as in the official training.

    Raises:
        DynError: an argument is out of range.
    """

    def dynamic(channels: int, stride: int, dilation: int) -> nn.Module:
        return DDF(channels, 3, stride, dilation, se_ratio=se_ratio, combine=combine)

    network = ResNet(
        lambda place: Bottleneck(place, dynamic),
        layers,
        num_classes=num_classes,
        in_channels=in_channels,
        features_only=features_only,
        width=width,
        output_stride=output_stride,
        size_multiple=output_stride,
    )
    if zero_init_last:
        for block in network.modules():
            if isinstance(block, Bottleneck):
                nn.init.zeros_(block.bn3.weight)
    return network


ddf_resnet101 = variant(
    ddf_resnet50, "ddf_resnet101", "ResNet-101 with DDFs, 28,146,912 parameters", layers=DEPTHS[101]
)
ddf_resnet152 = variant(
    ddf_resnet50, "ddf_resnet152", "ResNet-152 with DDFs, 37,462,900 parameters", layers=DEPTHS[152]
)
