"""Feature pyramid with DDF-Up in place of nearest upsampling (Zhou et al., CVPR 2021)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.models.backbone import Backbone
from dyndeploy.models.registry import create_model, register
from dyndeploy.nn import DDFUp
from dyndeploy.ops._layer import check_arguments, check_input

Upsample = Literal["ddf", "nearest"]


class FPN(nn.Module):
    """Feature pyramid network (Lin et al., CVPR 2017): from the coarsest map down, each level adds the one above.

    P_i = conv3x3(M_i), M_i = conv1x1(C_i) + up(M_i+1). All levels have the same channels. Every map has half the
    rows and columns of the one before, rounded up; what doubling adds beyond the finer map is cut off.

    Parameters are named as in mmdetection without its wrapper: its `lateral_convs.0.conv.weight` is
    `lateral_convs.0.weight` here.

    Args:
        in_channels: channels of each map, the finest first.
        out_channels: of all levels.
        upsample: "ddf" is a DDF-Up of its own for each step, "nearest" repeats pixels (Lin et al.).
        guided: the spatial filters of DDF-Up come from conv1x1(C_i), the finer map, instead of from M_i+1, as in the
            paper's experiment.
        extra_levels: coarser ones, each with every second pixel of the one before (one for a region proposal network).

    Shape:
        maps [N, C_i, H_i, W_i], the finest first -> as many levels [N, out_channels, H_i, W_i], and the extra ones,
        [N, out_channels, ceil(H/2), ceil(W/2)] of the level before.

    Raises:
        DynError: an argument is out of range; there are not as many maps, or their channels or sizes do not fit.

    Example:
        >>> maps = [torch.zeros(1, 8, 10, 15), torch.zeros(1, 16, 5, 8)]
        >>> [list(level.shape) for level in FPN((8, 16), 4, extra_levels=1)(maps)]
        [[1, 4, 10, 15], [1, 4, 5, 8], [1, 4, 3, 4]]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        upsample: Upsample = "ddf",
        guided: bool = False,
        extra_levels: int = 0,
    ) -> None:
        super().__init__()
        if not in_channels:
            raise DynError("FPN: there are no maps.", fix="in_channels=backbone.feature_channels")
        check_arguments("FPN", out_channels=out_channels, in_channels=min(in_channels))
        if upsample not in get_args(Upsample):
            raise DynError(f"FPN: upsample={upsample!r}.", fix='"ddf" or "nearest"')
        if guided and upsample != "ddf":
            raise DynError("FPN: guided=True, and nearest upsampling has no guide.", fix='upsample="ddf"')
        if extra_levels < 0:
            raise DynError(f"FPN: extra_levels={extra_levels} is negative.")
        self.in_channels, self.out_channels = tuple(in_channels), out_channels
        self.guided, self.extra_levels = guided, extra_levels
        self.lateral_convs = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.fpn_convs = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels)
        steps = len(in_channels) - 1 if upsample == "ddf" else 0
        guide_channels = out_channels if guided else None
        #: Step i leads from level i + 1 to level i.
        self.upsamplers = nn.ModuleList(DDFUp(out_channels, guide_channels=guide_channels) for _ in range(steps))
        for conv in (*self.lateral_convs, *self.fpn_convs):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps, the finest first -> levels, the finest first."""
        self._check(maps)
        levels: list[Tensor] = [conv(x) for conv, x in zip(self.lateral_convs, maps)]
        for step in reversed(range(len(levels) - 1)):
            levels[step] = levels[step] + self._enlarged(levels[step + 1], levels[step], step)
        levels = [conv(x) for conv, x in zip(self.fpn_convs, levels)]
        for _ in range(self.extra_levels):
            levels.append(F.max_pool2d(levels[-1], 1, stride=2))
        return tuple(levels)

    def _enlarged(self, coarse: Tensor, fine: Tensor, step: int) -> Tensor:
        """[N, C, ceil(H/2), ceil(W/2)] -> [N, C, H, W]."""
        height, width = fine.shape[2:]
        if not self.upsamplers:
            return F.interpolate(coarse, size=(height, width), mode="nearest")
        # DDF-Up doubles exactly: its guide is filled up, and its output cut off.
        guide = _resized(fine, 2 * coarse.shape[2], 2 * coarse.shape[3]) if self.guided else None
        return _resized(self.upsamplers[step](coarse, guide), height, width)

    def _check(self, maps: Sequence[Tensor]) -> None:
        if len(maps) != len(self.in_channels):
            raise DynError(f"FPN: {len(maps)} maps for {len(self.in_channels)} levels.")
        for index, (x, channels) in enumerate(zip(maps, self.in_channels)):
            check_input("FPN", x, channels, name=f"map {index}")
        if torch.compiler.is_exporting():
            return  # sizes are symbols then
        for index, (fine, coarse) in enumerate(itertools.pairwise(maps)):
            if any(small != -(-size // 2) for size, small in zip(fine.shape[2:], coarse.shape[2:])):
                raise DynError(
                    f"FPN: map {index} is {fine.shape[2]}x{fine.shape[3]} and map {index + 1} "
                    f"{coarse.shape[2]}x{coarse.shape[3]}.",
                    why="A level has half the rows and columns of the one before, rounded up.",
                )


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    """Zeros added, or pixels cut off, at the bottom and at the right.

    Of a slice, torch.export could not tell that it is as large as asked.
    """
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))


class PyramidNetwork(Backbone):
    """A backbone and the pyramid on its maps, under the names `backbone` and `neck` as in mmdetection."""

    def __init__(self, backbone: Backbone, neck: FPN) -> None:
        strides = backbone.feature_strides
        if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
            raise DynError(
                f"The maps have the strides {strides}.",
                why="From level to level a pyramid doubles them.",
                fix="output_stride=32 in backbone_options",
            )
        extra = [strides[-1] * 2 ** (i + 1) for i in range(neck.extra_levels)]
        super().__init__(
            in_channels=backbone.in_channels,
            features_only=True,
            feature_channels=[neck.out_channels] * (len(strides) + len(extra)),
            feature_strides=[*strides, *extra],
            minimum_size=backbone.minimum_size,
            size_multiple=backbone.size_multiple,
            stem_stride=backbone.stem_stride,
        )
        self.backbone, self.neck = backbone, neck

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """[N, C, H, W] -> the levels of the pyramid, the finest first."""
        levels: tuple[Tensor, ...] = self.neck(self.backbone.forward_features(x))
        return levels


@register
def fpn(
    *,
    backbone: str = "ddf_resnet50",
    backbone_options: Mapping[str, Any] | None = None,
    out_channels: int = 256,
    upsample: Upsample = "ddf",
    guided: bool = False,
    extra_levels: int = 0,
) -> PyramidNetwork:
    """A backbone with a feature pyramid: [N, 3, H, W] -> P2, P3, P4, P5 and the extra levels.

    Args:
        backbone: name of a network that has maps (`list_models()`).
        backbone_options: its options; `features_only` is set.
        out_channels, upsample, guided, extra_levels: as in `FPN`.

    Raises:
        DynError: an argument is out of range, or the network has no maps whose strides double.
    """
    options = {"features_only": True, **(backbone_options or {})}
    network = create_model(backbone, **options)
    if not isinstance(network, Backbone) or not network.features_only:
        raise DynError(f"backbone={backbone!r} with {options} returns no maps.", fix="features_only=True")
    return PyramidNetwork(network, FPN(network.feature_channels, out_channels, upsample, guided, extra_levels))
