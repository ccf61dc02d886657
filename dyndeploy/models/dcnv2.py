"""Residual networks with modulated deformable convolutions (Zhu et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dyndeploy.errors import DynError
from dyndeploy.models.registry import register, variant
from dyndeploy.models.resnet import DEPTHS, Bottleneck, Place, ResNet, Style
from dyndeploy.nn import ModulatedDeformConv2d


@register
def resnet50_dcnv2(
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    features_only: bool = False,
    modulated: bool = True,
    stages: Sequence[int] = (3, 4, 5),
    offset_groups: int = 1,
    mask_scale: float = 1.0,
    style: Style = "pytorch",
    output_stride: int = 32,
    width: int = 64,
    layers: Sequence[int] = DEPTHS[50],
) -> ResNet:
    """ResNet-50 whose 3x3 convolutions of conv3 to conv5 are deformable: 871,263 parameters in the predictors.

    Args:
        num_classes, in_channels, features_only, width, layers, output_stride: as in `ResNet`.
        modulated: False is DCNv1, offsets without masks.
        stages: conv2 to conv5, in the numbers of the paper; DCNv1's own network has (5,).
        offset_groups: channel groups with offsets of their own (mmdetection also ships 4).
        mask_scale: 2.0 for weights trained with the original MXNet code.
        style: "pytorch" has the stride in the 3x3 (mmdetection), "caffe" in the 1x1 (detectron2's default).

    Raises:
        DynError: an argument is out of range.

    Example:
        >>> plain, deformable = resnet50_dcnv2(stages=()), resnet50_dcnv2()
        >>> sum(p.numel() for p in deformable.parameters()) - sum(p.numel() for p in plain.parameters())
        871263
    """
    if not set(stages) <= {2, 3, 4, 5}:
        raise DynError(f"stages={tuple(stages)}.", why="They are conv2 to conv5 of the paper.", fix="stages=(3, 4, 5)")
    if style not in ("pytorch", "caffe"):
        raise DynError(f"style={style!r}.", fix='style="pytorch" or style="caffe"')

    def deformable(channels: int, stride: int, dilation: int) -> nn.Module:
        return ModulatedDeformConv2d(
            channels,
            channels,
            3,
            stride,
            dilation,
            dilation,
            offset_groups=offset_groups,
            bias=False,
            modulated=modulated,
            mask_scale=mask_scale,
        )

    def block(place: Place) -> Bottleneck:
        return Bottleneck(place, deformable if place.stage + 1 in stages else None, style)

    return ResNet(
        block,
        layers,
        num_classes=num_classes,
        in_channels=in_channels,
        features_only=features_only,
        width=width,
        output_stride=output_stride,
    )


resnet101_dcnv2 = variant(
    resnet50_dcnv2,
    "resnet101_dcnv2",
    "ResNet-101 with deformable convolutions, 1,929,258 parameters in the predictors",
    layers=DEPTHS[101],
)
