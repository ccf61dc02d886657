"""Self-calibrated convolution in plain torch: the truth that the layer and its exports are compared with.

Liu et al., "Improving Convolutional Networks with Self-Calibrated Convolutions", CVPR 2020, eq. 2 to 5.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Upsample = Literal["nearest", "bilinear"]


class ConvNorm(NamedTuple):
    """A 3x3 convolution without bias, [O, C/groups, 3, 3], and the BatchNorm behind it: four [O], and eps."""

    conv: Tensor
    gamma: Tensor
    beta: Tensor
    mean: Tensor
    variance: Tensor
    eps: float


def forward(
    x: Tensor,
    k2: ConvNorm,
    k3: ConvNorm,
    k4: ConvNorm,
    *,
    stride: int,
    dilation: int,
    groups: int,
    pooling: int,
    upsample: Upsample,
) -> Tensor:
    """y = K4(K3(x) * sigmoid(x + up(K2(avg(x))))), with avg over pooling x pooling blocks.

    Each K is a convolution with padding = dilation and a BatchNorm in evaluation mode; K4 alone has the
    stride. `up` is a matrix per axis: one 1 per row at column i*n // size (nearest), or the two weights of
    the half-pixel rule (bilinear).

    Args:
        x: [N, C, H, W], H and W at least `pooling`.
        k2, k3, k4: the three convolutions.

    Returns:
        [N, O, ceil(H/stride), ceil(W/stride)] in the dtype of x.
    """
    n, c, h, w = x.shape
    rows, columns = h // pooling, w // pooling
    blocks = x[:, :, : rows * pooling, : columns * pooling].reshape(n, c, rows, pooling, columns, pooling)
    calibration = _apply(k2, blocks.mean((3, 5)), 1, dilation, groups)
    up_rows, up_columns = (_up(low, size, upsample).to(x) for low, size in zip(calibration.shape[2:], (h, w)))
    gate = torch.sigmoid(x + torch.einsum("ih,jw,nchw->ncij", up_rows, up_columns, calibration))
    return _apply(k4, _apply(k3, x, 1, dilation, groups) * gate, stride, dilation, groups)


def _apply(k: ConvNorm, x: Tensor, stride: int, dilation: int, groups: int) -> Tensor:
    y = F.conv2d(x, k.conv, None, stride, dilation, dilation, groups)
    scale = k.gamma / torch.sqrt(k.variance + k.eps)
    return (y - k.mean[:, None, None]) * scale[:, None, None] + k.beta[:, None, None]


def _up(low: int, size: int, upsample: Upsample) -> Tensor:
    """The matrix [size, low] of one axis, float64."""
    matrix = torch.zeros(size, low, dtype=torch.float64)
    for i in range(size):
        if upsample == "nearest":
            matrix[i, i * low // size] = 1
            continue
        position = min(max((i + 0.5) * low / size - 0.5, 0), low - 1)
        left = int(position)
        matrix[i, left] += 1 - (position - left)
        matrix[i, min(left + 1, low - 1)] += position - left
    return matrix
