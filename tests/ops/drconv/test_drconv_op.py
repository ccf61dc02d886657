"""What only this torch op does: how the guide learns, and the filters of other regions; what it refuses."""

import pytest
import torch
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.ops.drconv.op import SPEC, dynamic_region_aware_conv2d
from dyndeploy.testing.cases import Case

WINDOW = {"kernel": (3, 2), "strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)}
CASE = Case.of(SPEC, **WINDOW, regions=3, C=2, O=2, H=3, W=4)
ARGUMENTS = CASE.keywords


@pytest.fixture
def tensors(draw):
    return draw(CASE)


def soft_choice(x, filters, guide, bias):
    """sum over t of softmax(guide)[t] * (W[t] * x + b), by plain convolutions: what the guide learns from."""
    n, o = x.shape[0], bias.shape[0]
    top, left, bottom, right = ARGUMENTS["padding"]
    padded = F.pad(x, (left, right, top, bottom))
    banks = filters.reshape(n, -1, x.shape[1], *ARGUMENTS["kernel_size"])
    window = {"stride": ARGUMENTS["stride"], "dilation": ARGUMENTS["dilation"]}
    responses = torch.cat([F.conv2d(padded[i : i + 1], banks[i], **window) for i in range(n)])
    responses = responses.reshape(n, -1, o, *responses.shape[2:]) + bias[:, None, None]
    return (guide.softmax(1)[:, :, None] * responses).sum(1)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_guide_learns_by_the_softmax_surrogate(tensors, scale):
    """With the bias in it: it is the same in all regions, and cancels."""
    x, filters, guide, bias = tensors
    guide = guide * scale
    twin = guide.clone().requires_grad_()
    y = dynamic_region_aware_conv2d(x, filters, guide.requires_grad_(), bias, **ARGUMENTS)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    y.backward(grad)
    soft_choice(x, filters, twin, bias).backward(grad)
    torch.testing.assert_close(guide.grad, twin.grad)
    assert guide.grad.any()


def test_relu_stops_the_gradient_of_the_guide(tensors):
    x, filters, guide, bias = tensors
    y = dynamic_region_aware_conv2d(x, filters, guide.requires_grad_(), bias - 100, **{**ARGUMENTS, "relu": True})
    y.sum().backward()
    assert not y.any()
    assert not guide.grad.any()


def test_filters_of_other_regions_get_no_gradient(tensors):
    x, filters, guide, bias = tensors
    guide[:, 1] += 10
    dynamic_region_aware_conv2d(x, filters.requires_grad_(), guide, bias, **ARGUMENTS).sum().backward()
    reached = filters.grad.reshape(2, 3, -1).abs().sum((0, 2)) > 0
    assert reached.tolist() == [False, True, False]


def with_tensor(index, change):
    def call(tensors):
        changed = [change(t) if i == index else t for i, t in enumerate(tensors)]
        return dynamic_region_aware_conv2d(*changed, **ARGUMENTS)

    return call


def with_attribute(**changes):
    return lambda tensors: dynamic_region_aware_conv2d(*tensors, **{**ARGUMENTS, **changes})


BAD = {
    "filters of another batch": (with_tensor(1, lambda t: t[:1]), "filters .* dim 0 must be N = 2"),
    "filters of another number of regions": (
        with_tensor(1, lambda t: t[:, :4]),
        r"filters has shape \[2, 4, 12\], but dim 1 must be regions\*O = 6",
    ),
    "filters of another kernel": (with_tensor(1, lambda t: t[..., :6]), r"dim 2 must be C\*K = 12"),
    "guide of another number of regions": (
        with_tensor(2, lambda t: t[:, :2]),
        r"guide has shape \[2, 2, 2, 3\], but dim 1 must be regions = 3.*Logits",
    ),
    "guide at the input's size": (
        with_tensor(2, lambda t: t.new_zeros(2, 3, 3, 4)),
        r"guide has shape \[2, 3, 3, 4\], but dim 2 must be Ho = 2",
    ),
    "short bias": (with_tensor(3, lambda t: t[:1]), r"filters has shape .* must be regions\*O = 3"),
    "regions that do not divide the filters": (
        lambda tensors: dynamic_region_aware_conv2d(*tensors[:3], **{**ARGUMENTS, "regions": 4}),
        r"filters has shape \[2, 6, 12\], but dim 1 must be regions\*O = 4",
    ),
    "no regions, no bias": (
        lambda tensors: dynamic_region_aware_conv2d(*tensors[:3], **{**ARGUMENTS, "regions": 0}),
        "regions=0 is outside 1..32",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(tensors, call, message):
    with pytest.raises(DynError, match=f"(?s)^.*{message}"):
        call(tensors)
