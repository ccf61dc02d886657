"""The reference against three implementations that share no code with it, and its border rule."""

import itertools
import math

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from torch.nn import functional as F

from dyndeploy.ops.dcnv2.op import SPEC, modulated_deform_conv2d
from dyndeploy.testing.cases import Case, cases
from dyndeploy.testing.numeric import compare
from dyndeploy.testing.single_op import single_op_model

PADDED = Case.of(SPEC, pads=(1, 1, 1, 1))
each_case = pytest.mark.parametrize("case", cases(SPEC), ids=str)


def naive(
    x,
    offset_mask,
    weight,
    bias,
    *,
    stride,
    padding,
    dilation,
    groups,
    offset_groups,
    sigmoid,
    mask_scale,
    relu,
):
    """Eq. 1 as loops. Bilinear interpolation is the kernel of the first paper's eq. 4, over every pixel."""
    x, offset_mask, weight, bias = (np.asarray(t) for t in (x, offset_mask, weight, bias))
    n, c, height, width = x.shape
    o, _, kh, kw = weight.shape
    k = kh * kw
    ho, wo = offset_mask.shape[2:]
    y = np.zeros((n, o, ho, wo)) + bias[:, None, None]
    for b, ci, i, j, t in itertools.product(range(n), range(c), range(ho), range(wo), range(k)):
        g = ci // (c // offset_groups)
        offset_y, offset_x = offset_mask[b, g * 2 * k + 2 * t : g * 2 * k + 2 * t + 2, i, j]
        mask = offset_mask[b, 2 * offset_groups * k + g * k + t, i, j]
        mask = mask_scale * (1 / (1 + math.exp(-mask)) if sigmoid else mask)
        h = i * stride[0] - padding[0] + t // kw * dilation[0] + offset_y
        v = j * stride[1] - padding[1] + t % kw * dilation[1] + offset_x
        if not (math.isfinite(h) and math.isfinite(v)):
            continue
        rows = np.maximum(0, 1 - abs(h - np.arange(height)))
        columns = np.maximum(0, 1 - abs(v - np.arange(width)))
        sample = rows @ x[b, ci] @ columns * mask
        group = ci // (c // groups)
        outputs = slice(group * (o // groups), (group + 1) * (o // groups))
        y[b, outputs, i, j] += weight[outputs, ci % (c // groups), t // kw, t % kw] * sample
    return torch.from_numpy(np.maximum(y, 0) if relu else y)


@each_case
def test_agrees_with_naive_loops(draw, case):
    tensors = draw(case)
    torch.testing.assert_close(case.run(*tensors), naive(*tensors, **case.keywords))


@pytest.mark.parametrize("sigmoid", [1, 0])
@pytest.mark.parametrize("mask_scale", [2.0, -0.5])
@pytest.mark.parametrize("relu", [1, 0])
def test_mask_and_relu_agree_with_naive_loops(draw, sigmoid, mask_scale, relu):
    case = Case.of(SPEC, sigmoid=sigmoid, mask_scale=mask_scale, relu=relu, H=4, W=5)
    tensors = draw(case)
    torch.testing.assert_close(case.run(*tensors), naive(*tensors, **case.keywords))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_agrees_with_naive_loops_on_drawn_attributes(draw, draw_window, data):
    group = data.draw(st.sampled_from([1, 2, 4]), "group")
    case = Case.of(
        SPEC,
        **draw_window(data),
        group=group,
        offset_group=data.draw(st.sampled_from([1, 2, 4]), "offset_group"),
        sigmoid=data.draw(st.integers(0, 1), "sigmoid"),
        mask_scale=data.draw(st.sampled_from([1.0, 2.0]), "mask_scale"),
        N=data.draw(st.integers(1, 2), "N"),
        O=group * data.draw(st.integers(1, 2), "rows"),
    )
    tensors = draw(case, data.draw(st.integers(0, 1000), "seed"))
    offsets_of(tensors).mul_(data.draw(st.sampled_from([0.0, 0.3, 1.0, 3.0]), "spread"))
    torch.testing.assert_close(case.run(*tensors), naive(*tensors, **case.keywords))


def offsets_of(tensors):
    """A view of the offsets, without the masks."""
    return tensors[1][:, : tensors[1].shape[1] // 3 * 2]


@each_case
def test_agrees_with_onnx_reference_evaluator(case):
    """It is right for every attribute; it is not for maps of one row or column (it divides by size - 1)."""
    feeds = case.draw(dtype="float32", N=1, O=2, H=4, W=5)
    (y,) = ReferenceEvaluator(single_op_model(SPEC, case.attributes)).run(None, feeds)
    assert compare(y, truth_of(case, feeds)).relative_l2 < 1e-6


@each_case
def test_agrees_with_onnxruntime_deform_conv(case):
    feeds = case.draw(dtype="float32")
    session = onnxruntime.InferenceSession(single_op_model(SPEC, case.attributes).SerializeToString())
    (y,) = session.run(None, feeds)
    assert compare(y, truth_of(case, feeds)).relative_l2 < 2e-6


def truth_of(case, feeds):
    return case.run(*(torch.from_numpy(a).double() for a in feeds.values())).numpy()


@each_case
def test_without_offsets_it_is_a_convolution(draw, case):
    x, offset_mask, weight, bias = tensors = draw(case)
    offset_mask[:] = 1.0
    offsets_of(tensors)[:] = 0.0
    attributes = {**case.keywords, "sigmoid": False, "mask_scale": 1.0, "relu": False}
    top, left, bottom, right = attributes["padding"]
    window = {name: attributes[name] for name in ("stride", "dilation", "groups")}
    expected = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, **window)
    torch.testing.assert_close(modulated_deform_conv2d(*tensors, **attributes), expected)


def sample_at(x, h, v):
    """One tap at pixel (h, v) of a map."""
    offset_mask = torch.tensor([h, v, 1.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    # a stride larger than the map leaves one output, at (0, 0)
    return modulated_deform_conv2d(x, offset_mask, one, stride=100, sigmoid=False).item()


def test_border_rule():
    """A sample fades to zero over one pixel outside the map; DCNv1 would give zero at once."""
    x = torch.full((1, 1, 3, 4), 8.0, dtype=torch.float64)
    assert sample_at(x, 1.5, 2.25) == 8.0
    assert sample_at(x, -0.25, 0.0) == 6.0
    assert sample_at(x, 0.0, -0.75) == 2.0
    assert sample_at(x, 2.5, 3.0) == 4.0
    assert sample_at(x, 2.5, 3.5) == 2.0
    for outside in (-1.0, -1.5, -7.0):
        assert sample_at(x, outside, 1.0) == 0.0
        assert sample_at(x, 1.0, outside) == 0.0
    assert sample_at(x, 3.0, 1.0) == sample_at(x, 1.0, 4.0) == 0.0
    assert sample_at(x, 2.0, 3.0) == 8.0


@pytest.mark.parametrize("offset", [math.nan, math.inf, -math.inf, 1e300, -1e300, 3e9])
@pytest.mark.parametrize("axis", [0, 1])
def test_offsets_that_reach_nothing_contribute_nothing(draw, offset, axis):
    case = Case.of(SPEC, pads=(1, 1, 1, 1), offset_group=2)
    tensors = draw(case)
    tensors[1][0, 2 * 5 + axis] = offset  # tap 5 of group 0 of sample 0
    torch.testing.assert_close(case.run(*tensors), naive(*tensors, **case.keywords))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pixels_that_no_sample_reaches_do_not_matter(draw, value):
    """Not even when they are not finite: an overflow in one corner must not spread along the border."""
    tensors = draw(PADDED)
    offsets_of(tensors)[:] = 0.0
    tensors[0][:, :, 0, 0] = value
    y = PADDED.run(*tensors)
    finite = torch.ones_like(y, dtype=torch.bool)
    finite[:, :, :2, :2] = False
    assert torch.equal(y.isfinite(), finite)


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_maps_of_one_row_or_column(draw, size):
    tensors = draw(PADDED, H=size[0], W=size[1])
    torch.testing.assert_close(PADDED.run(*tensors), naive(*tensors, **PADDED.keywords))


def test_pixels_beyond_two_to_the_24_are_the_right_ones():
    """float32 holds no index above 2^24: positions are integers."""
    height, width = 4100, 4099
    x = torch.arange(height * width, dtype=torch.float32).remainder_(251).reshape(1, 1, height, width)
    rows = slice(height - 4, height)
    offset_mask = torch.zeros(1, 3, 4, width)
    offset_mask[:, 0] = height - 4
    offset_mask[:, 2] = 1
    y = modulated_deform_conv2d(
        x[:, :, :, :], offset_mask, torch.ones(1, 1, 1, 1), stride=(height // 4 + 1, 1), sigmoid=False
    )
    assert y.shape == (1, 1, 4, width)
    assert torch.equal(y[0, 0, 0], x[0, 0, rows][0])
