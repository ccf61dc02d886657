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
from dyndeploy.testing.single_op import single_op_model

# Anisotropic in everything, so that no height can be taken for a width.
ANISOTROPIC = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2)}
CASES = {
    "plain": {},
    "padded": {"padding": (1, 1, 1, 1)},
    "anisotropic": dict(kernel=(3, 2), **ANISOTROPIC),
    "stride along the width": {
        "kernel": (2, 3),
        "stride": (1, 3),
        "padding": (0, 2, 1, 0),
        "dilation": (2, 1),
    },
    "groups": {"groups": 2, "padding": (1, 1, 1, 1)},
    "offset groups": {"offset_groups": 4, "padding": (1, 1, 1, 1)},
    "both groups": dict(groups=2, offset_groups=4, kernel=(2, 3), **ANISOTROPIC),
    "large offsets": {"spread": 8.0, "padding": (1, 1, 1, 1)},
    "one tap": {"kernel": (1, 1)},
}


def attributes_of(case):
    """The attributes among the arguments of `draw`."""
    return {k: v for k, v in case.items() if k in ("stride", "padding", "dilation", "groups", "offset_groups")}


def naive(
    x,
    offset_mask,
    weight,
    bias,
    *,
    stride=(1, 1),
    padding=(0, 0, 0, 0),
    dilation=(1, 1),
    groups=1,
    offset_groups=1,
    sigmoid=True,
    mask_scale=1.0,
    relu=False,
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


def relative_error(value, truth):
    return ((torch.as_tensor(np.asarray(value)).double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_naive_loops(draw, case):
    tensors, attributes = draw(**case), attributes_of(case)
    torch.testing.assert_close(modulated_deform_conv2d(*tensors, **attributes), naive(*tensors, **attributes))


@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("mask_scale", [2.0, -0.5])
@pytest.mark.parametrize("relu", [True, False])
def test_mask_and_relu_agree_with_naive_loops(draw, sigmoid, mask_scale, relu):
    tensors = draw(size=(4, 5))
    attributes = {"sigmoid": sigmoid, "mask_scale": mask_scale, "relu": relu}
    torch.testing.assert_close(modulated_deform_conv2d(*tensors, **attributes), naive(*tensors, **attributes))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_agrees_with_naive_loops_on_drawn_attributes(draw, data):
    def twice(low, high):
        return st.tuples(st.integers(low, high), st.integers(low, high))

    kernel, dilation = data.draw(twice(1, 3), "kernel"), data.draw(twice(1, 2), "dilation")
    padding = data.draw(twice(0, 2), "begin") + data.draw(twice(0, 2), "end")
    smallest = [max(1, d * (k - 1) + 1 - a - b) for d, k, a, b in zip(dilation, kernel, padding, padding[2:])]
    size = [low + data.draw(st.integers(0, 3), "more") for low in smallest]
    groups, offset_groups = data.draw(st.sampled_from([1, 2, 4])), data.draw(st.sampled_from([1, 2, 4]))
    attributes = {
        "stride": data.draw(twice(1, 3), "stride"),
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "offset_groups": offset_groups,
    }
    tensors = draw(
        n=data.draw(st.integers(1, 2)),
        o=groups * data.draw(st.integers(1, 2)),
        size=size,
        kernel=kernel,
        spread=data.draw(st.sampled_from([0.0, 0.5, 1.0, 5.0])),
        seed=data.draw(st.integers(0, 1000)),
        **attributes,
    )
    attributes |= {"sigmoid": data.draw(st.booleans()), "mask_scale": data.draw(st.sampled_from([1.0, 2.0]))}
    torch.testing.assert_close(modulated_deform_conv2d(*tensors, **attributes), naive(*tensors, **attributes))


def standard_model(attributes):
    names = {
        "stride": "strides",
        "padding": "pads",
        "dilation": "dilations",
        "groups": "group",
        "offset_groups": "offset_group",
    }
    return single_op_model(SPEC, {names[k]: v for k, v in attributes.items()})


def feeds(tensors):
    return {t.name: value.float().numpy() for t, value in zip(SPEC.inputs, tensors)}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_onnx_reference_evaluator(draw, case):
    """It is right for every attribute; it is not for maps of one row or column (it divides by size - 1)."""
    tensors, attributes = draw(**{"n": 1, "c": 4, "o": 2, "size": (4, 5), **case}), attributes_of(case)
    (y,) = ReferenceEvaluator(standard_model(attributes)).run(None, feeds(tensors))
    assert relative_error(y, modulated_deform_conv2d(*tensors, **attributes)) < 1e-6


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_onnxruntime_deform_conv(draw, case):
    tensors, attributes = draw(**case), attributes_of(case)
    session = onnxruntime.InferenceSession(standard_model(attributes).SerializeToString())
    (y,) = session.run(None, feeds(tensors))
    assert relative_error(y, modulated_deform_conv2d(*tensors, **attributes)) < 2e-6


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_without_offsets_it_is_a_convolution(draw, case):
    x, offset_mask, weight, bias = draw(**{**case, "spread": 0.0})
    attributes = attributes_of(case)
    offset_mask[:, offset_mask.shape[1] // 3 * 2 :] = 1.0
    top, left, bottom, right = attributes.pop("padding", (0, 0, 0, 0))
    attributes.pop("offset_groups", None)
    expected = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, **attributes)
    y = modulated_deform_conv2d(x, offset_mask, weight, bias, **attributes_of(case), sigmoid=False)
    torch.testing.assert_close(y, expected)


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
    x, offset_mask, weight, bias = draw(offset_groups=2, padding=(1, 1, 1, 1))
    offset_mask[0, 2 * 5 + axis] = offset  # tap 5 of group 0 of sample 0
    y = modulated_deform_conv2d(x, offset_mask, weight, bias, padding=1, offset_groups=2)
    torch.testing.assert_close(y, naive(x, offset_mask, weight, bias, padding=(1, 1, 1, 1), offset_groups=2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pixels_that_no_sample_reaches_do_not_matter(draw, value):
    """Not even when they are not finite: an overflow in one corner must not spread along the border."""
    x, offset_mask, weight, bias = draw(padding=(1, 1, 1, 1), spread=0.0)
    x[:, :, 0, 0] = value
    y = modulated_deform_conv2d(x, offset_mask, weight, bias, padding=1)
    finite = torch.ones_like(y, dtype=torch.bool)
    finite[:, :, :2, :2] = False
    assert torch.equal(y.isfinite(), finite)


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_maps_of_one_row_or_column(draw, size):
    tensors = draw(size=size, padding=(1, 1, 1, 1))
    torch.testing.assert_close(modulated_deform_conv2d(*tensors, padding=1), naive(*tensors, padding=(1, 1, 1, 1)))


def test_empty_batch(draw):
    x, offset_mask, weight, bias = draw(padding=(1, 1, 1, 1))
    assert modulated_deform_conv2d(x[:0], offset_mask[:0], weight, bias, padding=1).shape == (0, 6, 7, 6)
