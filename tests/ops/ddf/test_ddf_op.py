"""The torch op: gradients, compilation, export, autocast, errors."""

import pytest
import torch
from torch import nn

from dyndeploy.errors import DynError
from dyndeploy.ops._torch import torch_op
from dyndeploy.ops.ddf.op import SPEC, decoupled_dynamic_filter

ANISOTROPIC = {
    "kernel_size": (3, 2),
    "stride": (2, 1),
    "padding": (1, 0, 2, 1),
    "dilation": (1, 2),
    "heads": 2,
    "scale": 2,
    "spatial_gain": 0.5,
}
GRADIENTS = {
    "product": {},
    "sum": {"combine": "add", "scale": 1},
    "product, no FilterNorm": {"filter_norm": False, "scale": 1},
    "sum, no FilterNorm": {"combine": "add", "filter_norm": False, "scale": 1},
    "relu": {"relu": True, "scale": 1},
}


def positional(*, combine=False, relu=False):
    """ANISOTROPIC as the trailing arguments of the overload."""
    *window, heads, scale, gain = ANISOTROPIC.values()
    return (*window, heads, scale, combine, True, gain, relu)


@pytest.fixture
def tensors(draw):
    return draw(n=1, c=2, size=(3, 3), **ANISOTROPIC)


@pytest.mark.parametrize("case", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients(draw, case):
    case = {**ANISOTROPIC, **case}
    inputs = tuple(t.requires_grad_() for t in draw(n=1, c=2, size=(2, 2), **case))
    assert torch.autograd.gradcheck(lambda *tensors: decoupled_dynamic_filter(*tensors, **case), inputs)


def test_gradient_of_filter_norm_is_that_of_torch(draw):
    """The formula in reference.py against autograd through mean and std, on filters of very different sizes."""
    x, channel_filter, spatial_filter, channel_gain = draw(kernel_size=(3, 3))
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


@pytest.mark.parametrize("wanted", range(4))
@pytest.mark.parametrize("combine", ["mul", "add"])
def test_only_the_wanted_gradient_is_computed(tensors, wanted, combine):
    def gradients(needs):
        inputs = [t.clone().requires_grad_(need) for t, need in zip(tensors, needs)]
        decoupled_dynamic_filter(*inputs, **ANISOTROPIC, combine=combine).square().sum().backward()
        return [t.grad for t in inputs]

    one = gradients([index == wanted for index in range(4)])
    assert [g is not None for g in one] == [index == wanted for index in range(4)]
    torch.testing.assert_close(one[wanted], gradients([True] * 4)[wanted])


def test_gradient_of_an_empty_batch(tensors):
    x, channel_filter, spatial_filter, channel_gain = tensors
    empty = [t[:0].requires_grad_() for t in (x, channel_filter, spatial_filter)]
    decoupled_dynamic_filter(*empty, channel_gain.requires_grad_(), **ANISOTROPIC).sum().backward()
    assert all(t.grad.shape == t.shape for t in empty)
    assert not channel_gain.grad.any()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(tensors, requires_grad):
    inputs = [t.float().requires_grad_(requires_grad) for t in tensors]
    torch.library.opcheck(torch_op(SPEC), (*inputs, *positional(combine=requires_grad, relu=requires_grad)))


def test_compiles_without_graph_breaks(tensors):
    def function(x, *others):
        return decoupled_dynamic_filter(x.sin(), *others, **ANISOTROPIC).cos()

    inputs = [t.clone().requires_grad_() for t in tensors]
    twins = [t.clone().requires_grad_() for t in tensors]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(*inputs)
    expected = function(*twins)
    torch.testing.assert_close(compiled, expected)
    compiled.sum().backward()
    expected.sum().backward()
    for one, other in zip(inputs, twins):
        torch.testing.assert_close(one.grad, other.grad)


class Layer(nn.Module):
    """The op behind its branches, so that one dim decides the other shapes."""

    def __init__(self):
        super().__init__()
        self.channel = nn.Conv2d(4, 4 * 4 * 6, 1)
        self.spatial = nn.Conv2d(4, 4 * 2 * 6, (3, 2), stride=(2, 1), padding=(1, 1), dilation=(1, 2))

    def forward(self, x):
        channel_filter = self.channel(x.mean((2, 3), keepdim=True)).flatten(1)
        return decoupled_dynamic_filter(x, channel_filter, self.spatial(x), **{**ANISOTROPIC, "padding": 1})


def test_exports_with_dynamic_dims():
    torch.manual_seed(0)
    layer = Layer()
    dims = {
        0: torch.export.Dim("batch", max=8),
        2: torch.export.Dim("height", min=4, max=64),
        3: torch.export.Dim("width", min=4, max=64),
    }
    program = torch.export.export(layer, (torch.randn(2, 4, 9, 8),), dynamic_shapes={"x": dims})
    assert torch_op(SPEC) in [node.target for node in program.graph.nodes]
    for shape in ((1, 4, 4, 4), (3, 4, 12, 7), (8, 4, 5, 33)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_in_its_dtype(tensors, dtype):
    inputs = [t.float().requires_grad_() for t in tensors]
    with torch.autocast("cpu", dtype=dtype):
        y = decoupled_dynamic_filter(*inputs, **ANISOTROPIC)
    assert y.dtype == dtype
    halves = [t.detach().to(dtype) for t in inputs]
    assert torch.equal(y, decoupled_dynamic_filter(*halves, **ANISOTROPIC))
    y.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in inputs)


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16")])
def test_half_types_normalise_in_float32(tensors, dtype, name):
    """Filters as small as half's smallest numbers: their variance is not a half any more."""
    x, channel_filter, spatial_filter, channel_gain = tensors
    halves = [t.to(dtype) for t in (x, channel_filter * 1e-4, spatial_filter * 1e-4, channel_gain)]
    truth = decoupled_dynamic_filter(*(t.double() for t in halves), **ANISOTROPIC)
    y = decoupled_dynamic_filter(*halves, **ANISOTROPIC)
    assert y.dtype == dtype
    assert (y.double() - truth).norm() / truth.norm() < SPEC.tolerance[name] / 2


def test_missing_gain_is_one(tensors):
    x, channel_filter, spatial_filter, channel_gain = tensors
    y = decoupled_dynamic_filter(x, channel_filter, spatial_filter, **ANISOTROPIC)
    ones = torch.ones_like(channel_gain)
    assert torch.equal(y, decoupled_dynamic_filter(x, channel_filter, spatial_filter, ones, **ANISOTROPIC))


def test_one_int_stands_for_both_axes(draw):
    case = {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1), "dilation": (2, 2)}
    tensors = draw(**case)
    y = decoupled_dynamic_filter(*tensors, kernel_size=3, stride=2, padding=1, dilation=2)
    assert torch.equal(y, decoupled_dynamic_filter(*tensors, **case))


def with_tensor(index, change):
    def call(tensors):
        changed = [change(t) if i == index else t for i, t in enumerate(tensors)]
        return decoupled_dynamic_filter(*changed, **ANISOTROPIC)

    return call


def with_attribute(**changes):
    return lambda tensors: decoupled_dynamic_filter(*tensors, **{**ANISOTROPIC, **changes})


BAD = {
    "integers": (with_tensor(0, lambda t: t.long()), "x is torch.int64.*one of torch.float64"),
    "mixed dtypes": (with_tensor(1, lambda t: t.float()), r"channel_filter is torch.float32.*to\(x\)"),
    "no batch dim": (with_tensor(0, lambda t: t[0]), r"X has 3 dims \[2, 3, 3\], expected \[N, C, H, W\]"),
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
    "no heads": (with_attribute(heads=0), "heads=0 is outside >= 1"),
    "no scale": (with_attribute(scale=0), "scale=0 is outside >= 1"),
    "stride of zero": (with_attribute(stride=(1, 0)), r"stride=\[1, 0\] is outside >= 1"),
    "kernel of zero": (with_attribute(kernel_size=(0, 3)), r"kernel_size=\[0, 3\] is outside >= 1"),
    "negative padding": (with_attribute(padding=-1), r"padding=\[-1, -1, -1, -1\] is outside >= 0"),
    "three extents": (with_attribute(kernel_size=(1, 1, 1)), r"\(1, 1, 1\) is not one int or two"),
    "unknown combination": (with_attribute(combine="max"), "combine='max'.*fix: combine=\"mul\""),
    "one tap": (with_attribute(kernel_size=1), r"kernel_size=\(1, 1\) with filter_norm=True.*one tap has none"),
    "window outside the map": (
        with_attribute(dilation=(9, 2)),
        r"dilated kernel \(19\) is larger than the padded input \(6\) along H",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(tensors, call, message):
    with pytest.raises(DynError, match=f"(?s)^.*{message}"):
        call(tensors)
