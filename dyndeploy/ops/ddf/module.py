"""The layers: two branches that predict filters from the input, and the dynamic filter that applies them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.ops._layer import check_arguments, check_fits, check_input
from dyndeploy.ops._torch import pair
from dyndeploy.ops.ddf.op import Combine, decoupled_dynamic_filter


class _DecoupledFilter(nn.Module):
    """What DDF and DDF-Up share: channel branch, gains and the call of the op. R = scale*scale branches."""

    def __init__(
        self,
        channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        dilation: int | Sequence[int],
        heads: int,
        se_ratio: float,
        nonlinearity: str,
        combine: Combine,
        scale: int,
    ) -> None:
        super().__init__()
        layer = type(self).__name__
        check_arguments(layer, channels=channels, kernel_size=kernel_size, stride=stride, dilation=dilation)
        kernel, dilations = pair(kernel_size), pair(dilation)
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0 or kernel == (1, 1):
            raise DynError(
                f"{layer}: kernel_size={kernel_size!r}.",
                why="The window is centred on its pixel, and FilterNorm needs more than one tap.",
                fix="odd extents, not (1, 1); the op itself takes even ones.",
            )
        if heads < 1 or channels % heads:
            raise DynError(f"{layer}: channels={channels} is not divisible by heads={heads}.")
        if not se_ratio > 0:
            raise DynError(f"{layer}: se_ratio={se_ratio} is not positive.")
        if combine not in ("mul", "add"):
            raise DynError(f"{layer}: combine={combine!r}.", fix='combine="mul" or combine="add"')
        self.channels, self.heads, self.scale, self.combine = channels, heads, scale, combine
        self.kernel_size, self.stride, self.dilation = kernel, pair(stride), dilations
        self.padding = ((kernel[0] - 1) // 2 * dilations[0], (kernel[1] - 1) // 2 * dilations[1])
        self.taps = kernel[0] * kernel[1]
        self.spatial_gain = _gain(layer, nonlinearity) / math.sqrt(self.taps)
        branches, middle = scale * scale, max(1, int(channels * se_ratio))
        self.channel_branch = nn.Sequential(
            nn.Conv2d(channels, branches * middle, 1),
            nn.ReLU(),
            nn.Conv2d(branches * middle, branches * channels * self.taps, 1, groups=branches),
        )
        self.channel_gain = nn.Parameter(torch.randn(branches * channels * self.taps) * self.spatial_gain)

    def _check_input(self, x: Tensor) -> None:
        layer = type(self).__name__
        check_input(layer, x, self.channels)
        check_fits(layer, x, kernel_size=self.kernel_size, padding=self.padding, dilation=self.dilation)

    def _filter(self, x: Tensor, spatial_filter: Tensor) -> Tensor:
        return decoupled_dynamic_filter(
            x,
            self.channel_branch(x.mean((2, 3), keepdim=True)).flatten(1),
            spatial_filter,
            self.channel_gain,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            heads=self.heads,
            scale=self.scale,
            combine=self.combine,
            spatial_gain=self.spatial_gain,
        )

    def extra_repr(self) -> str:
        """The arguments."""
        text = f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}"
        text += f", heads={self.heads}, combine={self.combine!r}"
        return text + (f", scale={self.scale}" if self.scale > 1 else "")


class DDF(_DecoupledFilter):
    """Decoupled dynamic filter with its two branches (Zhou et al., CVPR 2021, section 3.3).

    Takes the place of a convolution with as many outputs as inputs. The spatial branch is a 1x1 convolution
    to `heads` filters per pixel; the channel branch is a global average and two 1x1 convolutions to C filters
    per sample. Both are normalised over their K taps (FilterNorm), then multiplied by a gain: g/sqrt(K) for
    the spatial ones, a learned gain per channel and tap, initialised to N(0, 1) * g/sqrt(K), for the channel
    ones; g is `torch.nn.init.calculate_gain(nonlinearity)`.

    Args:
        channels: channels C of input and output.
        kernel_size: odd, one int or (h, w); K = kh*kw taps.
        stride, dilation: one int or (h, w). The padding is (k-1)/2 * dilation.
        heads: channel groups with spatial filters of their own; divides C.
        se_ratio: the channel branch has int(C*se_ratio) hidden channels, or 1 where that is 0.
        nonlinearity: what follows the layer ("relu", "linear", …): sets g.
        combine: "mul" (the paper) or "add" (an option of the official code).

    Shape:
        [N, C, H, W] -> [N, C, ceil(H/stride), ceil(W/stride)].

    Raises:
        DynError: an argument is out of range, an even kernel or a kernel of one tap, or channels not divisible by
            heads; the input has other channels than C, or is empty.

    Example:
        >>> DDF(8, stride=2)(torch.zeros(1, 8, 9, 9)).shape
        torch.Size([1, 8, 5, 5])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        heads: int = 1,
        se_ratio: float = 0.2,
        nonlinearity: str = "relu",
        combine: Combine = "mul",
    ) -> None:
        super().__init__(channels, kernel_size, stride, dilation, heads, se_ratio, nonlinearity, combine, scale=1)
        self.spatial_branch = nn.Conv2d(channels, heads * self.taps, 1, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, ceil(H/stride), ceil(W/stride)]."""
        self._check_input(x)
        return self._filter(x, self.spatial_branch(x))


class DDFUp(_DecoupledFilter):
    """Upsampling by decoupled dynamic filters, DDF-Up (Zhou et al., CVPR 2021, section 3.4).

    R = scale*scale independent pairs of branches, one per sub-pixel of the output; branch r makes sub-pixel
    (r // scale, r % scale). Channel filters come from x; spatial ones from a 1x1 convolution per branch of:

    - a depth-wise convolution of x (one per branch), 3x3 by default, when no guide is given;
    - a guide at the resolution of x: every branch sees the same guide pixel;
    - a guide at the output's resolution: pixel-unshuffled, so that branch r sees the guide pixel of the very
      sub-pixel that it makes. Nothing of the guide is lost, and the same weights serve both resolutions.

    Args:
        channels: channels C of input and output.
        kernel_size: odd, one int or (h, w); K = kh*kw taps.
        scale: factor of upsampling, >= 1.
        dilation, heads, se_ratio, nonlinearity, combine: as for `DDF`, per branch.
        guide_channels: channels of the guide, which is then required; there is no depth-wise convolution.
            None: the guide is optional; one of C channels replaces the result of the depth-wise convolution.
        depthwise_size: extent of the depth-wise convolution, odd; its padding is half of it.

    Shape:
        x [N, C, H, W], guide [N, guide_channels, H, W] or [N, guide_channels, scale*H, scale*W] ->
        [N, C, scale*H, scale*W].

    Raises:
        DynError: as for `DDF`; depthwise_size is even; a required guide is missing, or its channels or its resolution
            do not fit.

    Example:
        >>> up = DDFUp(8, scale=2, guide_channels=3)
        >>> up(torch.zeros(1, 8, 5, 6), torch.zeros(1, 3, 10, 12)).shape
        torch.Size([1, 8, 10, 12])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | Sequence[int] = 3,
        scale: int = 2,
        dilation: int | Sequence[int] = 1,
        heads: int = 1,
        se_ratio: float = 0.2,
        nonlinearity: str = "linear",
        combine: Combine = "mul",
        guide_channels: int | None = None,
        depthwise_size: int = 3,
    ) -> None:
        check_arguments("DDFUp", depthwise_size=depthwise_size)
        if depthwise_size % 2 == 0:
            raise DynError(f"DDFUp: depthwise_size={depthwise_size} is even.", why="It is centred on its pixel.")
        if scale < 1 or (guide_channels is not None and guide_channels < 1):
            raise DynError(f"DDFUp: scale={scale}, guide_channels={guide_channels}: both are at least 1.")
        super().__init__(channels, kernel_size, 1, dilation, heads, se_ratio, nonlinearity, combine, scale)
        branches = scale * scale
        self.guide_channels = channels if guide_channels is None else guide_channels
        self.depthwise = (
            nn.Conv2d(channels, branches * channels, depthwise_size, padding=depthwise_size // 2, groups=channels)
            if guide_channels is None
            else None
        )
        self.spatial_branch = nn.Conv2d(
            branches * self.guide_channels, branches * heads * self.taps, 1, groups=branches
        )

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """[N, C, H, W] (and a guide) -> [N, C, scale*H, scale*W]."""
        self._check_input(x)
        if guide is not None:
            check_input("DDFUp", guide, self.guide_channels, name="guide")
        return self._filter(x, self._spatial_filter(x, guide))

    def _spatial_filter(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """[N, R*heads*K, H, W]."""
        n, c, h, w = x.shape
        s, g = self.scale, self.guide_channels
        if guide is None:
            if self.depthwise is None:
                raise DynError(
                    f"DDFUp: guide_channels={g}, but no guide was given.",
                    fix="forward(x, guide), or build the layer with guide_channels=None.",
                )
            by_branch = _merged(self.depthwise(x).reshape(n, c, s * s, h, w).transpose(1, 2), 1, 2)
        elif _is_scaled(guide, x, 1):
            # The grouped convolution of R copies of the guide is the ungrouped one of the guide itself.
            return F.conv2d(guide, self.spatial_branch.weight, self.spatial_branch.bias)
        elif _is_scaled(guide, x, s):
            pixels = torch.unflatten(torch.unflatten(guide, 3, (w, s)), 2, (h, s))
            by_branch = _merged(pixels.permute(0, 3, 5, 1, 2, 4), 1, 3)
        else:
            raise DynError(
                f"DDFUp: the guide is {guide.shape[2]}x{guide.shape[3]} and the input {h}x{w}.",
                fix=f"a guide of {h}x{w} or {h * s}x{w * s}",
            )
        filters: Tensor = self.spatial_branch(by_branch)
        return filters

    def extra_repr(self) -> str:
        """The arguments."""
        guide = self.guide_channels if self.depthwise is None else None
        return f"{super().extra_repr()}, guide_channels={guide}"


def _gain(layer: str, nonlinearity: str) -> float:
    try:
        return float(nn.init.calculate_gain(nonlinearity))  # type: ignore[arg-type]
    except ValueError as error:
        raise DynError(f"{layer}: nonlinearity={nonlinearity!r}.", why=str(error), fix='"relu" or "linear"') from None


def _merged(x: Tensor, first: int, last: int) -> Tensor:
    """x.flatten(first, last) where the order of the dims asks for a copy.

    flatten would first look whether a view is enough, and torch.export would rule out sizes of 1 from what it finds.
    """
    return x.clone(memory_format=torch.contiguous_format).flatten(first, last)


def _is_scaled(guide: Tensor, x: Tensor, factor: int) -> bool:
    """Whether the guide is `factor` times as large as x; per axis, so that symbolic sizes decide it too."""
    return guide.shape[2] == factor * x.shape[2] and guide.shape[3] == factor * x.shape[3]
