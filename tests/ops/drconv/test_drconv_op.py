"""The torch op: gradients, compilation, export, autocast, errors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.ops._torch import torch_op
from dyndeploy.ops.drconv.op import SPEC, dynamic_region_aware_conv2d

ANISOTROPIC = {
    "kernel_size": (3, 2),
    "stride": (2, 1),
    "padding": (1, 0, 2, 1),
    "dilation": (1, 2),
    "regions": 3,
}


@pytest.fixture
def tensors(draw):
    return draw(n=2, c=2, o=2, size=(3, 4), **ANISOTROPIC)


@pytest.mark.parametrize("relu", [True, False])
def test_gradients_of_what_is_differentiable(tensors, relu):
    x, filters, guide, bias = tensors

    def op(x, filters, bias):
        return dynamic_region_aware_conv2d(x, filters, guide, bias, **ANISOTROPIC, relu=relu)

    assert torch.autograd.gradcheck(op, tuple(t.requires_grad_() for t in (x, filters, bias)))


def soft_choice(x, filters, guide, bias):
    """sum over t of softmax(guide)[t] * (W[t] * x + b), by plain convolutions: what the guide learns from."""
    n, o = x.shape[0], bias.shape[0]
    top, left, bottom, right = ANISOTROPIC["padding"]
    padded = F.pad(x, (left, right, top, bottom))
    banks = filters.reshape(n, -1, x.shape[1], *ANISOTROPIC["kernel_size"])
    window = {"stride": ANISOTROPIC["stride"], "dilation": ANISOTROPIC["dilation"]}
    responses = torch.cat([F.conv2d(padded[i : i + 1], banks[i], **window) for i in range(n)])
    responses = responses.reshape(n, -1, o, *responses.shape[2:]) + bias[:, None, None]
    return (guide.softmax(1)[:, :, None] * responses).sum(1)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_guide_learns_by_the_softmax_surrogate(tensors, scale):
    """With the bias in it: it is the same in all regions, and cancels."""
    x, filters, guide, bias = tensors
    guide = guide * scale
    twin = guide.clone().requires_grad_()
    y = dynamic_region_aware_conv2d(x, filters, guide.requires_grad_(), bias, **ANISOTROPIC)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    y.backward(grad)
    soft_choice(x, filters, twin, bias).backward(grad)
    torch.testing.assert_close(guide.grad, twin.grad)
    assert guide.grad.any()


def test_relu_stops_the_gradient_of_the_guide(tensors):
    x, filters, guide, bias = tensors
    y = dynamic_region_aware_conv2d(x, filters, guide.requires_grad_(), bias - 100, **ANISOTROPIC, relu=True)
    y.sum().backward()
    assert not y.any()
    assert not guide.grad.any()


def test_filters_of_other_regions_get_no_gradient(tensors):
    x, filters, guide, bias = tensors
    guide[:, 1] += 10
    dynamic_region_aware_conv2d(x, filters.requires_grad_(), guide, bias, **ANISOTROPIC).sum().backward()
    reached = filters.grad.reshape(2, 3, -1).abs().sum((0, 2)) > 0
    assert reached.tolist() == [False, True, False]


@pytest.mark.parametrize("wanted", range(4))
def test_only_the_wanted_gradient_is_computed(tensors, wanted):
    def gradients(needs):
        inputs = [t.clone().requires_grad_(need) for t, need in zip(tensors, needs)]
        dynamic_region_aware_conv2d(*inputs, **ANISOTROPIC).square().sum().backward()
        return [t.grad for t in inputs]

    one = gradients([index == wanted for index in range(4)])
    assert [g is not None for g in one] == [index == wanted for index in range(4)]
    torch.testing.assert_close(one[wanted], gradients([True] * 4)[wanted])


def test_gradient_of_an_empty_batch(tensors):
    x, filters, guide, bias = tensors
    inputs = [t[:0].requires_grad_() for t in (x, filters, guide)]
    dynamic_region_aware_conv2d(*inputs, bias.requires_grad_(), **ANISOTROPIC).sum().backward()
    assert all(t.grad.shape == t.shape for t in inputs)
    assert not bias.grad.any()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(tensors, requires_grad):
    inputs = [t.float().requires_grad_(requires_grad) for t in tensors]
    torch.library.opcheck(torch_op(SPEC), (*inputs, *ANISOTROPIC.values(), requires_grad))


def test_compiles_without_graph_breaks(tensors):
    def function(x, filters, guide, bias):
        return dynamic_region_aware_conv2d(x.sin(), filters, guide, bias, **ANISOTROPIC).cos()

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
    """The op behind a guide and constant filters, so that one dim decides the other shapes."""

    def __init__(self):
        super().__init__()
        self.filters = nn.Parameter(torch.randn(1, 3 * 6, 4 * 6))
        self.guide = nn.Conv2d(4, 3, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2))

    def forward(self, x):
        filters = self.filters.expand(x.shape[0], -1, -1)
        return dynamic_region_aware_conv2d(
            x,
            filters,
            self.guide(x),
            kernel_size=(3, 2),
            stride=(2, 1),
            padding=1,
            dilation=(1, 2),
            regions=3,
        )


def test_exports_with_dynamic_dims():
    torch.manual_seed(0)
    layer = Layer()
    dims = {
        0: torch.export.Dim("batch", max=8),
        2: torch.export.Dim("height", min=4, max=64),
        3: torch.export.Dim("width", min=4, max=64),
    }
    program = torch.export.export(layer, (torch.randn(2, 4, 9, 8),), dynamic_shapes={"x": dims})
    assert torch_op(SPEC) in [node.target for node in program.graph.nodes if node.op == "call_function"]
    for shape in ((1, 4, 4, 4), (3, 4, 12, 7), (8, 4, 5, 33)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float16")])
def test_half_types_and_autocast(tensors, dtype, name):
    inputs = [t.float().requires_grad_() for t in tensors]
    with torch.autocast("cpu", dtype=dtype):
        y = dynamic_region_aware_conv2d(*inputs, **ANISOTROPIC)
    assert y.dtype == dtype
    halves = [t.detach().to(dtype) for t in inputs]
    assert torch.equal(y, dynamic_region_aware_conv2d(*halves, **ANISOTROPIC))
    truth = dynamic_region_aware_conv2d(*(t.double() for t in halves), **ANISOTROPIC)
    assert (y.double() - truth).norm() / truth.norm() < SPEC.tolerance[name] / 2
    y.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in inputs)


def test_autocast_leaves_float64(tensors):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert dynamic_region_aware_conv2d(*tensors, **ANISOTROPIC).dtype == torch.float64


def test_missing_bias_is_zero(tensors):
    x, filters, guide, bias = tensors
    y = dynamic_region_aware_conv2d(x, filters, guide, **ANISOTROPIC)
    assert torch.equal(y, dynamic_region_aware_conv2d(x, filters, guide, bias * 0, **ANISOTROPIC))


def test_one_int_stands_for_both_axes(draw):
    tensors = draw(padding=(1, 1, 1, 1), stride=(2, 2), dilation=(2, 2))
    y = dynamic_region_aware_conv2d(*tensors, kernel_size=3, stride=2, padding=1, dilation=2)
    pairs = {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1), "dilation": [2, 2]}
    assert torch.equal(y, dynamic_region_aware_conv2d(*tensors, **pairs))


def with_tensor(index, change):
    def call(tensors):
        changed = [change(t) if i == index else t for i, t in enumerate(tensors)]
        return dynamic_region_aware_conv2d(*changed, **ANISOTROPIC)

    return call


def with_attribute(**changes):
    return lambda tensors: dynamic_region_aware_conv2d(*tensors, **{**ANISOTROPIC, **changes})


BAD = {
    "integers": (with_tensor(0, lambda t: t.long()), "x is torch.int64.*one of torch.float64"),
    "regions instead of logits": (with_tensor(2, lambda t: t.argmax(1).double()), "guide has 3 dims.*Logits"),
    "mixed dtypes": (with_tensor(2, lambda t: t.float()), r"guide is torch.float32.*guide.to\(x\)"),
    "mixed devices": (with_tensor(1, lambda t: t.to("meta")), "filters is torch.float64 on meta"),
    "no batch dim": (with_tensor(0, lambda t: t[0]), r"X has 3 dims \[2, 3, 4\], expected \[N, C, H, W\]"),
    "filters without batch": (
        with_tensor(1, lambda t: t[0]),
        "filters has 2 dims.*One filter bank per sample",
    ),
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
    "scalar bias": (with_tensor(3, lambda t: t[0]), r"B has 0 dims \[\], expected \[O\]"),
    "no regions": (with_attribute(regions=0), "regions=0 is outside 1..32"),
    "33 regions": (with_attribute(regions=33), "regions=33 is outside 1..32"),
    "regions that do not divide the filters": (
        lambda tensors: dynamic_region_aware_conv2d(*tensors[:3], **{**ANISOTROPIC, "regions": 4}),
        r"filters has shape \[2, 6, 12\], but dim 1 must be regions\*O = 4",
    ),
    "no regions, no bias": (
        lambda tensors: dynamic_region_aware_conv2d(*tensors[:3], **{**ANISOTROPIC, "regions": 0}),
        "regions=0 is outside 1..32",
    ),
    "no taps": (with_attribute(kernel_size=(0, 2)), r"kernel_size=\[0, 2\] is outside >= 1"),
    "stride of zero": (with_attribute(stride=(1, 0)), r"stride=\[1, 0\] is outside >= 1"),
    "dilation of zero": (with_attribute(dilation=0), r"dilation=\[0, 0\] is outside >= 1"),
    "negative padding": (with_attribute(padding=-1), r"padding=\[-1, -1, -1, -1\] is outside >= 0"),
    "three strides": (with_attribute(stride=(1, 1, 1)), r"\(1, 1, 1\) is not one int or two"),
    "three pads": (with_attribute(padding=(1, 1, 1)), r"\(1, 1, 1\) is not one int, two .* or four"),
    "window outside the map": (
        with_attribute(dilation=(9, 2)),
        r"dilated kernel \(19\) is larger than the padded input \(6\) along H",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(tensors, call, message):
    with pytest.raises(DynError, match=f"(?s)^.*{message}"):
        call(tensors)
