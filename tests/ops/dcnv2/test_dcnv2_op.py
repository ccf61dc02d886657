"""The torch op: gradients, compilation, export, autocast, errors."""

import pytest
import torch
from torch import nn

from dyndeploy.errors import DynError
from dyndeploy.ops._torch import torch_op
from dyndeploy.ops.dcnv2.op import SPEC, modulated_deform_conv2d

ANISOTROPIC = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2), "groups": 2, "offset_groups": 2}


def positional(*, relu=False):
    """ANISOTROPIC as the trailing arguments of the overload."""
    return (*ANISOTROPIC.values(), True, 2.0, relu)


@pytest.fixture
def tensors(draw):
    return draw(n=1, o=2, size=(3, 5), kernel=(3, 2), **ANISOTROPIC)


@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_gradients(tensors, sigmoid, relu):
    x, offset_mask, weight, bias = tensors
    offsets = 2 * offset_mask.shape[1] // 3
    # Bilinear interpolation has kinks at integers: stay clear of them.
    fraction = offset_mask[:, :offsets].sigmoid() * 0.6 + 0.2
    offset_mask[:, :offsets] = offset_mask[:, :offsets].round() + fraction

    def op(*arguments):
        return modulated_deform_conv2d(*arguments, **ANISOTROPIC, sigmoid=sigmoid, mask_scale=2.0, relu=relu)

    inputs = tuple(t.requires_grad_() for t in (x, offset_mask, weight, bias))
    assert torch.autograd.gradcheck(op, inputs)


@pytest.mark.parametrize("wanted", range(4))
def test_only_the_wanted_gradient_is_computed(tensors, wanted):
    def gradients(needs):
        inputs = [t.clone().requires_grad_(need) for t, need in zip(tensors, needs)]
        modulated_deform_conv2d(*inputs, **ANISOTROPIC).square().sum().backward()
        return [t.grad for t in inputs]

    one = gradients([index == wanted for index in range(4)])
    assert [g is not None for g in one] == [index == wanted for index in range(4)]
    torch.testing.assert_close(one[wanted], gradients([True] * 4)[wanted])


def test_offsets_that_reach_nothing_have_no_gradient(tensors):
    offset_mask = tensors[1]
    offset_mask[:, 0] = float("nan")
    offset_mask[:, 3] = 1e20
    for t in tensors:
        t.requires_grad_()
    modulated_deform_conv2d(*tensors, **ANISOTROPIC).sum().backward()
    assert all(t.grad.isfinite().all() for t in tensors)
    assert not offset_mask.grad[:, :4].any()


def test_gradient_of_an_empty_batch(tensors):
    x, offset_mask, weight, bias = tensors
    x, offset_mask = x[:0].requires_grad_(), offset_mask[:0].requires_grad_()
    modulated_deform_conv2d(x, offset_mask, weight.requires_grad_(), bias, **ANISOTROPIC).sum().backward()
    assert x.grad.shape == x.shape
    assert offset_mask.grad.shape == offset_mask.shape
    assert not weight.grad.any()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(tensors, requires_grad):
    inputs = [t.float().requires_grad_(requires_grad) for t in tensors]
    torch.library.opcheck(torch_op(SPEC), (*inputs, *positional(relu=requires_grad)))


def test_compiles_without_graph_breaks(tensors):
    def function(x, offset_mask, weight, bias):
        return modulated_deform_conv2d(x.sin(), offset_mask, weight, bias, **ANISOTROPIC).cos()

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
    """The op behind a predictor, so that one dim decides the other shapes."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.predictor = nn.Conv2d(4, 18, (3, 2), stride=(2, 1), padding=(1, 1), dilation=(1, 2))

    def forward(self, x):
        offset_mask = self.predictor(x)
        return modulated_deform_conv2d(x, offset_mask, self.weight, stride=(2, 1), padding=1, dilation=(1, 2), groups=2)


def test_exports_with_dynamic_dims():
    torch.manual_seed(0)
    layer = Layer(torch.randn(6, 2, 3, 2))
    dims = {
        0: torch.export.Dim("batch", max=8),
        2: torch.export.Dim("height", min=4, max=64),
        3: torch.export.Dim("width", min=4, max=64),
    }
    program = torch.export.export(layer, (torch.randn(2, 4, 9, 8),), dynamic_shapes={"x": dims})
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert torch_op(SPEC) in targets
    for shape in ((1, 4, 4, 4), (3, 4, 12, 7), (8, 4, 5, 33)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_in_its_dtype(tensors, dtype):
    inputs = [t.float().requires_grad_() for t in tensors]
    with torch.autocast("cpu", dtype=dtype):
        y = modulated_deform_conv2d(*inputs, **ANISOTROPIC)
    assert y.dtype == dtype
    halves = [t.detach().to(dtype) for t in inputs]
    assert torch.equal(y, modulated_deform_conv2d(*halves, **ANISOTROPIC))
    y.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in inputs)


def test_autocast_takes_mixed_dtypes_and_leaves_float64(tensors):
    x, offset_mask, weight, bias = tensors
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = modulated_deform_conv2d(x.float(), offset_mask.bfloat16(), weight.float(), bias.half(), **ANISOTROPIC)
        double = modulated_deform_conv2d(*tensors, **ANISOTROPIC)
    assert mixed.dtype == torch.bfloat16
    assert double.dtype == torch.float64


def test_autocast_compiles(tensors):
    inputs = [t.float() for t in tensors]

    @torch.compile(fullgraph=True, backend="aot_eager")
    def function(*arguments):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return modulated_deform_conv2d(*arguments, **ANISOTROPIC)

    halves = [t.bfloat16() for t in inputs]
    y = function(*inputs)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, modulated_deform_conv2d(*halves, **ANISOTROPIC))


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16")])
def test_half_types_keep_coordinates_in_float32(draw, dtype, name):
    """At column 1000 half has steps of 0.5 pixel: coordinates in half would miss by up to a quarter."""
    x, offset_mask, weight, bias = draw(n=1, size=(3, 1003))
    halves = [t.to(dtype) for t in (x, offset_mask, weight, bias)]
    truth = modulated_deform_conv2d(*(t.double() for t in halves))
    y = modulated_deform_conv2d(*halves)
    assert y.dtype == dtype
    error = (y.double() - truth).norm() / truth.norm()
    assert error < SPEC.tolerance[name] / 2


def test_missing_bias_is_zero(tensors):
    x, offset_mask, weight, bias = tensors
    y = modulated_deform_conv2d(x, offset_mask, weight, **ANISOTROPIC)
    assert torch.equal(y, modulated_deform_conv2d(x, offset_mask, weight, bias * 0, **ANISOTROPIC))


def test_one_int_stands_for_both_axes(draw):
    tensors = draw(padding=(1, 1, 1, 1), stride=(2, 2), dilation=(2, 2))
    y = modulated_deform_conv2d(*tensors, stride=2, padding=1, dilation=2)
    assert torch.equal(y, modulated_deform_conv2d(*tensors, stride=(2, 2), padding=(1, 1), dilation=[2, 2]))


def with_tensor(index, change):
    def call(tensors):
        changed = [change(t) if i == index else t for i, t in enumerate(tensors)]
        return modulated_deform_conv2d(*changed, **ANISOTROPIC)

    return call


def with_attribute(**changes):
    return lambda tensors: modulated_deform_conv2d(*tensors, **{**ANISOTROPIC, **changes})


BAD = {
    "integers": (with_tensor(0, lambda t: t.long()), "x is torch.int64.*one of torch.float64"),
    "mixed dtypes": (with_tensor(2, lambda t: t.float()), r"weight is torch.float32.*weight.to\(x\)"),
    "mixed devices": (with_tensor(2, lambda t: t.to("meta")), "weight is torch.float64 on meta"),
    "no batch dim": (with_tensor(0, lambda t: t[0]), r"X has 3 dims \[4, 3, 5\], expected \[N, C, H, W\]"),
    "offset_mask of another batch": (
        with_tensor(1, lambda t: torch.cat([t, t])),
        r"offset_mask has shape \[2, 36, 2, 4\], but dim 0 must be N = 1",
    ),
    "offsets without masks": (
        with_tensor(1, lambda t: t[:, :24]),
        r"dim 1 must be 3\*offset_group\*K = 36.*offsets in pixels.*then G\*K masks",
    ),
    "offset_mask at the input's size": (
        with_tensor(1, lambda t: t.new_zeros(1, 36, 3, 5)),
        "offset_mask has shape .* dim 2 must be Ho = 2",
    ),
    "weight of a dense convolution": (
        with_tensor(2, lambda t: t.repeat(1, 2, 1, 1)),
        r"W has shape \[2, 4, 3, 2\], but dim 1 must be C//group = 2",
    ),
    "short bias": (with_tensor(3, lambda t: t[:1]), r"B has shape \[1\], but dim 0 must be O = 2"),
    "scalar bias": (with_tensor(3, lambda t: t[0]), r"B has 0 dims \[\], expected \[O\]"),
    "groups": (with_attribute(groups=3), "C = 4 is not divisible by group = 3"),
    "offset_groups": (with_attribute(offset_groups=3), "C = 4 is not divisible by offset_group = 3"),
    "no groups": (with_attribute(groups=0), "groups=0 is outside >= 1"),
    "no offset_groups": (with_attribute(offset_groups=0), "offset_groups=0 is outside >= 1"),
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
