"""The torch op: gradients, compilation, export, autocast, errors."""

import pytest
import torch
from torch import nn

from dyndeploy.errors import DynError
from dyndeploy.ops._torch import torch_op
from dyndeploy.ops.dgc.op import SPEC, dynamic_group_conv2d
from dyndeploy.ops.dgc.reference import kept

ANISOTROPIC = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2), "heads": 2, "inactive": 3}


def positional(*, relu=False):
    """ANISOTROPIC as the trailing arguments of the overload."""
    return (*ANISOTROPIC.values(), 0.0, True, relu)


@pytest.fixture
def tensors(draw):
    return draw(n=2, c=4, o=4, size=(3, 4), kernel=(3, 2), heads=2, distinct=True)


@pytest.mark.parametrize(
    "options", [{}, {"inactive": 0}, {"relu": True}, {"shuffle": False}, {"inactive": -1, "threshold": 0.6}]
)
def test_gradients(tensors, options):
    """Saliencies lie a quarter apart: no step of gradcheck crosses a limit."""

    def op(*arguments):
        return dynamic_group_conv2d(*arguments, **{**ANISOTROPIC, **options})

    assert torch.autograd.gradcheck(op, tuple(t.requires_grad_() for t in tensors))


@pytest.mark.parametrize("options", [{}, {"inactive": -1, "threshold": 0.6}])
def test_only_kept_channels_learn(tensors, options):
    attributes = {**ANISOTROPIC, **options, "shuffle": False}
    x, saliency, weight, bias = (t[:1] if i < 2 else t for i, t in enumerate(tensors))
    inputs = [t.detach().requires_grad_() for t in (x, saliency, weight, bias)]
    dynamic_group_conv2d(*inputs, **attributes).square().sum().backward()
    mask = kept(saliency, 2, attributes["inactive"], 0.6)[0]
    assert 0 < mask.sum() < mask.numel()
    assert torch.equal(inputs[1].grad.reshape(2, 4) != 0, mask)
    assert torch.equal(inputs[2].grad.reshape(2, 2, 4, 6).abs().sum((1, 3)) != 0, mask)
    assert torch.equal(inputs[0].grad[0].abs().sum((1, 2)) != 0, mask.any(0))


def test_tied_saliencies_learn_nothing(draw):
    """They equal the limit: dropped, and with a gradient of exactly zero, not of half a kink."""
    x, saliency, weight, bias = draw()
    saliency = torch.full_like(saliency, 0.5).requires_grad_()
    dynamic_group_conv2d(x, saliency, weight, bias, inactive=1).sum().backward()
    assert torch.equal(saliency.grad, torch.zeros_like(saliency))


@pytest.mark.parametrize("wanted", range(4))
def test_only_the_wanted_gradient_is_computed(tensors, wanted):
    def gradients(needs):
        inputs = [t.clone().requires_grad_(need) for t, need in zip(tensors, needs)]
        dynamic_group_conv2d(*inputs, **ANISOTROPIC).square().sum().backward()
        return [t.grad for t in inputs]

    one = gradients([index == wanted for index in range(4)])
    assert [g is not None for g in one] == [index == wanted for index in range(4)]
    torch.testing.assert_close(one[wanted], gradients([True] * 4)[wanted])


def test_gradient_of_an_empty_batch(tensors):
    x, saliency, weight, bias = tensors
    x, saliency = x[:0].requires_grad_(), saliency[:0].requires_grad_()
    dynamic_group_conv2d(x, saliency, weight.requires_grad_(), bias, **ANISOTROPIC).sum().backward()
    assert x.grad.shape == x.shape
    assert saliency.grad.shape == saliency.shape
    assert not weight.grad.any()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(tensors, requires_grad):
    inputs = [t.float().requires_grad_(requires_grad) for t in tensors]
    torch.library.opcheck(torch_op(SPEC), (*inputs, *positional(relu=requires_grad)))


@pytest.mark.parametrize("wanted", range(4))
def test_opcheck_of_one_gradient(tensors, wanted):
    """The fake backward and the real one agree on what is left out."""
    inputs = [t.float().requires_grad_(index == wanted) for index, t in enumerate(tensors)]
    torch.library.opcheck(torch_op(SPEC), (*inputs, *positional()), test_utils="test_aot_dispatch_dynamic")


def test_compiles_without_graph_breaks(tensors):
    def function(x, saliency, weight, bias):
        return dynamic_group_conv2d(x.sin(), saliency, weight, bias, **ANISOTROPIC).cos()

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
    """The op behind a saliency of its own input, so that one dim decides the other shapes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4, 3, 2))

    def forward(self, x):
        saliency = x.mean((2, 3)).abs().repeat(1, 2)
        return dynamic_group_conv2d(
            x, saliency, self.weight, stride=(2, 1), padding=1, dilation=(1, 2), heads=2, inactive=2
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
        y = dynamic_group_conv2d(*inputs, **ANISOTROPIC)
    assert y.dtype == dtype
    halves = [t.detach().to(dtype) for t in inputs]
    assert torch.equal(y, dynamic_group_conv2d(*halves, **ANISOTROPIC))
    truth = dynamic_group_conv2d(*(t.double() for t in halves), **ANISOTROPIC)
    assert (y.double() - truth).norm() / truth.norm() < SPEC.tolerance[name] / 2
    y.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in inputs)


def test_autocast_leaves_float64(tensors):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert dynamic_group_conv2d(*tensors, **ANISOTROPIC).dtype == torch.float64


def test_missing_bias_is_zero(tensors):
    x, saliency, weight, bias = tensors
    y = dynamic_group_conv2d(x, saliency, weight, **ANISOTROPIC)
    assert torch.equal(y, dynamic_group_conv2d(x, saliency, weight, bias * 0, **ANISOTROPIC))


def test_one_int_stands_for_both_axes(draw):
    tensors = draw()
    y = dynamic_group_conv2d(*tensors, stride=2, padding=1, dilation=2)
    assert torch.equal(y, dynamic_group_conv2d(*tensors, stride=(2, 2), padding=(1, 1), dilation=[2, 2]))


def with_tensor(index, change):
    def call(tensors):
        changed = [change(t) if i == index else t for i, t in enumerate(tensors)]
        return dynamic_group_conv2d(*changed, **ANISOTROPIC)

    return call


def with_attribute(**changes):
    return lambda tensors: dynamic_group_conv2d(*tensors, **{**ANISOTROPIC, **changes})


BAD = {
    "integers": (with_tensor(0, lambda t: t.long()), "x is torch.int64.*one of torch.float64"),
    "mixed dtypes": (with_tensor(1, lambda t: t.float()), r"saliency is torch.float32.*saliency.to\(x\)"),
    "mixed devices": (with_tensor(2, lambda t: t.to("meta")), "weight is torch.float64 on meta"),
    "no batch dim": (with_tensor(0, lambda t: t[0]), r"X has 3 dims \[4, 3, 4\], expected \[N, C, H, W\]"),
    "saliency with a dim for the heads": (
        with_tensor(1, lambda t: t.reshape(2, 2, 4)),
        r"saliency has 3 dims \[2, 2, 4\], expected \[N, heads\*C\].*\[head\]\[channel\]",
    ),
    "saliency of one head": (
        with_tensor(1, lambda t: t[:, :4]),
        r"saliency has shape \[2, 4\], but dim 1 must be heads\*C = 8",
    ),
    "saliency of another batch": (with_tensor(1, lambda t: t[:1]), "dim 0 must be N = 2"),
    "weight of a grouped convolution": (
        with_tensor(2, lambda t: t[:, :2]),
        r"W has shape \[4, 2, 3, 2\], but dim 1 must be C = 4.*each over all C channels",
    ),
    "short bias": (with_tensor(3, lambda t: t[:1]), r"B has shape \[1\], but dim 0 must be O = 4"),
    "scalar bias": (with_tensor(3, lambda t: t[0]), r"B has 0 dims \[\], expected \[O\]"),
    "heads": (with_attribute(heads=3), "O = 4 is not divisible by heads = 3"),
    "no heads": (with_attribute(heads=0), "heads=0 is outside >= 1"),
    "more inactive than there are": (with_attribute(inactive=5), "inactive = 5 is larger than C = 4"),
    "inactive of -2": (with_attribute(inactive=-2), "inactive=-2 is outside >= -1"),
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
