"""The reference against loops and against plain convolutions, and its rule of what is kept."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dyndeploy.ops.dgc.op import dynamic_group_conv2d
from dyndeploy.ops.dgc.reference import kept

# Anisotropic in everything, so that no height can be taken for a width.
ANISOTROPIC = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2)}
CASES = {
    "nothing dropped": {},
    "padded": {"padding": (1, 1, 1, 1), "inactive": 6},
    "anisotropic": dict(kernel=(3, 2), **ANISOTROPIC, inactive=3),
    "stride along the width": {
        "kernel": (2, 3),
        "stride": (1, 3),
        "padding": (0, 2, 1, 0),
        "dilation": (2, 1),
        "heads": 2,
        "inactive": 5,
    },
    "one head": {"heads": 1, "inactive": 4},
    "as many heads as outputs": {"heads": 8, "inactive": 4},
    "one channel kept at most": {"inactive": 7},
    "everything dropped": {"inactive": 8},
    "threshold": {"inactive": -1, "threshold": 0.75},
    "threshold without inactive is not read": {"inactive": 2, "threshold": 100.0},
    "no shuffle": {"inactive": 3, "shuffle": False},
    "one tap": {"kernel": (1, 1), "inactive": 6},
}


def attributes_of(case):
    """The attributes in a case; what `draw` alone takes is left out."""
    return {k: v for k, v in case.items() if k != "kernel"}


def drawn(draw, case, **more):
    """Inputs for a case."""
    return draw(**{k: v for k, v in case.items() if k in ("kernel", "heads")}, **more)


def naive(
    x,
    saliency,
    weight,
    bias,
    *,
    stride=(1, 1),
    padding=(0, 0, 0, 0),
    dilation=(1, 1),
    heads=4,
    inactive=0,
    threshold=0.0,
    shuffle=True,
    relu=False,
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


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_naive_loops(draw, case, relu):
    tensors, attributes = drawn(draw, case, n=1, size=(5, 6)), attributes_of(case) | {"relu": relu}
    torch.testing.assert_close(dynamic_group_conv2d(*tensors, **attributes), naive(*tensors, **attributes))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_agrees_with_naive_loops_on_drawn_attributes(draw, data):
    def twice(low, high):
        return st.tuples(st.integers(low, high), st.integers(low, high))

    kernel, dilation = data.draw(twice(1, 3), "kernel"), data.draw(twice(1, 2), "dilation")
    padding = data.draw(twice(0, 2), "begin") + data.draw(twice(0, 2), "end")
    smallest = [max(1, d * (k - 1) + 1 - a - b) for d, k, a, b in zip(dilation, kernel, padding, padding[2:])]
    c, heads = data.draw(st.integers(1, 6), "c"), data.draw(st.sampled_from([1, 2, 3]), "heads")
    tensors = draw(
        n=data.draw(st.integers(1, 2), "n"),
        c=c,
        o=heads * data.draw(st.integers(1, 2), "rows"),
        size=[low + data.draw(st.integers(0, 2), "more") for low in smallest],
        kernel=kernel,
        heads=heads,
        seed=data.draw(st.integers(0, 1000), "seed"),
    )
    attributes = {
        "stride": data.draw(twice(1, 3), "stride"),
        "padding": padding,
        "dilation": dilation,
        "heads": heads,
        "inactive": data.draw(st.integers(-1, c), "inactive"),
        "threshold": data.draw(st.sampled_from([0.0, 0.5, 0.6]), "threshold"),
        "shuffle": data.draw(st.booleans(), "shuffle"),
        "relu": data.draw(st.booleans(), "relu"),
    }
    torch.testing.assert_close(dynamic_group_conv2d(*tensors, **attributes), naive(*tensors, **attributes))


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
    x, saliency, weight, bias = draw(n=1, o=4)
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
    _, saliency, _, _ = draw(distinct=True)
    mask = kept(saliency, 4, inactive, 0.0)
    assert mask.shape == (2, 4, 8)
    assert (mask.sum(2) == 8 - inactive).all()


def test_zeros_are_dropped_with_the_first_of_them(draw):
    """All channels of a fresh ReLU may be zero: then nothing is kept as soon as one is to be dropped."""
    x, saliency, weight, bias = draw(n=1)
    y = dynamic_group_conv2d(x, saliency * 0, weight, bias, inactive=1, shuffle=False)
    assert torch.equal(y, bias[:, None, None].expand_as(y[0])[None])


def test_saliencies_of_one_are_a_convolution(draw):
    x, saliency, weight, bias = draw()
    ones = torch.ones_like(saliency)
    y = dynamic_group_conv2d(x, ones, weight, bias, padding=1, shuffle=False)
    torch.testing.assert_close(y, F.conv2d(x, weight, bias, padding=1))


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_shuffle_is_channel_shuffle(draw, heads):
    x, saliency, weight, bias = draw(heads=heads)
    rows = dynamic_group_conv2d(x, saliency, weight, bias, heads=heads, shuffle=False)
    y = dynamic_group_conv2d(x, saliency, weight, bias, heads=heads)
    torch.testing.assert_close(y, F.channel_shuffle(rows, heads))


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_maps_of_one_row_or_column(draw, size):
    tensors, attributes = draw(size=size), {"padding": (1, 1, 1, 1), "inactive": 3}
    torch.testing.assert_close(dynamic_group_conv2d(*tensors, **attributes), naive(*tensors, **attributes))


def test_empty_batch(draw):
    x, saliency, weight, bias = draw()
    assert dynamic_group_conv2d(x[:0], saliency[:0], weight, bias, inactive=3).shape == (0, 8, 5, 4)
