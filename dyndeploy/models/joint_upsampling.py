"""Guided upsampling of depth by a chain of DDF-Up (Zhou et al., CVPR 2021)."""

from __future__ import annotations

import itertools
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.models.registry import register
from dyndeploy.nn import DDFUp
from dyndeploy.ops._layer import check_arguments, check_input


class JointUpsampler(nn.Module):
    """A low-resolution map and a picture of the same scene -> the map at the picture's resolution.

    From the paper: one guided DDF-Up of factor 2 after the other, log2(scale) of them, in the place of the
    pixel-adaptive convolutions of PAC-Net (Su et al., CVPR 2019), whose plan this is: three 5x5 convolutions on the
    map, three on the picture, which give every step a guide of its own, and two 5x5 convolutions at the end. The
    paper's code for this experiment is not public. Ours are therefore:

    - a 1x1 convolution and a ReLU behind every DDF-Up, which is depth-wise, unlike what it replaces;
    - guides are brought to a step's resolution by the mean over pixels; DDF-Up sees them at its output's resolution;
    - the network computes a correction of the bilinearly enlarged map, and starts at zero: before any training it is
      as good as bilinear upsampling, and it has to learn edges only, whatever the unit of the map.

    Args:
        scale: 2, 4, 8, 16, …
        in_channels: of the map and of the result; 1 for depth.
        guide_channels: of the picture.
        channels: inside.
        guide_features: channels of the guide of one step.
        combine, se_ratio: as in `DDFUp`.

    Shape:
        depth [N, in_channels, h, w], guide [N, guide_channels, scale*h, scale*w] -> [N, in_channels, scale*h, scale*w],
        in the unit of depth.

    Raises:
        DynError: an argument is out of range; the guide is not `scale` times as large as the map, or channels or
            batches do not fit.
    """

    def __init__(
        self,
        scale: int = 4,
        in_channels: int = 1,
        guide_channels: int = 3,
        channels: int = 32,
        guide_features: int = 16,
        combine: Literal["mul", "add"] = "mul",
        se_ratio: float = 0.2,
    ) -> None:
        super().__init__()
        check_arguments(
            "JointUpsampler",
            in_channels=in_channels,
            guide_channels=guide_channels,
            channels=channels,
            guide_features=guide_features,
        )
        if scale < 2 or scale & (scale - 1):
            raise DynError(
                f"JointUpsampler: scale={scale} is no power of two.", why="Every step doubles.", fix="2, 4, 8 or 16"
            )
        self.scale, self.in_channels, self.guide_channels = scale, in_channels, guide_channels
        self.guide_features = guide_features
        steps = scale.bit_length() - 1
        self.depth_branch = nn.Sequential(*_convolutions(in_channels, channels, channels, channels), nn.ReLU())
        self.guide_branch = nn.Sequential(*_convolutions(guide_channels, channels, channels, guide_features * steps))
        self.upsamplers = nn.ModuleList(
            DDFUp(channels, guide_channels=guide_features, combine=combine, se_ratio=se_ratio) for _ in range(steps)
        )
        self.mixers = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(steps))
        self.head = nn.Sequential(*_convolutions(channels, channels, in_channels))
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, depth: Tensor, guide: Tensor) -> Tensor:
        """[N, C, h, w] and [N, G, scale*h, scale*w] -> [N, C, scale*h, scale*w]."""
        self._check(depth, guide)
        x, guides = self.depth_branch(depth), self.guide_branch(guide).split(self.guide_features, 1)
        shrink = self.scale
        for upsampler, mixer, features in zip(self.upsamplers, self.mixers, guides):
            shrink //= 2
            x = mixer(upsampler(x, F.avg_pool2d(features, shrink) if shrink > 1 else features)).relu()
        correction: Tensor = self.head(x)
        return F.interpolate(depth, size=guide.shape[2:], mode="bilinear", align_corners=False) + correction

    def _check(self, depth: Tensor, guide: Tensor) -> None:
        check_input("JointUpsampler", depth, self.in_channels, name="map")
        check_input("JointUpsampler", guide, self.guide_channels, name="guide")
        (n, _, h, w), s = depth.shape, self.scale
        if guide.shape[2] != s * h or guide.shape[3] != s * w:
            raise DynError(
                f"JointUpsampler: the guide is {guide.shape[2]}x{guide.shape[3]} and the map {h}x{w}, with scale={s}.",
                fix=f"a guide of {s * h}x{s * w}",
            )
        if guide.shape[0] != n:
            raise DynError(f"JointUpsampler: {n} maps and {guide.shape[0]} guides.")


@register
def ddf_joint_upsampler(
    *,
    scale: int = 4,
    in_channels: int = 1,
    guide_channels: int = 3,
    channels: int = 32,
    guide_features: int = 16,
    combine: Literal["mul", "add"] = "mul",
    se_ratio: float = 0.2,
) -> JointUpsampler:
    """Guided depth upsampling, `JointUpsampler`: forward(depth, guide).

    The paper trains it on NYUv2 at scales 4, 8 and 16 with Adam at 1e-4, 8 pictures per step, for 1500 epochs.

    Args:
        scale, in_channels, guide_channels, channels, guide_features, combine, se_ratio: as in `JointUpsampler`.

    Raises:
        DynError: an argument is out of range.
    """
    return JointUpsampler(scale, in_channels, guide_channels, channels, guide_features, combine, se_ratio)


def _convolutions(*channels: int) -> list[nn.Module]:
    """5x5 convolutions with ReLUs between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        layers += [nn.Conv2d(before, after, 5, padding=2), nn.ReLU()]
    return layers[:-1]
