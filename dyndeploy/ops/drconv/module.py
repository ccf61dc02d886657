"""The layer: a guide that divides the image into regions, a generator of filters, and the convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dyndeploy.errors import DynError
from dyndeploy.ops._layer import check_arguments, check_fits, check_input
from dyndeploy.ops._torch import pair
from dyndeploy.ops.drconv import reference_mix
from dyndeploy.ops.drconv.op import SPEC, dynamic_region_aware_conv2d
from dyndeploy.ops.drconv.op_mix import mixed_region_aware_conv2d

Generator = Literal["mix", "paper"]


class DRConv2d(nn.Module):
    """Dynamic region-aware convolution (Chen et al., CVPR 2021).

    Every output pixel belongs to one of m regions, the argmax of a guide; every region of every sample has
    filters of its own, generated from the sample. The guide is a convolution C -> m on the same input, with
    the same kernel, stride, padding and dilation, by default without a bias; or it is given to `forward`, so
    that the layers of a block share one.

    Args:
        in_channels, out_channels: channels C and O.
        kernel_size, stride, padding, dilation: one int or (h, w).
        bias: add a learned bias, shared by the regions.
        regions: number of regions m, 1 to 32.
        generator: "mix" (official code, `MixGenerator`) or "paper" (`PaperGenerator`).
        bases: number of filter banks that "mix" mixes; "paper" has none.
        guide_conv: False leaves the guide's convolution out: `forward` then needs a guide.
        guide_bias: the guide's convolution has a bias, as in the unofficial port.

    Shape:
        [N, C, H, W] -> [N, O, Ho, Wo], sizes as for nn.Conv2d.

    Raises:
        DynError: the generator is unknown, or an argument is out of range.

    Example:
        >>> layer = DRConv2d(8, 16, 3, stride=2, padding=1)
        >>> layer(torch.zeros(1, 8, 9, 9)).shape
        torch.Size([1, 16, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        bias: bool = True,
        regions: int = 8,
        generator: Generator = "mix",
        bases: int = 8,
        *,
        guide_conv: bool = True,
        guide_bias: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(
            "DRConv2d",
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
        SPEC.attribute("regions").check("DRConv2d", regions)
        if guide_bias and not guide_conv:
            raise DynError("DRConv2d: guide_bias=True, but guide_conv=False: there is no convolution to have it.")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.padding, self.dilation = pair(padding), pair(dilation)
        self.regions = regions
        self.guide_conv = (
            nn.Conv2d(in_channels, regions, self.kernel_size, self.stride, self.padding, self.dilation, bias=guide_bias)
            if guide_conv
            else None
        )
        self.generator: MixGenerator | PaperGenerator
        if generator == "mix":
            self.generator = MixGenerator(in_channels, out_channels, self.kernel_size, regions, bases)
        elif generator == "paper":
            self.generator = PaperGenerator(in_channels, out_channels, self.kernel_size, regions)
        else:
            raise DynError(f"DRConv2d: generator={generator!r} is unknown.", fix='"mix" or "paper"')
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """[N, C, H, W] and, optionally, a shared guide -> [N, O, Ho, Wo].

        Args:
            x: [N, C, H, W].
            guide: [N, m, Ho, Wo] logits, at the resolution of the output; taken instead of the layer's own.
                Where a block's stride has changed the resolution, bring it there first, as the official code
                does: F.interpolate(guide, size=(Ho, Wo), mode="nearest").

        Raises:
            DynError: there is no guide, or its shape is not that of the output; x has other channels than C, or is
                smaller than the window.
        """
        check_input("DRConv2d", x, self.in_channels)
        check_fits("DRConv2d", x, kernel_size=self.kernel_size, padding=self.padding, dilation=self.dilation)
        if guide is None:
            if self.guide_conv is None:
                raise DynError(
                    "DRConv2d has no guide.",
                    why="It was made with guide_conv=False.",
                    fix="layer(x, guide), with logits [N, regions, Ho, Wo]",
                )
            guide = self.guide_conv(x)
        window: dict[str, Any] = {
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "regions": self.regions,
        }
        if isinstance(self.generator, MixGenerator):
            share, banks = self.generator.parts(x)
            return mixed_region_aware_conv2d(x, share, banks, guide, self.bias, **window)
        return dynamic_region_aware_conv2d(x, self.generator(x), guide, self.bias, **window)

    def extra_repr(self) -> str:
        """The arguments that submodules do not show."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", stride={self.stride}, padding={self.padding}, dilation={self.dilation}"
        return text + f", bias={self.bias is not None}, regions={self.regions}"


class MixGenerator(nn.Module):
    """Filters as a mixture of learned banks, the same for all regions (official code).

    a[n,t,j] = 2/bases * sigmoid(Linear(GAP(x[n])))[t,j],  W[n,t] = sum over j of a[n,t,j] * bank[j]

    The mixture starts even: a is close to 1/bases. `DRConv2d` takes a and the banks apart (`parts`), and never has the
    filters as a tensor.

    Args:
        in_channels, out_channels, kernel_size, regions, bases: as in `DRConv2d`.

    Shape:
        [N, C, H, W] -> [N, m*O, C*K].

    Raises:
        DynError: bases < 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], regions: int, bases: int
    ) -> None:
        super().__init__()
        if bases < 1:
            raise DynError(f"DRConv2d: bases={bases} is not positive.")
        self.regions, self.bases = regions, bases
        self.mixture = nn.Linear(in_channels, regions * bases)
        # The banks in one tensor of four dims, [bases*O, C, kh, kw]: with five, to(memory_format=…) would fail.
        self.weight = nn.Parameter(torch.empty(bases * out_channels, in_channels, *kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Banks uniform in +-sqrt(6/(C*kh*kw)), mixture N(0, 0.01) with a zero bias, as the official code."""
        bound = math.sqrt(6 / self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.normal_(self.mixture.weight, 0, 0.01)
        nn.init.zeros_(self.mixture.bias)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the filters are mixed of: a [N, m, bases] of x [N, C, H, W], and the banks [bases*O, C*K]."""
        share = self.mixture(x.mean((2, 3))).sigmoid() * (2 / self.bases)
        return share.reshape(-1, self.regions, self.bases), self.weight.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, m*O, C*K]."""
        return reference_mix.mix(*self.parts(x), self.weight.shape[0] // self.bases)

    def extra_repr(self) -> str:
        """The number of banks."""
        return f"bases={self.bases}"


class PaperGenerator(nn.Module):
    """Filters from the image itself: pooled to kh x kw, then two 1x1 convolutions (paper).

    W[n] = Conv1x1_{m*m -> m*O*C, groups=m}(sigmoid(Conv1x1_{C -> m*m}(pool(x[n]))))

    The pooling is nn.AdaptiveAvgPool2d, written as two matrix products: its exported form would fix H and W.

    Args:
        in_channels, out_channels, kernel_size, regions: as in `DRConv2d`.

    Shape:
        [N, C, H, W] -> [N, m*O, C*K].
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], regions: int) -> None:
        super().__init__()
        self.kernel_size, self.rows = kernel_size, regions * out_channels
        self.columns = in_channels * math.prod(kernel_size)
        self.squeeze = nn.Conv2d(in_channels, regions * regions, 1)
        self.expand = nn.Conv2d(regions * regions, regions * out_channels * in_channels, 1, groups=regions)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, m*O, C*K]."""
        pooled = _pooled(x, self.kernel_size)
        filters: Tensor = self.expand(self.squeeze(pooled).sigmoid())  # channels are [region][O][C]
        return filters.reshape(-1, self.rows, self.columns)


def _pooled(x: Tensor, cells: tuple[int, int]) -> Tensor:
    """[N, C, H, W] -> [N, C, *cells], as adaptive average pooling."""
    if cells == (1, 1):
        return x.mean((2, 3), keepdim=True)  # nothing to build matrices for, and a map of one pixel traces too
    rows, columns = (_pooling(x, axis, count) for axis, count in zip((2, 3), cells))
    return rows @ x @ columns.mT


def _pooling(x: Tensor, axis: int, cells: int) -> Tensor:
    """Averages of adaptive pooling along one axis of x, as a matrix [cells, size] in the dtype of x.

    Cell i takes the positions from floor(i*size/cells) to before ceil((i+1)*size/cells): all that it
    overlaps, p + 1 > i*size/cells and p < (i+1)*size/cells.
    """
    size = x.shape[axis]
    cell = torch.arange(cells, device=x.device)[:, None]
    position = torch.arange(size, device=x.device)
    overlap = (cell * size < (position + 1) * cells) & (position * cells < (cell + 1) * size)
    weights = overlap.to(x.dtype)
    return weights / weights.sum(1, keepdim=True)
