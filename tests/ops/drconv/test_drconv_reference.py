"""The reference against loops and against plain convolutions, and its tie rule."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dyndeploy.ops.drconv.op import SPEC, dynamic_region_aware_conv2d
from dyndeploy.ops.drconv.reference import regions_of
from dyndeploy.testing.cases import Case, cases


def naive(
    x,
    filters,
    guide,
    bias,
    *,
    kernel_size,
    stride,
    padding,
    dilation,
    regions,
    relu,
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


@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("case", cases(SPEC), ids=str)
def test_agrees_with_naive_loops(draw, case, relu):
    case = replace(case, attributes={**case.attributes, "relu": relu})
    tensors = draw(case)
    torch.testing.assert_close(case.run(*tensors), naive(*tensors, **case.keywords))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_agrees_with_naive_loops_on_drawn_attributes(draw, draw_window, data):
    case = Case.of(
        SPEC,
        **draw_window(data),
        regions=data.draw(st.integers(1, 5), "regions"),
        relu=data.draw(st.integers(0, 1), "relu"),
        N=data.draw(st.integers(1, 2), "N"),
        C=data.draw(st.integers(1, 3), "C"),
        O=data.draw(st.integers(1, 3), "O"),
    )
    tensors = draw(case, data.draw(st.integers(0, 1000), "seed"))
    torch.testing.assert_close(case.run(*tensors), naive(*tensors, **case.keywords))


@pytest.mark.parametrize("region", range(3))
def test_one_region_everywhere_is_a_convolution(draw, region):
    x, filters, guide, bias = draw(Case.of(SPEC, regions=3, N=1, C=3, O=5))
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
    x, filters, guide, bias = draw(Case.of(SPEC, pads=(1, 1, 1, 1), regions=2, N=1, C=3, O=5))
    guide[:] = 0
    guide[:, 1, :, 3:] = 1
    left, right = (F.conv2d(x, weight, bias, padding=1) for weight in filters.reshape(2, 5, 3, 3, 3))
    y = dynamic_region_aware_conv2d(x, filters, guide, bias, kernel_size=3, padding=1, regions=2)
    torch.testing.assert_close(y, torch.cat([left[..., :3], right[..., 3:]], dim=3))


def test_filters_of_other_regions_do_not_matter(draw):
    """Not even when they are not finite."""
    x, filters, guide, bias = draw(Case.of(SPEC, regions=2, O=5))
    guide[:, 0] += 10
    expected = dynamic_region_aware_conv2d(x, filters, guide, bias, kernel_size=3, regions=2)
    filters[:, 5:] = torch.nan
    assert torch.equal(dynamic_region_aware_conv2d(x, filters, guide, bias, kernel_size=3, regions=2), expected)


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_maps_of_one_row_or_column(draw, size):
    case = Case.of(SPEC, pads=(1, 1, 1, 1), H=size[0], W=size[1])
    tensors = draw(case)
    torch.testing.assert_close(case.run(*tensors), naive(*tensors, **case.keywords))
