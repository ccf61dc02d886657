"""What only this torch op does: FilterNorm, its gradient and its precision; what it refuses."""

import pytest
import torch

from dyndeploy.errors import DynError
from dyndeploy.ops.ddf.op import SPEC, decoupled_dynamic_filter
from dyndeploy.testing.cases import Case

WINDOW = {"kernel": (3, 2), "strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)}
CASE = Case.of(SPEC, **WINDOW, heads=2, scale=2, spatial_gain=0.5, N=1, C=2, H=3, W=3)
ARGUMENTS = {**CASE.keywords, "combine": "mul"}


@pytest.fixture
def tensors(draw):
    return draw(CASE)


def test_gradient_of_filter_norm_is_that_of_torch(draw):
    """The formula in reference.py against autograd through mean and std, on filters of very different sizes."""
    x, channel_filter, spatial_filter, channel_gain = draw(Case.of(SPEC, H=6, W=7))
    channel_filter *= torch.logspace(-6, 3, channel_filter.shape[1])
    x.requires_grad_()
    channel_filter.requires_grad_()
    y = decoupled_dynamic_filter(x, channel_filter, spatial_filter, channel_gain, kernel_size=3)
    (gradient,) = torch.autograd.grad(y.square().sum(), channel_filter)
    taps = channel_filter.reshape(2, 4, 9)
    normed = (taps - taps.mean(2, keepdim=True)) / (taps.std(2, keepdim=True) + 1e-10)
    s = spatial_filter - spatial_filter.mean(1, keepdim=True)
    s = s / (spatial_filter.std(1, keepdim=True) + 1e-10)
    y = decoupled_dynamic_filter(x, normed.flatten(1), s, channel_gain, kernel_size=3, filter_norm=False)
    (expected,) = torch.autograd.grad(y.square().sum(), channel_filter)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16")])
def test_half_types_normalise_in_float32(tensors, dtype, name):
    """Filters as small as half's smallest numbers: their variance is not a half any more."""
    x, channel_filter, spatial_filter, channel_gain = tensors
    halves = [t.to(dtype) for t in (x, channel_filter * 1e-4, spatial_filter * 1e-4, channel_gain)]
    truth = CASE.run(*(t.double() for t in halves))
    y = CASE.run(*halves)
    assert y.dtype == dtype
    assert (y.double() - truth).norm() / truth.norm() < SPEC.tolerance[name] / 2


def with_tensor(index, change):
    def call(tensors):
        changed = [change(t) if i == index else t for i, t in enumerate(tensors)]
        return decoupled_dynamic_filter(*changed, **ARGUMENTS)

    return call


def with_attribute(**changes):
    return lambda tensors: decoupled_dynamic_filter(*tensors, **{**ARGUMENTS, **changes})


BAD = {
    "channel filters as a map": (
        with_tensor(1, lambda t: t[:, :, None, None]),
        r"channel_filter has 4 dims .*\[sub-pixel\]\[channel\]\[tap\]",
    ),
    "channel filters of one sub-pixel": (
        with_tensor(1, lambda t: t[:, :12]),
        r"channel_filter has shape \[1, 12\], but dim 1 must be scale\*scale\*C\*K = 48",
    ),
    "spatial filters of one head": (
        with_tensor(2, lambda t: t[:, :24]),
        r"spatial_filter has shape .* dim 1 must be scale\*scale\*heads\*K = 48",
    ),
    "spatial filters at the input's size": (
        with_tensor(2, lambda t: t.new_zeros(1, 48, 3, 3)),
        "spatial_filter has shape .* dim 2 must be Ho = 2",
    ),
    "spatial filters of another batch": (
        with_tensor(2, lambda t: torch.cat([t, t])),
        "spatial_filter has shape .* dim 0 must be N = 1",
    ),
    "short gain": (with_tensor(3, lambda t: t[:12]), r"channel_gain has shape \[12\], but dim 0 must be"),
    "heads": (with_attribute(heads=3), "C = 2 is not divisible by heads = 3"),
    "unknown combination": (with_attribute(combine="max"), "combine='max'.*fix: combine=\"mul\""),
    "one tap": (with_attribute(kernel_size=1), r"kernel_size=\(1, 1\) with filter_norm=True.*one tap has none"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(tensors, call, message):
    with pytest.raises(DynError, match=f"(?s)^.*{message}"):
        call(tensors)
