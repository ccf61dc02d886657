"""The functional core of the self-calibrated convolution.

There is no custom op: pooling, convolutions, a gather and a gate are standard in torch, in ONNX and in every
runtime. What a deployment gains here, it gains in graph passes (BatchNorm folding), not in a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.ops.scconv.reference import Upsample


def self_calibrate(x: Tensor, response: Tensor, calibration: Tensor, upsample: Upsample = "nearest") -> Tensor:
    """response * sigmoid(x + up(calibration)) (Liu et al., CVPR 2020, eq. 4).

    Args:
        x: [N, C, H, W], the input of the layer.
        response: [N, C, H, W], the convolved input.
        calibration: [N, C, h, w], the convolved and pooled input; `up` brings it to H x W.
        upsample: "nearest" (as `upsample_nearest`) or "bilinear" (half-pixel centres).

    Returns:
        [N, C, H, W].

    Raises:
        DynError: `upsample` is neither.
    """
    size = x.shape[2:]
    if upsample == "nearest":
        up = upsample_nearest(calibration, size)
    elif upsample == "bilinear":
        up = F.interpolate(calibration, size, mode="bilinear")
    else:
        raise DynError(f"SCConv: upsample={upsample!r}.", fix='upsample="nearest" or upsample="bilinear"')
    return response * torch.sigmoid(x + up)


def upsample_nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """[N, C, h, w] -> [N, C, H, W]: y[n,c,i,j] = x[n, c, i*h // H, j*w // W], in whole numbers.

    Not F.interpolate: it computes floor(i * float32(h/H)), ONNX Runtime's Resize rounds otherwise, and the
    two pick different pixels at some sizes (README.md has the counts). A gather is the same everywhere.
    """
    for axis in (3, 2):  # columns are copied one by one: first, while there are fewest
        out = size[axis - 2]
        index = torch.arange(out, device=x.device) * x.shape[axis] // out
        x = x.index_select(axis, index)
    return x
