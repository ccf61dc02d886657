"""ShuffleNetV2 and MobileNetV1 with dynamic region-aware 1x1 convolutions (Chen et al., CVPR 2021).

Weights start as in the official code: the classifier's as N(0, 0.01), convolutions as PyTorch makes them. It also
starts all running means at 1, which training forgets; until then a network in eval mode returns zeros and nothing else,
so that here they start at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from dyndeploy.errors import DynError
from dyndeploy.models.backbone import Backbone, outputs_of
from dyndeploy.models.registry import register, variant
from dyndeploy.nn import DRConv2d
from dyndeploy.ops._layer import check_arguments
from dyndeploy.ops.drconv.module import Generator

#: Channels of stem, three stages and last convolution, by the width in the network's name.
SHUFFLENETV2_CHANNELS = {
    "x0_5": (24, 48, 96, 192, 1024),
    "x1_0": (24, 116, 232, 464, 1024),
    "x1_5": (24, 176, 352, 704, 1024),
    "x2_0": (24, 244, 488, 976, 2048),
}

#: (in_channels, out_channels, **more) -> a 1x1 convolution, with what its network sets already bound.
_Pointwise = Callable[..., DRConv2d]


class ShuffleBlock(nn.Module):
    """ShuffleNetV2's block, whose right branch has DRConvs for its two 1x1 convolutions and one guide for both.

    With a stride of 1 the even channels pass and the odd ones go through the branch; with a stride of 2 both
    branches read all channels, and the guide is taken at every second pixel for the second DRConv.

    Args:
        in_channels, out_channels: channels C and O.
        stride: 1 or 2.
        pointwise: makes the two DRConvs.

    Shape:
        [N, C, H, W] -> [N, O, ceil(H/stride), ceil(W/stride)].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, pointwise: _Pointwise) -> None:
        super().__init__()
        self.stride = stride
        passing = in_channels if stride == 2 else in_channels // 2
        half = out_channels // 2
        self.conv1 = pointwise(passing, half, guide_conv=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = _depthwise(half, stride)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = pointwise(half, out_channels - passing, guide_conv=False)
        self.bn3 = nn.BatchNorm2d(out_channels - passing)
        self.guide = nn.Conv2d(passing, self.conv1.regions, 1, bias=False)
        self.left: nn.Module | None = None
        if stride == 2:
            self.left = nn.Sequential(
                _depthwise(passing, stride),
                nn.BatchNorm2d(passing),
                nn.Conv2d(passing, passing, 1, bias=False),
                nn.BatchNorm2d(passing),
                nn.ReLU(),
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, O, ceil(H/stride), ceil(W/stride)]."""
        if self.left is None:
            left, right = x[:, ::2], x[:, 1::2]
        else:
            left, right = self.left(x), x
        guide = self.guide(right)
        right = self.bn1(self.conv1(right, guide)).relu()
        right = self.bn2(self.conv2(right))
        # Nearest interpolation to half of an even size, which is what the network's sizes are.
        right = self.bn3(self.conv3(right, guide[:, :, :: self.stride, :: self.stride])).relu()
        return torch.cat([left, right], dim=1)


class ShuffleNetV2(Backbone):
    """Stem, three stages of `ShuffleBlock`s, a last 1x1 convolution, classifier.

    conv_first and conv_last have a bias beside their BatchNorm, as in the official code and its checkpoints.

    Args:
        channels: of the stem, the three stages and the last convolution.
        layers: blocks per stage.
        num_classes: of the classifier.
        in_channels: of the image.
        features_only: return the maps of stem and stages; there is no last convolution and no classifier.
        pointwise: makes a DRConv.
    """

    def __init__(
        self,
        channels: Sequence[int],
        layers: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        features_only: bool,
        pointwise: _Pointwise,
    ) -> None:
        check_arguments("ShuffleNetV2", num_classes=num_classes, in_channels=in_channels)
        if len(channels) != 5 or min(channels) < 1:
            raise DynError(
                f"ShuffleNetV2: channels={tuple(channels)}.", why="They are of stem, three stages and last convolution."
            )
        _check_layers("ShuffleNetV2", layers, 3)
        stem, *stages, last = channels
        for before, after in zip(channels, stages):
            if after % 2 or after <= before:
                raise DynError(
                    f"ShuffleNetV2: a stage of {after} channels behind {before}.",
                    why="A stage splits its channels into halves, and its first block adds to those that it reads.",
                    fix="An even number that is larger than the one before.",
                )
        super().__init__(
            in_channels=in_channels,
            features_only=features_only,
            feature_channels=(stem, *stages),
            feature_strides=(4, 8, 16, 32),
            size_multiple=32,
        )
        self.conv_first = _conv_bn_relu(in_channels, stem, 3, stride=2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stage1, self.stage2, self.stage3 = (
            nn.Sequential(
                *(
                    ShuffleBlock(after if i else before, after, 1 if i else 2, pointwise=pointwise)
                    for i in range(blocks)
                )
            )
            for before, after, blocks in zip(channels, stages, layers)
        )
        self.conv_last = None if features_only else _conv_bn_relu(stages[-1], last, 1)
        self.classifier = None if features_only else _classifier(last, num_classes)

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """[N, in_channels, H, W] -> the maps of stem and stages."""
        stem = self.maxpool(self.conv_first(x))
        return (stem, *outputs_of((self.stage1, self.stage2, self.stage3), stem))

    def classify(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> logits [N, classes]."""
        assert self.conv_last is not None and self.classifier is not None
        logits: Tensor = self.classifier(self.conv_last(x).mean((2, 3)))
        return logits


@register
def drconv_shufflenetv2_x1_0(
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    features_only: bool = False,
    generator: Generator = "mix",
    regions: int = 8,
    bases: int = 8,
    channels: Sequence[int] = SHUFFLENETV2_CHANNELS["x1_0"],
    layers: Sequence[int] = (4, 8, 4),
) -> ShuffleNetV2:
    """ShuffleNetV2 1.0x with DRConvs for the 1x1 convolutions of its right branches: 7,273,976 parameters.

    H and W are multiples of 32, as the official code demands.

    Args:
        num_classes, in_channels, features_only, channels, layers: as in `ShuffleNetV2`.
        generator, regions, bases: as in `DRConv2d`; "mix" is the official code's, "paper" the paper's (50.3 M).

    Raises:
        DynError: an argument is out of range.
    """
    return ShuffleNetV2(
        channels,
        layers,
        num_classes=num_classes,
        in_channels=in_channels,
        features_only=features_only,
        pointwise=_drconv1x1(generator, regions, bases),
    )


drconv_shufflenetv2_x0_5 = variant(
    drconv_shufflenetv2_x1_0,
    "drconv_shufflenetv2_x0_5",
    "ShuffleNetV2 0.5x with DRConvs, 2.29 M parameters",
    channels=SHUFFLENETV2_CHANNELS["x0_5"],
)
drconv_shufflenetv2_x1_5 = variant(
    drconv_shufflenetv2_x1_0,
    "drconv_shufflenetv2_x1_5",
    "ShuffleNetV2 1.5x with DRConvs, 14.8 M parameters",
    channels=SHUFFLENETV2_CHANNELS["x1_5"],
)
drconv_shufflenetv2_x2_0 = variant(
    drconv_shufflenetv2_x1_0,
    "drconv_shufflenetv2_x2_0",
    "ShuffleNetV2 2.0x with DRConvs, 28.8 M parameters",
    channels=SHUFFLENETV2_CHANNELS["x2_0"],
)


class SeparableBlock(nn.Module):
    """MobileNetV1's block: a depthwise 3x3 and a 1x1 DRConv with a guide of its own, each with BatchNorm and ReLU.

    Args:
        in_channels, out_channels: channels C and O.
        stride: of the 3x3.
        pointwise: makes the DRConv.

    Shape:
        [N, C, H, W] -> [N, O, ceil(H/stride), ceil(W/stride)].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, pointwise: _Pointwise) -> None:
        super().__init__()
        self.conv1 = _depthwise(in_channels, stride)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = pointwise(in_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, O, ceil(H/stride), ceil(W/stride)]."""
        x = self.bn1(self.conv1(x)).relu()
        y: Tensor = self.bn2(self.conv2(x)).relu()
        return y


class MobileNetV1(Backbone):
    """Stem, four stages of `SeparableBlock`s, classifier (Howard et al., arXiv 1704.04861).

    Args:
        width: multiplies all channels; no less than 8 are left.
        layers: blocks per stage, the stage of the stem's resolution not counted.
        num_classes: of the classifier.
        in_channels: of the image.
        features_only: return the maps of the four stages; there is no classifier.
        pointwise: makes a DRConv.
    """

    def __init__(
        self,
        width: float,
        layers: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        features_only: bool,
        pointwise: _Pointwise,
    ) -> None:
        check_arguments("MobileNetV1", num_classes=num_classes, in_channels=in_channels)
        if width <= 0:
            raise DynError(f"MobileNetV1: width={width} is not positive.")
        _check_layers("MobileNetV1", layers, 4)
        first, *channels = (max(8, int(c * width)) for c in (32, 64, 128, 256, 512, 1024))
        super().__init__(
            in_channels=in_channels,
            features_only=features_only,
            feature_channels=channels[1:],
            feature_strides=(4, 8, 16, 32),
        )
        self.conv_first = _conv_bn_relu(in_channels, first, 3, stride=2, bias=False)
        self.block_first = SeparableBlock(first, channels[0], 1, pointwise=pointwise)
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(
                *(
                    SeparableBlock(after if i else before, after, 1 if i else 2, pointwise=pointwise)
                    for i in range(blocks)
                )
            )
            for before, after, blocks in zip(channels, channels[1:], layers)
        )
        self.classifier = None if features_only else _classifier(channels[-1], num_classes)

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """[N, in_channels, H, W] -> the maps of the four stages."""
        x = self.block_first(self.conv_first(x))
        return outputs_of((self.stage1, self.stage2, self.stage3, self.stage4), x)

    def classify(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> logits [N, classes]."""
        assert self.classifier is not None
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


@register
def drconv_mobilenetv1(
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    features_only: bool = False,
    generator: Generator = "mix",
    regions: int = 8,
    bases: int = 8,
    width: float = 1.0,
    layers: Sequence[int] = (2, 2, 6, 2),
) -> MobileNetV1:
    """MobileNetV1 with a DRConv, its guide included, in place of every 1x1 convolution: 26.6 M parameters.

    The paper has such a network, the official code has not: guide and generator are those of its ShuffleNetV2.

    Args:
        num_classes, in_channels, features_only, width, layers: as in `MobileNetV1`.
        generator, regions, bases: as in `DRConv2d`; "mix" is the official code's, "paper" the paper's (227.5 M).

    Raises:
        DynError: an argument is out of range.
    """
    return MobileNetV1(
        width,
        layers,
        num_classes=num_classes,
        in_channels=in_channels,
        features_only=features_only,
        pointwise=_drconv1x1(generator, regions, bases),
    )


def _drconv1x1(generator: Generator, regions: int, bases: int) -> _Pointwise:
    return partial(DRConv2d, kernel_size=1, bias=False, generator=generator, regions=regions, bases=bases)


def _check_layers(network: str, layers: Sequence[int], stages: int) -> None:
    if len(layers) != stages or min(layers) < 1:
        raise DynError(f"{network}: layers={tuple(layers)}.", why=f"There are {stages} stages of at least one block.")


def _conv_bn_relu(in_channels: int, out_channels: int, size: int, stride: int = 1, bias: bool = True) -> nn.Module:
    conv = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def _depthwise(channels: int, stride: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)


def _classifier(in_channels: int, num_classes: int) -> nn.Module:
    linear = nn.Linear(in_channels, num_classes)
    nn.init.normal_(linear.weight, 0, 0.01)
    nn.init.zeros_(linear.bias)
    return linear
