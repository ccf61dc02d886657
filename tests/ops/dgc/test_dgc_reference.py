"""The reference against loops and against plain convolutions, and its rule of what is kept."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dyndeploy.ops.dgc.op import SPEC, dynamic_group_conv2d
from dyndeploy.ops.dgc.reference import kept
from dyndeploy.testing.cases import Case, cases

PLAIN = Case.of(SPEC, C=8)


def naive(
    x,
    saliency,
    weight,
    bias,
    *,
    stride,
    padding,
    dilation,
    heads,
    inactive,
    threshold,
    shuffle,
    relu,
):
    """The definition as loops in float64: a dropped channel is not looked at."""
    x, saliency, weight, bias = (np.asarray(t) for t in (x, saliency, weight, bias))
    n, c, height, width = x.shape
    o, _, kh, kw = weight.shape
    top, left, bottom, right = padding
    ho = (height + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    wo = (width + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((n, o, ho, wo))
    for b, head, row in itertools.product(range(n), range(heads), range(o // heads)):
        g = saliency[b, head * c : (head + 1) * c]
        limit = threshold if inactive < 0 else sorted([-1.0, *g])[inactive]
        filters = weight[head * (o // heads) + row]
        channel = row * heads + head if shuffle else head * (o // heads) + row
        y[b, channel] = bias[head * (o // heads) + row]
        for ci, i, j, p, q in itertools.product(range(c), range(ho), range(wo), range(kh), range(kw)):
            h, v = i * stride[0] - top + p * dilation[0], j * stride[1] - left + q * dilation[1]
            if g[ci] > limit and 0 <= h < height and 0 <= v < width:
                y[b, channel, i, j] += filters[ci, p, q] * g[ci] * x[b, ci, h, v]
    return torch.from_numpy(np.maximum(y, 0) if relu else y)


@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("case", cases(SPEC), ids=str)
def test_agrees_with_naive_loops(draw, case, relu):
    case = replace(case, attributes={**case.attributes, "relu": relu})
    tensors = draw(case, N=1, H=5, W=6)
    torch.testing.assert_close(case.run(*tensors), naive(*tensors, **case.keywords))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_agrees_with_naive_loops_on_drawn_attributes(draw, draw_window, data):
    channels, heads = data.draw(st.integers(1, 6), "C"), data.draw(st.sampled_from([1, 2, 3]), "heads")
    case = Case.of(
        SPEC,
        **draw_window(data),
        heads=heads,
        inactive=data.draw(st.integers(-1, channels), "inactive"),
        threshold=data.draw(st.sampled_from([0.0, 0.5, 0.6]), "threshold"),
        shuffle=data.draw(st.integers(0, 1), "shuffle"),
        relu=data.draw(st.integers(0, 1), "relu"),
        N=data.draw(st.integers(1, 2), "N"),
        C=channels,
        O=heads * data.draw(st.integers(1, 2), "rows"),
    )
    tensors = draw(case, data.draw(st.integers(0, 1000), "seed"))
    torch.testing.assert_close(case.run(*tensors), naive(*tensors, **case.keywords))


def test_kept_channels():
    """Two heads of four channels; the limit itself is dropped, with everything that equals it."""
    saliency = torch.tensor([[0.0, 3.0, 1.0, 2.0, 5.0, 5.0, 0.5, 5.0]])

    def rows(inactive, threshold=0.0):
        return ["".join("x" if k else "." for k in head) for head in kept(saliency, 2, inactive, threshold)[0]]

    assert rows(0) == ["xxxx", "xxxx"]
    assert rows(1) == [".xxx", "xx.x"]
    assert rows(2) == [".x.x", "...."]
    assert rows(3) == [".x..", "...."]
    assert rows(4) == ["....", "...."]
    assert rows(-1) == [".xxx", "xxxx"]
    assert rows(-1, 2.0) == [".x..", "xx.x"]


def test_kept_is_what_the_convolution_reads(draw):
    """A change of a dropped channel changes nothing, one of a kept channel does."""
    x, saliency, weight, bias = draw(PLAIN, N=1, O=4)
    attributes = {"inactive": 3, "shuffle": False}
    y = dynamic_group_conv2d(x, saliency, weight, bias, **attributes)
    reads = torch.zeros(4, 8, dtype=torch.bool)
    for channel in range(8):
        other = x.clone()
        other[:, channel] += 1
        reads[:, channel] = (dynamic_group_conv2d(other, saliency, weight, bias, **attributes) != y)[0].any((1, 2))
    assert torch.equal(reads, kept(saliency, 4, 3, 0.0)[0])


@pytest.mark.parametrize("inactive", range(9))
def test_without_ties_exactly_so_many_are_dropped(draw, inactive):
    _, saliency, _, _ = draw(PLAIN, ties=False)
    mask = kept(saliency, 4, inactive, 0.0)
    assert mask.shape == (2, 4, 8)
    assert (mask.sum(2) == 8 - inactive).all()


def test_zeros_are_dropped_with_the_first_of_them(draw):
    """All channels of a fresh ReLU may be zero: then nothing is kept as soon as one is to be dropped."""
    x, saliency, weight, bias = draw(PLAIN, N=1)
    y = dynamic_group_conv2d(x, saliency * 0, weight, bias, inactive=1, shuffle=False)
    assert torch.equal(y, bias[:, None, None].expand_as(y[0])[None])


def test_saliencies_of_one_are_a_convolution(draw):
    x, saliency, weight, bias = draw(PLAIN)
    ones = torch.ones_like(saliency)
    y = dynamic_group_conv2d(x, ones, weight, bias, padding=1, shuffle=False)
    torch.testing.assert_close(y, F.conv2d(x, weight, bias, padding=1))


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_shuffle_is_channel_shuffle(draw, heads):
    x, saliency, weight, bias = draw(Case.of(SPEC, heads=heads, C=8))
    rows = dynamic_group_conv2d(x, saliency, weight, bias, heads=heads, shuffle=False)
    y = dynamic_group_conv2d(x, saliency, weight, bias, heads=heads)
    torch.testing.assert_close(y, F.channel_shuffle(rows, heads))


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_maps_of_one_row_or_column(draw, size):
    case = Case.of(SPEC, pads=(1, 1, 1, 1), inactive=3, C=8, H=size[0], W=size[1])
    tensors = draw(case)
    torch.testing.assert_close(case.run(*tensors), naive(*tensors, **case.keywords))
