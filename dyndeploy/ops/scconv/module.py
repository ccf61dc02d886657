"""The layer: a convolution that calibrates itself with a view of the input at a lower resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dyndeploy.errors import DynError
from dyndeploy.ops._layer import check_arguments, check_input
from dyndeploy.ops._torch import pair
from dyndeploy.ops.scconv.op import self_calibrate
from dyndeploy.ops.scconv.reference import Upsample


class SCConv2d(nn.Module):
    """Self-calibrated convolution (Liu et al., CVPR 2020): y = K4(K3(x) * sigmoid(x + up(K2(avg(x))))).

    Each K is a 3x3 convolution without bias, with padding = dilation, and a BatchNorm; there is no activation
    after K4. The default is `SCConv` of the official code, and its state dicts fit. `split=True` is the whole
    layer of the paper: the first half of the channels goes through a plain K1, the second half is
    self-calibrated, and the output is [K1 half, self-calibrated half], the official bottleneck's order.

    Args:
        channels: channels C of input and output.
        stride: of K4 (and K1), one int or (h, w); the gate is computed at the input's resolution.
        dilation: distance between taps, one int or (h, w), in pixels (in K2: in pixels of the pooled map).
        groups: groups of every convolution.
        pooling: the average is over pooling x pooling pixels.
        upsample: "nearest" (official code) or "bilinear" (paper).
        split: the paper's layer, with 4*(C/2)^2 * 9 weights, those of a plain 3x3 convolution.

    Shape:
        [N, C, H, W] -> [N, C, ceil(H/stride), ceil(W/stride)]; H and W are at least `pooling`.

    Raises:
        DynError: an argument is out of range, or the input has other channels than C or is smaller than `pooling`.

    Example:
        >>> SCConv2d(8, stride=2)(torch.zeros(2, 8, 14, 14)).shape
        torch.Size([2, 8, 7, 7])
    """

    def __init__(
        self,
        channels: int,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        pooling: int = 4,
        upsample: Upsample = "nearest",
        split: bool = False,
    ) -> None:
        super().__init__()
        check_arguments("SCConv2d", channels=channels, stride=stride, dilation=dilation, groups=groups, pooling=pooling)
        self.stride, self.dilation = pair(stride), pair(dilation)
        if upsample not in ("nearest", "bilinear"):
            raise DynError(f"SCConv2d: upsample={upsample!r}.", fix='upsample="nearest" or upsample="bilinear"')
        parts = 2 if split else 1
        if channels % (parts * groups):
            raise DynError(
                f"SCConv2d: channels={channels} is not divisible by {parts * groups}.",
                why=f"groups={groups}, and split={split} makes {parts} part(s) of the channels.",
            )
        self.channels, self.groups = channels, groups
        self.pooling, self.upsample, self.split = pooling, upsample, split

        def conv_norm(step: int | tuple[int, int]) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
            width = channels // parts
            conv = nn.Conv2d(width, width, 3, step, self.dilation, self.dilation, groups, bias=False)
            return conv, nn.BatchNorm2d(width)

        self.k1 = nn.Sequential(*conv_norm(self.stride)) if split else None
        self.k2 = nn.Sequential(nn.AvgPool2d(pooling), *conv_norm(1))
        self.k3 = nn.Sequential(*conv_norm(1))
        self.k4 = nn.Sequential(*conv_norm(self.stride))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, ceil(H/stride), ceil(W/stride)]."""
        check_input("SCConv2d", x, self.channels)
        if x.shape[2] < self.pooling or x.shape[3] < self.pooling:
            raise DynError(
                f"SCConv2d: the input is {x.shape[2]}x{x.shape[3]}, smaller than pooling={self.pooling}.",
                why="Nothing would be left of it.",
                fix="A larger input, or a smaller pooling.",
            )
        if self.k1 is None:
            return self._calibrated(x)
        plain, calibrated = x.chunk(2, dim=1)
        return torch.cat([self.k1(plain), self._calibrated(calibrated)], dim=1)

    def _calibrated(self, x: Tensor) -> Tensor:
        y: Tensor = self.k4(self_calibrate(x, self.k3(x), self.k2(x), self.upsample))
        return y

    def extra_repr(self) -> str:
        """The arguments."""
        text = f"{self.channels}, stride={self.stride}, dilation={self.dilation}, groups={self.groups}"
        return f"{text}, pooling={self.pooling}, upsample={self.upsample!r}, split={self.split}"
