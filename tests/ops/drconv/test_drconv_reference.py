"""The reference against loops and against plain convolutions, and its tie rule."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dyndeploy.ops.drconv.op import dynamic_region_aware_conv2d
from dyndeploy.ops.drconv.reference import regions_of

# Anisotropic in everything, so that no height can be taken for a width.
CASES = {
    "plain": {},
    "padded": {"padding": (1, 1, 1, 1)},
    "anisotropic": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2)},
    "stride along the width": {
        "kernel_size": (2, 3),
        "stride": (1, 3),
        "padding": (0, 2, 1, 0),
        "dilation": (2, 1),
        "regions": 3,
    },
    "one tap": {"kernel_size": (1, 1)},
    "one region": {"regions": 1},
    "thirty-two regions": {"regions": 32, "kernel_size": (1, 2)},
}


def attributes_of(case):
    """The attributes among the arguments of `draw`."""
    names = ("kernel_size", "stride", "padding", "dilation", "regions")
    return {"kernel_size": (3, 3)} | {k: v for k, v in case.items() if k in names}


def naive(
    x,
    filters,
    guide,
    bias,
    *,
    kernel_size,
    stride=(1, 1),
    padding=(0, 0, 0, 0),
    dilation=(1, 1),
    regions=8,
    relu=False,
):
    """The definition as loops in float64."""
    x, filters, guide, bias = (np.asarray(t) for t in (x, filters, guide, bias))
    n, c, height, width = x.shape
    ho, wo = guide.shape[2:]
    banks = filters.reshape(n, regions, len(bias), c, *kernel_size)
    y = np.zeros((n, len(bias), ho, wo))
    for b, i, j in itertools.product(range(n), range(ho), range(wo)):
        region = 0
        for t in range(1, regions):
            if guide[b, t, i, j] > guide[b, region, i, j]:
                region = t
        y[b, :, i, j] = bias
        for p, q in itertools.product(range(kernel_size[0]), range(kernel_size[1])):
            h = i * stride[0] - padding[0] + p * dilation[0]
            v = j * stride[1] - padding[1] + q * dilation[1]
            if 0 <= h < height and 0 <= v < width:
                y[b, :, i, j] += banks[b, region, :, :, p, q] @ x[b, :, h, v]
    return torch.from_numpy(np.maximum(y, 0) if relu else y)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_naive_loops(draw, case, relu):
    tensors, attributes = draw(**case), attributes_of(case) | {"relu": relu}
    torch.testing.assert_close(dynamic_region_aware_conv2d(*tensors, **attributes), naive(*tensors, **attributes))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_agrees_with_naive_loops_on_drawn_attributes(draw, data):
    def twice(low, high):
        return st.tuples(st.integers(low, high), st.integers(low, high))

    kernel_size, dilation = data.draw(twice(1, 3), "kernel_size"), data.draw(twice(1, 2), "dilation")
    padding = data.draw(twice(0, 2), "begin") + data.draw(twice(0, 2), "end")
    smallest = [max(1, d * (k - 1) + 1 - a - b) for d, k, a, b in zip(dilation, kernel_size, padding, padding[2:])]
    attributes = {
        "kernel_size": kernel_size,
        "stride": data.draw(twice(1, 3), "stride"),
        "padding": padding,
        "dilation": dilation,
        "regions": data.draw(st.integers(1, 5), "regions"),
    }
    tensors = draw(
        n=data.draw(st.integers(1, 2), "n"),
        c=data.draw(st.integers(1, 3), "c"),
        o=data.draw(st.integers(1, 3), "o"),
        size=[low + data.draw(st.integers(0, 3), "more") for low in smallest],
        seed=data.draw(st.integers(0, 1000), "seed"),
        **attributes,
    )
    attributes["relu"] = data.draw(st.booleans(), "relu")
    torch.testing.assert_close(dynamic_region_aware_conv2d(*tensors, **attributes), naive(*tensors, **attributes))


@pytest.mark.parametrize("region", range(3))
def test_one_region_everywhere_is_a_convolution(draw, region):
    x, filters, guide, bias = draw(n=1, regions=3)
    guide[:, region] += 10
    weight = filters.reshape(3, 5, 3, 3, 3)[region]
    y = dynamic_region_aware_conv2d(x, filters, guide, bias, kernel_size=3, regions=3)
    torch.testing.assert_close(y, F.conv2d(x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_first_of_equal_logits_wins(dtype, memory_format):
    """At every pair of tied regions, and over enough pixels for a vectorised or threaded maximum."""
    pairs = list(itertools.combinations(range(8), 2))
    guide = torch.zeros(2, 8, len(pairs), 64, dtype=dtype)
    for row, pair in enumerate(pairs):
        guide[:, pair, row] = 1.0
    first = torch.tensor([pair[0] for pair in pairs])[:, None].expand(2, -1, 64)
    chosen = regions_of(guide.contiguous(memory_format=memory_format))
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen, first)
    assert not regions_of(torch.zeros(2, 8, 5, 7, dtype=dtype)).any()


def test_the_window_reaches_into_other_regions(draw):
    """The filter is that of the output pixel: a pixel of another region still contributes."""
    x, filters, guide, bias = draw(n=1, padding=(1, 1, 1, 1), regions=2)
    guide[:] = 0
    guide[:, 1, :, 3:] = 1
    left, right = (F.conv2d(x, weight, bias, padding=1) for weight in filters.reshape(2, 5, 3, 3, 3))
    y = dynamic_region_aware_conv2d(x, filters, guide, bias, kernel_size=3, padding=1, regions=2)
    torch.testing.assert_close(y, torch.cat([left[..., :3], right[..., 3:]], dim=3))


def test_filters_of_other_regions_do_not_matter(draw):
    """Not even when they are not finite."""
    x, filters, guide, bias = draw(regions=2)
    guide[:, 0] += 10
    expected = dynamic_region_aware_conv2d(x, filters, guide, bias, kernel_size=3, regions=2)
    filters[:, 5:] = torch.nan
    assert torch.equal(dynamic_region_aware_conv2d(x, filters, guide, bias, kernel_size=3, regions=2), expected)


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_maps_of_one_row_or_column(draw, size):
    tensors = draw(size=size, padding=(1, 1, 1, 1))
    attributes = {"kernel_size": (3, 3), "padding": (1, 1, 1, 1)}
    torch.testing.assert_close(dynamic_region_aware_conv2d(*tensors, **attributes), naive(*tensors, **attributes))


def test_empty_batch(draw):
    x, filters, guide, bias = draw()
    y = dynamic_region_aware_conv2d(x[:0], filters[:0], guide[:0], bias, kernel_size=3)
    assert y.shape == (0, 5, 5, 4)
