"""The reference against loops over every value, and against the interpolation of torch."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dyndeploy.ops.scconv import reference


def weights(channels, groups, seed):
    generator = np.random.default_rng(seed)
    conv = generator.standard_normal((channels, channels // groups, 3, 3))
    gamma, beta, mean = generator.standard_normal((3, channels))
    return reference.ConvNorm(
        *(torch.from_numpy(a) for a in (conv, gamma, beta, mean, generator.uniform(0.5, 2, channels))), 1e-5
    )


def convolve(k, x, stride, dilation, groups):
    """Loops over every tap of every output value, then the BatchNorm."""
    conv, gamma, beta, mean, variance = (t.numpy() for t in k[:5])
    outputs, width = conv.shape[:2]
    n, _, height, length = x.shape
    y = np.zeros((n, outputs, -(-height // stride), -(-length // stride)))
    for b, o, i, j in np.ndindex(*y.shape):
        first = o // (outputs // groups) * width
        for c, row, column in itertools.product(range(width), range(3), range(3)):
            h, v = i * stride + (row - 1) * dilation, j * stride + (column - 1) * dilation
            if 0 <= h < height and 0 <= v < length:
                y[b, o, i, j] += conv[o, c, row, column] * x[b, first + c, h, v]
        y[b, o, i, j] = (y[b, o, i, j] - mean[o]) / np.sqrt(variance[o] + k.eps) * gamma[o] + beta[o]
    return y


def naive(x, k2, k3, k4, *, stride, dilation, groups, pooling):
    """The formula with the nearest upsampling, in numpy."""
    x = x.numpy()
    n, c, height, width = x.shape
    low = np.zeros((n, c, height // pooling, width // pooling))
    for b, ci, i, j in np.ndindex(*low.shape):
        low[b, ci, i, j] = x[b, ci, i * pooling : (i + 1) * pooling, j * pooling : (j + 1) * pooling].mean()
    calibration, gate = convolve(k2, low, 1, dilation, groups), np.zeros_like(x)
    for b, ci, i, j in np.ndindex(*x.shape):
        below = calibration[b, ci, i * low.shape[2] // height, j * low.shape[3] // width]
        gate[b, ci, i, j] = 1 / (1 + np.exp(-x[b, ci, i, j] - below))
    return torch.from_numpy(convolve(k4, convolve(k3, x, 1, dilation, groups) * gate, stride, dilation, groups))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(4, 8), st.integers(4, 8)),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    groups=st.integers(1, 2),
    pooling=st.integers(1, 4),
)
def test_agrees_with_naive_loops(size, **attributes):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 2, *size)))
    k = [weights(2, attributes["groups"], seed) for seed in range(3)]
    y = reference.forward(x, *k, **attributes, upsample="nearest")
    torch.testing.assert_close(y, naive(x, *k, **attributes))


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [(4, 4), (5, 14), (12, 7)])
def test_agrees_with_the_interpolation_of_torch(upsample, size):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 4, *size)))
    k2, k3, k4 = (weights(4, 1, seed) for seed in range(3))

    def apply(k, value):
        y = F.conv2d(value, k.conv, padding=1)
        return F.batch_norm(y, k.mean, k.variance, k.gamma, k.beta, eps=k.eps)

    gate = torch.sigmoid(x + F.interpolate(apply(k2, F.avg_pool2d(x, 4)), size, mode=upsample))
    y = reference.forward(x, k2, k3, k4, stride=1, dilation=1, groups=1, pooling=4, upsample=upsample)
    torch.testing.assert_close(y, apply(k4, apply(k3, x) * gate))
