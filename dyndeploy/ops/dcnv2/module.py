"""The layer: a predictor of offsets and masks, and the deformable convolution that follows it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dyndeploy.errors import DynError
from dyndeploy.ops._layer import check_arguments, check_fits, check_input
from dyndeploy.ops._torch import pair
from dyndeploy.ops.dcnv2.op import modulated_deform_conv2d, with_masks_of_one


class ModulatedDeformConv2d(nn.Module):
    """Deformable convolution v2 with its own offset and mask predictor (Zhu et al., CVPR 2019).

    The predictor is an ordinary convolution on the same input, with the same kernel, stride, padding and dilation and
    with a bias, initialised to zero: the layer starts as half (mask 0.5) of a plain convolution.

    Args:
        in_channels, out_channels: channels C and O.
        kernel_size, stride, padding, dilation: one int or (h, w).
        groups: groups of the convolution.
        offset_groups: channel groups with offsets of their own.
        bias: add a learned bias (the predictor always has one).
        modulated: False is DCNv1: offsets only, with the border rule of DCNv2.
        mask_scale: mask = mask_scale * sigmoid(m); 2.0 for checkpoints of the original MXNet code.

    Shape:
        [N, C, H, W] -> [N, O, Ho, Wo], sizes as for nn.Conv2d.

    Raises:
        DynError: an argument is out of range, or channels are not divisible by the groups; the input has other
            channels than C, or is smaller than the window.

    Example:
        >>> layer = ModulatedDeformConv2d(8, 16, 3, stride=2, padding=1)
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
        groups: int = 1,
        offset_groups: int = 1,
        bias: bool = True,
        modulated: bool = True,
        mask_scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_arguments(
            "ModulatedDeformConv2d",
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
        for name, channels, divisor in (
            ("in_channels", in_channels, groups),
            ("out_channels", out_channels, groups),
            ("in_channels", in_channels, offset_groups),
        ):
            if divisor < 1 or channels % divisor:
                raise DynError(f"ModulatedDeformConv2d: {name}={channels} is not divisible by {divisor} groups.")
        if not 0 < mask_scale < math.inf:
            raise DynError(f"ModulatedDeformConv2d: mask_scale={mask_scale} is not a positive number.")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.padding, self.dilation = pair(padding), pair(dilation)
        self.groups, self.offset_groups = groups, offset_groups
        self.modulated, self.mask_scale = modulated, mask_scale
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        taps = self.kernel_size[0] * self.kernel_size[1]
        self.predictor = nn.Conv2d(
            in_channels,
            (3 if modulated else 2) * offset_groups * taps,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """weight uniform in +-1/sqrt(C*kh*kw), as the official code; everything else zero."""
        bound = 1 / math.sqrt(self.in_channels * self.kernel_size[0] * self.kernel_size[1])
        nn.init.uniform_(self.weight, -bound, bound)
        for parameter in (self.bias, self.predictor.weight, self.predictor.bias):
            if parameter is not None:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, O, Ho, Wo]."""
        check_input("ModulatedDeformConv2d", x, self.in_channels)
        check_fits(
            "ModulatedDeformConv2d", x, kernel_size=self.kernel_size, padding=self.padding, dilation=self.dilation
        )
        predicted: Tensor = self.predictor(x)
        return modulated_deform_conv2d(
            x,
            predicted if self.modulated else with_masks_of_one(predicted),
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            offset_groups=self.offset_groups,
            sigmoid=self.modulated,
            mask_scale=self.mask_scale if self.modulated else 1.0,
        )

    def extra_repr(self) -> str:
        """The arguments that are not the defaults."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        text += f", offset_groups={self.offset_groups}, bias={self.bias is not None}"
        return text + ("" if self.modulated else ", modulated=False") + f", mask_scale={self.mask_scale}"
