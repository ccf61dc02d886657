"""ResNet-18 and DenseNets with dynamic group convolutions (Su et al., ECCV 2020).

The DenseNets' modules are named as in the official code.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from dyndeploy.errors import DynError
from dyndeploy.models.backbone import Backbone, init_convolutions
from dyndeploy.models.registry import register, variant
from dyndeploy.models.resnet import DEPTHS, Place, ResidualBlock, ResNet
from dyndeploy.nn import DGConv2d
from dyndeploy.ops._layer import check_arguments

#: (in_channels, out_channels, kernel_size, …) -> the layer, with what its network sets already bound.
_Convolution = Callable[..., DGConv2d]


class DGBasicBlock(ResidualBlock):
    """Two 3x3 DGConvs, each with a BatchNorm behind it; the shortcut's 1x1 convolution is one, too.

    The layers are pre-activation, so that conv2 normalises what bn1 has normalised, as in the official code.

    Args:
        place: where it stands.
        convolution: makes a layer.
    """

    expansion = 1

    def __init__(self, place: Place, convolution: _Convolution) -> None:
        super().__init__()
        planes, stride, later = place.planes, place.stride, place.later_dilation
        self.conv1 = convolution(place.in_channels, planes, 3, stride, place.dilation, place.dilation)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = convolution(planes, planes, 3, 1, later, later)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample: nn.Module | None = None
        if stride > 1 or place.in_channels != planes:
            self.downsample = nn.Sequential(convolution(place.in_channels, planes, 1, stride), nn.BatchNorm2d(planes))

    def branch(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, planes, ceil(H/stride), ceil(W/stride)]."""
        x = self.bn1(self.conv1(x)).relu()
        y: Tensor = self.bn2(self.conv2(x))
        return y


@register
def dgc_resnet18(
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    features_only: bool = False,
    heads: int = 4,
    squeeze: int = 16,
    keep: float = 0.45,
    output_stride: int = 32,
    width: int = 64,
    layers: Sequence[int] = DEPTHS[18],
) -> ResNet:
    """ResNet-18 with a DGConv in place of every convolution behind the stem: 12,335,144 parameters.

    Args:
        num_classes, in_channels, features_only, width, layers, output_stride: as in `ResNet`.
        heads, squeeze, keep: as in `DGConv2d`; the official network prunes 55 % of the channels.

    Raises:
        DynError: an argument is out of range.
    """
    convolution = partial(DGConv2d, heads=heads, squeeze=squeeze, keep=keep)
    return ResNet(
        lambda place: DGBasicBlock(place, convolution),
        layers,
        num_classes=num_classes,
        in_channels=in_channels,
        features_only=features_only,
        width=width,
        output_stride=output_stride,
    )


class DenseLayer(nn.Module):
    """A 1x1 DGConv and a grouped 3x3 convolution, behind its BatchNorm and ReLU, add channels to what they read.

    Args:
        in_channels: channels C.
        growth: channels added.
        bottleneck: the 1x1 makes bottleneck * growth channels.
        groups: of the 3x3.
        convolution: makes the DGConv.

    Shape:
        [N, C, H, W] -> [N, C + growth, H, W].
    """

    def __init__(
        self, in_channels: int, growth: int, *, bottleneck: int, groups: int, convolution: _Convolution
    ) -> None:
        super().__init__()
        inner = bottleneck * growth
        self.conv_1 = convolution(in_channels, inner, 1)
        self.conv_2 = nn.Sequential(
            OrderedDict(
                norm=nn.BatchNorm2d(inner),
                relu=nn.ReLU(),
                conv=nn.Conv2d(inner, growth, 3, padding=1, groups=groups, bias=False),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C + growth, H, W]."""
        return torch.cat([x, self.conv_2(self.conv_1(x))], dim=1)


class DenseNet(Backbone):
    """Stem, blocks of `DenseLayer`s with an average pooling by 2 between them, BatchNorm, ReLU, classifier.

    Every pooling rounds down, as in the official code: where a map is odd, the next one has floor(H/2) rows.

    Args:
        stages: layers per block.
        growth: channels that a layer adds, per block; the stem has twice the first.
        num_classes: of the classifier.
        in_channels: of the image.
        features_only: return the maps of the blocks, the last behind BatchNorm and ReLU; there is no classifier.
        bottleneck, groups, convolution: as in `DenseLayer`.
        stem_stride: 1 (CIFAR) or 2 (ImageNet); the map of stride 2 is none of those returned, detectors begin at 4.

    Raises:
        DynError: an argument is out of range.
    """

    def __init__(
        self,
        stages: Sequence[int],
        growth: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        features_only: bool,
        bottleneck: int,
        groups: int,
        stem_stride: int,
        convolution: _Convolution,
    ) -> None:
        check_arguments(
            "DenseNet", num_classes=num_classes, in_channels=in_channels, bottleneck=bottleneck, groups=groups
        )
        if stem_stride not in (1, 2):
            raise DynError(f"DenseNet: stem_stride={stem_stride}.", fix="1 or 2")
        if len(stages) < stem_stride or len(stages) != len(growth) or min(*stages, *growth) < 1:
            raise DynError(
                f"DenseNet: stages={tuple(stages)}, growth={tuple(growth)}.",
                why=f"They are layers and added channels of every block, of which there are {stem_stride} or more.",
            )
        if any(added % groups for added in growth):
            raise DynError(f"DenseNet: growth={tuple(growth)} is not divisible by {groups} groups.")
        channels = [2 * growth[0]]
        features: OrderedDict[str, nn.Module] = OrderedDict()
        features["init_conv"] = nn.Conv2d(in_channels, channels[0], 3, stem_stride, 1, bias=False)
        for number, (depth, added) in enumerate(zip(stages, growth), start=1):
            if number > 1:
                features[f"transition_{number - 1}"] = nn.AvgPool2d(2)
            block = nn.Sequential()
            for index in range(depth):
                layer = DenseLayer(
                    channels[-1] + index * added, added, bottleneck=bottleneck, groups=groups, convolution=convolution
                )
                block.add_module(f"denselayer_{index + 1}", layer)
            features[f"denseblock_{number}"] = block
            channels.append(channels[-1] + depth * added)
        strides = [stem_stride * 2**index for index in range(len(stages))]
        coarse = slice(stem_stride - 1, None)
        super().__init__(
            in_channels=in_channels,
            features_only=features_only,
            feature_channels=channels[1:][coarse],
            feature_strides=strides[coarse],
            minimum_size=strides[-1] - stem_stride + 1,
            # The pooling rounds down, as in the official code: a pyramid needs maps that halve exactly.
            size_multiple=strides[-1] if features_only else 1,
        )
        self.features = nn.Sequential(features)
        self.bn_last = nn.BatchNorm2d(channels[-1])
        self.classifier = None if features_only else nn.Linear(channels[-1], num_classes)
        init_convolutions(self)
        if self.classifier is not None:
            nn.init.zeros_(self.classifier.bias)

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """[N, in_channels, H, W] -> the maps of the blocks."""
        maps = []
        for name, module in self.features.named_children():
            x = module(x)
            if name.startswith("denseblock"):
                maps.append(x)
        maps[-1] = self.bn_last(x).relu()
        return tuple(maps[-len(self.feature_channels) :])

    def classify(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> logits [N, classes]."""
        assert self.classifier is not None
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


@register
def dgc_densenet86(
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    features_only: bool = False,
    heads: int = 4,
    squeeze: int = 16,
    keep: float = 0.25,
    stages: Sequence[int] = (14, 14, 14),
    growth: Sequence[int] = (8, 16, 32),
    bottleneck: int = 4,
    groups: int = 4,
    stem_stride: int = 1,
) -> DenseNet:
    """DenseNet-86 for CIFAR's 32x32 images: 4,264,810 parameters, maps of strides 1, 2 and 4.

    Args:
        num_classes, in_channels, features_only, stages, growth, bottleneck, groups, stem_stride: as in `DenseNet`.
        heads, squeeze, keep: as in `DGConv2d`.

    Raises:
        DynError: an argument is out of range.
    """
    return DenseNet(
        stages,
        growth,
        num_classes=num_classes,
        in_channels=in_channels,
        features_only=features_only,
        bottleneck=bottleneck,
        groups=groups,
        stem_stride=stem_stride,
        convolution=partial(DGConv2d, heads=heads, squeeze=squeeze, keep=keep),
    )


dgc_condensenet = variant(
    dgc_densenet86,
    "dgc_condensenet",
    "CondenseNet for ImageNet with DGConvs, 24,060,664 parameters, maps of strides 4, 8, 16 and 32",
    num_classes=1000,
    stages=(4, 6, 8, 10, 8),
    growth=(8, 16, 32, 64, 128),
    stem_stride=2,
)
