"""The residual network: one skeleton, whose block is the variable.

Modules are named as in torchvision and timm (conv1, bn1, layer1.0.conv2, …), so that their checkpoints fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.models.backbone import Backbone, init_convolutions, outputs_of
from dyndeploy.ops._layer import check_arguments

Style = Literal["pytorch", "caffe"]
#: Blocks per stage, by the number in the network's name.
DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@dataclass(frozen=True)
class Place:
    """Where a block stands.

    Attributes:
        in_channels: channels of its input.
        planes: its width; the output has `expansion` times as many channels.
        stride, dilation: of its spatial convolution.
        later_dilation: of a convolution behind the stride; larger than `dilation` where that stride became a dilation.
        stage: 1 to 4, conv2 to conv5 of the papers.
        opens: it is the first of its stage.
    """

    in_channels: int
    planes: int
    stride: int
    dilation: int
    later_dilation: int
    stage: int
    opens: bool


class ResidualBlock(nn.Module):
    """y = ReLU(branch(x) + shortcut(x)); a subclass has `branch`, and `downsample` where the shape changes."""

    expansion: int
    downsample: nn.Module | None

    def branch(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, expansion*planes, ceil(H/stride), ceil(W/stride)]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, expansion*planes, ceil(H/stride), ceil(W/stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return (self.branch(x) + shortcut).relu()


#: A class of residual blocks, with whatever its network sets already bound.
Block = Callable[[Place], ResidualBlock]


class Bottleneck(ResidualBlock):
    """1x1, spatial convolution, 1x1, each with a BatchNorm (He et al., CVPR 2016).

    Args:
        place: where it stands.
        spatial: (channels, stride, dilation) -> the convolution in the middle; by default a plain 3x3.
        style: "pytorch" has the stride in the middle, "caffe" in the first 1x1.
    """

    expansion = 4

    def __init__(
        self, place: Place, spatial: Callable[[int, int, int], nn.Module] | None = None, style: Style = "pytorch"
    ) -> None:
        super().__init__()
        planes, out_channels = place.planes, place.planes * self.expansion
        first, middle, dilation = 1, place.stride, place.dilation
        if style == "caffe":
            first, middle, dilation = place.stride, 1, place.later_dilation
        self.conv1 = nn.Conv2d(place.in_channels, planes, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = (spatial or conv3x3)(planes, middle, dilation)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = projection(place, out_channels)

    def branch(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, 4*planes, ceil(H/stride), ceil(W/stride)]."""
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        y: Tensor = self.bn3(self.conv3(x))
        return y


def conv3x3(channels: int, stride: int, dilation: int) -> nn.Module:
    """A plain 3x3 convolution that keeps the channels."""
    return nn.Conv2d(channels, channels, 3, stride, dilation, dilation, bias=False)


def projection(place: Place, out_channels: int, *, average: bool = False) -> nn.Module | None:
    """The shortcut of a block: a 1x1 convolution and a BatchNorm, or None where the shape stays.

    Args:
        place: where the block stands.
        out_channels: of the block.
        average: halve by averages before, instead of taking every second pixel (ResNet-D).
    """
    if place.stride == 1 and place.in_channels == out_channels:
        return None
    halve: list[nn.Module] = [HalveByAverage() if place.stride == 2 else nn.Identity()] if average else []
    conv = nn.Conv2d(place.in_channels, out_channels, 1, 1 if average else place.stride, bias=False)
    return nn.Sequential(*halve, conv, nn.BatchNorm2d(out_channels))


class HalveByAverage(nn.Module):
    """nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False), in a form that exports with dynamic sizes.

    torch asks of a ceil_mode whether its last window starts inside the map, and cannot answer for a symbolic size. Here
    the last row and column are repeated once: that makes pairs of odd sizes, and nothing reads it at even ones.

    Shape:
        [N, C, H, W] -> [N, C, ceil(H/2), ceil(W/2)].
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, ceil(H/2), ceil(W/2)]."""
        return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2)


class ResNet(Backbone):
    """Stem, four stages of residual blocks, classifier.

    Args:
        block: makes the block of a place.
        layers: blocks per stage.
        num_classes: of the classifier.
        in_channels: of the image.
        features_only: return the maps of the four stages; there is no classifier.
        width: planes of the first stage; the others have 2, 4 and 8 times as many.
        output_stride: 32, 16 or 8: the last strides become dilations; what a stage's first block does before and with
            its stride keeps the dilation of the stage before.
        stem_width: 0 is the 7x7 stem; otherwise three 3x3 convolutions with stem_width, stem_width and
            2*stem_width channels (ResNet-D).
        minimum_map: smallest side of the last map that the blocks work with.
        size_multiple: a multiple of 4, as in `Backbone`; what counts is the map behind the stem, ceil(H/4) rows.
    """

    def __init__(
        self,
        block: Block,
        layers: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        features_only: bool = False,
        width: int = 64,
        output_stride: int = 32,
        stem_width: int = 0,
        minimum_map: int = 1,
        size_multiple: int = 1,
    ) -> None:
        if len(layers) != 4 or min(layers) < 1:
            raise DynError(f"layers={tuple(layers)}.", why="A residual network has four stages of at least one block.")
        if output_stride not in (8, 16, 32):
            raise DynError(f"output_stride={output_stride}.", fix="8, 16 or 32")
        check_arguments("ResNet", num_classes=num_classes, in_channels=in_channels, width=width)
        if stem_width < 0:
            raise DynError(f"stem_width={stem_width} is negative.", fix="0 is the stem of one 7x7 convolution.")
        stages, channels, strides = [], [], []
        current, stride, dilation = 2 * stem_width or width, 4, 1
        stem_channels = current
        for number, blocks in enumerate(layers, start=1):
            step = 1 if number == 1 else 2
            opening, planes = dilation, width * 2 ** (number - 1)
            if stride * step > output_stride:
                dilation, step = dilation * step, 1
            stride *= step
            modules: list[nn.Module] = []
            for index in range(blocks):
                opens = index == 0
                here = opening if opens else dilation
                place = Place(current, planes, step if opens else 1, here, dilation, number, opens)
                made = block(place)
                current = planes * made.expansion
                modules.append(made)
            stages.append(nn.Sequential(*modules))
            channels.append(current)
            strides.append(stride)
        super().__init__(
            in_channels=in_channels,
            features_only=features_only,
            feature_channels=channels,
            feature_strides=strides,
            minimum_size=(minimum_map - 1) * stride + 1,
            size_multiple=size_multiple,
            stem_stride=4,
        )
        self.conv1 = _stem(in_channels, stem_channels, stem_width)
        self.bn1 = nn.BatchNorm2d(stem_channels)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = None if features_only else nn.Linear(current, num_classes)
        init_convolutions(self)

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """[N, in_channels, H, W] -> the maps of the four stages."""
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        return outputs_of((self.layer1, self.layer2, self.layer3, self.layer4), x)

    def classify(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> logits [N, classes]."""
        assert self.fc is not None
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def _stem(in_channels: int, out_channels: int, stem_width: int) -> nn.Module:
    if not stem_width:
        return nn.Conv2d(in_channels, out_channels, 7, 2, 3, bias=False)
    return nn.Sequential(
        nn.Conv2d(in_channels, stem_width, 3, 2, 1, bias=False),
        nn.BatchNorm2d(stem_width),
        nn.ReLU(),
        nn.Conv2d(stem_width, stem_width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(stem_width),
        nn.ReLU(),
        nn.Conv2d(stem_width, out_channels, 3, 1, 1, bias=False),
    )
