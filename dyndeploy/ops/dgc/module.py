"""The layer: BatchNorm and ReLU, a network that rates the channels for every head, and the convolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dyndeploy.errors import DynError
from dyndeploy.ops._layer import check_arguments, check_fits, check_input
from dyndeploy.ops._torch import pair
from dyndeploy.ops.dgc.op import dynamic_group_conv2d


class DGConv2d(nn.Module):
    """Dynamic group convolution (Su et al., ECCV 2020).

    y = shuffle(DGC(h, saliency(h))), h = ReLU(BatchNorm(x)): the layer is pre-activation and has no bias,
    as in the official code. A BatchNorm and ReLU in front of it come on top of its own.

    The number of channels that a head drops is state, not a setting: a schedule raises it while training.
    It is saved as the buffer `inactive_channels`, and forward and export use what a checkpoint holds. Set
    it through `inactive`: a number written into the buffer in place has no effect before the next `train()`,
    `eval()` or `load_state_dict()`.

    With `network_wise=True` (DGC-G) a head drops the channels whose saliency is <= `threshold`, one number for the
    whole network. It is state in the same way, as the buffer `saliency_threshold`; `inactive` is -1 then.

    Args:
        in_channels, out_channels: channels C and O.
        kernel_size, stride, padding, dilation: one int or (h, w).
        heads: groups of output channels with a gate of their own; divides O.
        squeeze: d, the saliency network has C // d hidden channels per head; d // 2 is taken where C < 80.
        keep: share of the channels that a head keeps; the layer starts with inactive = round(C * (1 - keep)). Has no
            effect with network_wise=True.
        network_wise: drop by `threshold` instead of by number; the layer starts with a threshold of 0, which drops
            nothing that counts.

    Attributes:
        saliency: the `Saliency` network; a forward hook on it sees what a lasso loss is about.
        keep, network_wise: as given.

    Shape:
        [N, C, H, W] -> [N, O, Ho, Wo], sizes as for nn.Conv2d.

    Raises:
        DynError: an argument is out of range, heads do not divide O, or nothing is left of C after the squeeze; the
            input has other channels than C, or is smaller than the window.

    Example:
        >>> layer = DGConv2d(64, 32, 3, padding=1, keep=0.25)
        >>> layer.inactive
        48
        >>> layer(torch.zeros(2, 64, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    inactive_channels: Tensor
    saliency_threshold: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        heads: int = 4,
        squeeze: int = 16,
        keep: float = 0.25,
        network_wise: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(
            "DGConv2d",
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
        if heads < 1 or out_channels % heads:
            raise DynError(f"DGConv2d: out_channels={out_channels} is not divisible by {heads} heads.")
        if not 0 <= keep <= 1:
            raise DynError(f"DGConv2d: keep={keep} is outside 0..1.", why="It is the share of channels kept.")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.padding, self.dilation = pair(padding), pair(dilation)
        self.heads, self.keep, self.network_wise = heads, keep, network_wise
        self.bn = nn.BatchNorm2d(in_channels)
        self.saliency = Saliency(in_channels, heads, squeeze)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        self.register_buffer("inactive_channels", torch.zeros((), dtype=torch.int64))
        self.register_buffer("saliency_threshold", torch.zeros(()) if network_wise else None)
        self.inactive = -1 if network_wise else round(in_channels * (1 - keep))
        self._threshold = 0.0
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """weight as nn.Conv2d's, uniform in +-1/sqrt(C*kh*kw)."""
        bound = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    @property
    def inactive(self) -> int:
        """Channels dropped per head, 0 to C; always -1 with network_wise=True.

        Raises:
            DynError: the number set is outside 0..C, or the layer is network-wise.
        """
        return self._inactive

    @inactive.setter
    def inactive(self, value: int) -> None:
        if self.network_wise and value != -1:
            raise DynError(
                f"DGConv2d: inactive={value} in a network-wise layer.",
                why="It drops what is not above its threshold, not a number of channels.",
                fix="layer.threshold = …, or build the layer with network_wise=False.",
            )
        if not self.network_wise and not 0 <= value <= self.in_channels:
            raise DynError(
                f"DGConv2d: inactive={value} is outside 0..{self.in_channels}.",
                why="It is the number of input channels that a head drops.",
            )
        # An int beside the buffer: reading a buffer in forward breaks torch.export and waits for the GPU.
        self._inactive = value
        self.inactive_channels.fill_(value)

    @property
    def threshold(self) -> float:
        """The largest saliency that is dropped, a float32; 0 without network_wise, where it has no effect.

        Raises:
            DynError: the number set is not finite, or the layer is not network-wise.
        """
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        if self.saliency_threshold is None:
            raise DynError(
                f"DGConv2d: threshold={value} in a layer that drops by number.",
                fix="layer.inactive = …, or build the layer with network_wise=True.",
            )
        # Rounded here, once: the ONNX attribute is a float32, and eager float64 has to decide as it does.
        rounded = torch.tensor(value, dtype=torch.float32, device="cpu").item()
        if not math.isfinite(rounded):
            raise DynError(f"DGConv2d: threshold={value} is not a finite float32.")
        self._threshold = rounded
        self.saliency_threshold.fill_(rounded)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, O, Ho, Wo]."""
        check_input("DGConv2d", x, self.in_channels)
        check_fits("DGConv2d", x, kernel_size=self.kernel_size, padding=self.padding, dilation=self.dilation)
        h = self.bn(x).relu()
        return dynamic_group_conv2d(
            h,
            self.saliency(h),
            self.weight,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            heads=self.heads,
            inactive=self._inactive,
            threshold=self._threshold,
        )

    def train(self, mode: bool = True) -> DGConv2d:
        """As nn.Module.train, and takes over a buffer that was written in place (a moving average does)."""
        self._read_buffer()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DGConv2d:
        """As nn.Module's, behind `to`, `half`, …; but the threshold stays float32, as the number stays an int."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.saliency_threshold is not None and self.saliency_threshold.dtype != torch.float32:
            self.saliency_threshold = self.saliency_threshold.float()
            self.saliency_threshold.fill_(self._threshold)
        return self

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        try:
            self._read_buffer()
        except DynError as error:
            error_msgs.append(f"{prefix}inactive_channels: {error}")

    def _read_buffer(self) -> None:
        if not self.inactive_channels.is_meta:
            self.inactive = int(self.inactive_channels)
        if self.saliency_threshold is not None and not self.saliency_threshold.is_meta:
            self.threshold = float(self.saliency_threshold)

    def extra_repr(self) -> str:
        """The arguments that submodules do not show."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", stride={self.stride}, padding={self.padding}, dilation={self.dilation}"
        text += f", heads={self.heads}"
        if self.network_wise:
            return text + f", network_wise=True, threshold={self.threshold}"
        return text + f", keep={self.keep}, inactive={self.inactive}"


class Saliency(nn.Module):
    """How much every head wants every channel: a squeeze-and-excitation per head, all heads at once.

    g[h] = ReLU(W2[h] ReLU(W1[h] GAP(x)) + b[h])

    Args:
        in_channels: C.
        heads: number of heads.
        squeeze: d; C // d hidden channels per head, C // (d // 2) where C < 80 (official code).

    Shape:
        [N, C, H, W] -> [N, heads*C], >= 0.

    Raises:
        DynError: no hidden channel is left.
    """

    def __init__(self, in_channels: int, heads: int, squeeze: int) -> None:
        super().__init__()
        divisor = squeeze // 2 if in_channels < 80 else squeeze
        hidden = in_channels // divisor if divisor > 0 else 0
        if hidden < 1:
            raise DynError(
                f"DGConv2d: {in_channels} channels cannot be squeezed by {divisor} (squeeze={squeeze}).",
                why="squeeze is halved where there are fewer than 80 channels." if in_channels < 80 else None,
                fix=f"squeeze={2 * in_channels if in_channels < 80 else in_channels}",
            )
        self.squeeze = nn.Linear(in_channels, heads * hidden, bias=False)
        self.expand = nn.Conv2d(heads * hidden, heads * in_channels, 1, groups=heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He et al.'s normal weights, biases of 1: every channel starts wanted, as in the official code."""
        nn.init.kaiming_normal_(self.squeeze.weight)
        nn.init.kaiming_normal_(self.expand.weight)
        assert self.expand.bias is not None
        nn.init.ones_(self.expand.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, heads*C]."""
        hidden = self.squeeze(x.mean((2, 3))).relu()
        wanted: Tensor = self.expand(hidden[:, :, None, None]).flatten(1).relu()
        return wanted
