"""The reference against implementations that share no code with it, and what FilterNorm does at its edges."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.ops.ddf import reference
from dyndeploy.ops.ddf.op import SPEC, decoupled_dynamic_filter
from dyndeploy.testing.cases import Case, cases

ANISOTROPIC = Case.of(SPEC, kernel=(3, 2), strides=(2, 1), pads=(1, 0, 2, 1), dilations=(1, 2), filter_norm=0)


def naive(
    x,
    channel_filter,
    spatial_filter,
    channel_gain,
    *,
    kernel_size,
    stride,
    padding,
    dilation,
    heads,
    scale,
    combine,
    filter_norm,
    spatial_gain,
    relu,
):
    """Eq. 2 and 3 as loops over every output value, in numpy."""
    x, channel_filter, spatial_filter, channel_gain = (
        np.asarray(t) for t in (x, channel_filter, spatial_filter, channel_gain)
    )
    n, c, height, width = x.shape
    kh, kw = kernel_size
    k, branches = kh * kw, scale * scale
    ho, wo = spatial_filter.shape[2:]

    def norm(taps):
        return (taps - taps.mean()) / (taps.std(ddof=1) + 1e-10) if filter_norm else taps

    y = np.zeros((n, c, scale * ho, scale * wo))
    for b, r, ci, i, j in itertools.product(range(n), range(branches), range(c), range(ho), range(wo)):
        begin = (r * c + ci) * k
        channel = norm(channel_filter[b, begin : begin + k]) * channel_gain[begin : begin + k]
        begin = (r * heads + ci * heads // c) * k
        spatial = norm(spatial_filter[b, begin : begin + k, i, j]) * spatial_gain
        taps = channel + spatial if combine else channel * spatial
        total = 0.0
        for t, tap in enumerate(taps):
            h = i * stride[0] - padding[0] + t // kw * dilation[0]
            v = j * stride[1] - padding[1] + t % kw * dilation[1]
            if 0 <= h < height and 0 <= v < width:
                total += tap * x[b, ci, h, v]
        y[b, ci, scale * i + r // scale, scale * j + r % scale] = max(total, 0) if relu else total
    return torch.from_numpy(y)


@pytest.mark.parametrize("case", cases(SPEC), ids=str)
def test_agrees_with_naive_loops(draw, case):
    tensors = draw(case, H=5, W=6)
    torch.testing.assert_close(case.run(*tensors), naive(*tensors, **case.keywords))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_agrees_with_naive_loops_on_drawn_attributes(draw, draw_window, data):
    window = draw_window(data)
    case = Case.of(
        SPEC,
        **window,
        heads=data.draw(st.sampled_from([1, 2, 4]), "heads"),
        scale=data.draw(st.integers(1, 2), "scale"),
        combine=data.draw(st.integers(0, 1), "combine"),
        filter_norm=int(data.draw(st.booleans(), "filter_norm") and window["kernel"] != (1, 1)),
        spatial_gain=data.draw(st.sampled_from([1.0, 0.5, -2.0]), "spatial_gain"),
        relu=data.draw(st.integers(0, 1), "relu"),
        N=1,
    )
    tensors = draw(case)
    torch.testing.assert_close(case.run(*tensors), naive(*tensors, **case.keywords))


def test_channel_filters_alone_are_a_depthwise_convolution(draw):
    x, channel_filter, spatial_filter, channel_gain = draw(ANISOTROPIC)
    y = ANISOTROPIC.run(x, channel_filter, torch.ones_like(spatial_filter), channel_gain)
    weights = (channel_filter * channel_gain).reshape(-1, 1, 3, 2)
    padded = F.pad(x, (0, 1, 1, 2)).flatten(0, 1)[None]
    expected = F.conv2d(padded, weights, None, (2, 1), 0, (1, 2), groups=len(weights))
    torch.testing.assert_close(y, expected.reshape(y.shape))


def test_filters_of_one_pixel_are_a_plain_convolution(draw):
    """Constant in space, and in the product with ones: what is left is an ordinary cross-correlation."""
    x, channel_filter, spatial_filter, _ = draw(Case.of(SPEC, N=1))
    spatial_filter[:] = spatial_filter[:, :, :1, :1]
    y = decoupled_dynamic_filter(x, torch.ones_like(channel_filter), spatial_filter, kernel_size=3, filter_norm=False)
    weight = spatial_filter[0, :, 0, 0].reshape(1, 1, 3, 3).repeat(4, 1, 1, 1)
    torch.testing.assert_close(y, F.conv2d(x, weight, groups=4))


@pytest.mark.parametrize("combine", ["mul", "add"])
def test_up_is_one_filter_per_sub_pixel(draw, combine):
    """As the official code: s*s independent filters, stacked behind each channel, then a pixel shuffle."""
    case = {"kernel_size": (3, 3), "padding": (1, 1, 1, 1), "heads": 2, "combine": combine, "spatial_gain": 0.5}
    x, channel_filter, spatial_filter, channel_gain = draw(Case.of(SPEC, pads=(1, 1, 1, 1), heads=2, scale=2))
    parts = zip(channel_filter.chunk(4, 1), spatial_filter.chunk(4, 1), channel_gain.chunk(4))
    branches = [decoupled_dynamic_filter(x, *part, **case) for part in parts]
    expected = F.pixel_shuffle(torch.stack(branches, dim=2).flatten(1, 2), 2)
    y = decoupled_dynamic_filter(x, channel_filter, spatial_filter, channel_gain, **case, scale=2)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize(("size", "out"), [((7, 5), (4, 3)), ((6, 5), (3, 3)), ((1, 2), (1, 1))])
def test_odd_sizes_are_rounded_up(draw, size, out):
    """The official code rounds down, and fails on its own spatial filters."""
    case = Case.of(SPEC, strides=(2, 2), pads=(1, 1, 1, 1), H=size[0], W=size[1])
    assert case.run(*draw(case)).shape == (2, 4, *out)


def test_filter_norm_forgets_scale_and_shift(draw):
    x, channel_filter, spatial_filter, channel_gain = draw(Case.of(SPEC))
    y = decoupled_dynamic_filter(x, channel_filter, spatial_filter, channel_gain, kernel_size=3)
    other = decoupled_dynamic_filter(x, 3 * channel_filter + 2, 0.1 * spatial_filter - 5, channel_gain, kernel_size=3)
    torch.testing.assert_close(y, other)


def test_constant_filters_are_zero_after_filter_norm(draw):
    """Also where their mean is another float32 than they are; the gradient is that of a filter of std 1."""
    x, channel_filter, spatial_filter, channel_gain = (t.float().requires_grad_() for t in draw(Case.of(SPEC)))
    y = decoupled_dynamic_filter(x, channel_filter, spatial_filter * 0 + 0.1, channel_gain, kernel_size=3)
    assert not y.any()
    y.sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, channel_filter, spatial_filter, channel_gain))
    constant = (spatial_filter.detach() * 0 + 0.1).requires_grad_()
    decoupled_dynamic_filter(x, channel_filter, constant, channel_gain, kernel_size=3).sum().backward()
    assert 0 < constant.grad.abs().max() < 100


def test_one_tap_has_no_filter_norm(draw):
    case = Case.of(SPEC, kernel=(1, 1))
    with pytest.raises(DynError, match=r"kernel_size=\(1, 1\) with filter_norm=True"):
        reference.forward(*draw(case), **case.keywords)
