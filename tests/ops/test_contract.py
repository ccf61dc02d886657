"""What every custom op owes, whatever it computes: as a torch op, as a function, as an ONNX body.

Written over SPECS and `dyndeploy.testing.cases`; what an operator computes is tested in its own folder. `-k dcnv2`
picks one.
"""

import inspect
import itertools
import re
import typing
from importlib import import_module

import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn import functional as F

import dyndeploy.ops.all  # noqa: F401
from dyndeploy.errors import DynError
from dyndeploy.ops._spec import custom_ops
from dyndeploy.ops._torch import torch_op
from dyndeploy.testing.cases import Case, cases
from dyndeploy.testing.single_op import single_op_model

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
#: Inputs without a derivative: a guide learns by a surrogate.
CHOSEN_BY = {"guide"}
#: What stands for the last input where a function is called without it.
ABSENT = {"B": torch.zeros_like, "channel_gain": torch.ones_like}
EVERY = [case for spec in custom_ops() for case in cases(spec)]
#: Whatever has a formula of its own is there with the anisotropic window: enough for what is slow.
ANISOTROPIC = [case for case in EVERY if case.attributes["strides"] == (2, 1)]


def identify(case):
    return f"{case.spec.key}-{case}"


each_op = pytest.mark.parametrize("spec", custom_ops(), ids=lambda s: s.key)
each_case = pytest.mark.parametrize("case", EVERY, ids=identify)
each_half = pytest.mark.parametrize("half", HALVES)


def each_input(name, first=0):
    """An operator with the index of one of its inputs, from `first` on."""
    pairs = [(spec, index) for spec in custom_ops() for index in range(first, len(spec.inputs))]
    return pytest.mark.parametrize(("spec", name), pairs, ids=[f"{spec.key}-{index}" for spec, index in pairs])


def named(spec, name):
    return next(case for case in cases(spec) if case.name == name)


@pytest.fixture
def case(spec):
    """Anisotropic, with groups, and a ReLU; small, for what is slow."""
    return named(spec, "relu")


@pytest.fixture
def tensors(case, draw):
    return draw(case, H=3, W=5, ties=False)


def function_of(spec):
    return getattr(import_module(spec.module("op")), spec.torch_name)


def leaves(tensors):
    return [t.detach().clone().requires_grad_() for t in tensors]


def gradients(y, tensors):
    """Of a random direction: the sum has a gradient that is too plain to tell positions apart."""
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad(y, tensors, direction.to(y.dtype))


def relative_error(y, truth):
    return ((torch.as_tensor(y).double() - truth).norm() / truth.norm()).item()


# --- gradients


@pytest.mark.parametrize("case", ANISOTROPIC, ids=identify)
def test_gradients(draw, case):
    inputs = draw(case, N=1, C=4, O=2 * case.attributes.get("heads", 1), H=2, W=3, ties=False)
    for tensor, value in zip(case.spec.inputs, inputs):
        value.requires_grad_(tensor.name not in CHOSEN_BY)
    assert torch.autograd.gradcheck(case.run, inputs)


@each_input("wanted")
def test_only_the_wanted_gradient_is_computed(case, tensors, wanted):
    def grads(needs):
        inputs = [t.clone().requires_grad_(need) for t, need in zip(tensors, needs)]
        case.run(*inputs).square().sum().backward()
        return [t.grad for t in inputs]

    needs = [index == wanted for index in range(len(tensors))]
    one = grads(needs)
    assert [g is not None for g in one] == needs
    torch.testing.assert_close(one[wanted], grads([True] * len(tensors))[wanted])


@each_op
def test_empty_batch(case, draw):
    tensors = leaves(draw(case, N=0))
    y = case.run(*tensors)
    assert y.shape == (0, *case.run(*draw(case)).shape[1:])
    y.sum().backward()
    for tensor, value in zip(case.spec.inputs, tensors):
        assert value.grad.shape == value.shape
        assert tensor.shape[0] == "N" or not value.grad.any()


# --- compiler and exporter


@each_op
@pytest.mark.parametrize(("name", "requires_grad"), [("anisotropic", False), ("relu", True)])
def test_opcheck(draw, spec, name, requires_grad):
    case = named(spec, name)
    inputs = [t.requires_grad_(requires_grad) for t in draw(case, dtype=torch.float32, N=1, H=3, W=5)]
    torch.library.opcheck(torch_op(spec), (*inputs, *case.keywords.values()))


@each_input("wanted")
def test_fake_backward_leaves_out_what_the_real_one_does(case, tensors, wanted):
    op = getattr(torch.ops.dyndeploy, f"{case.spec.torch_name}_backward").default
    needs = [index == wanted for index in range(len(tensors))]
    arguments = (case.run(*tensors), *tensors, needs, *case.keywords.values())
    torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))


@each_op
def test_opcheck_of_one_gradient(case, tensors):
    inputs = [t.float().requires_grad_(index == 1) for index, t in enumerate(tensors)]
    arguments = (*inputs, *case.keywords.values())
    torch.library.opcheck(torch_op(case.spec), arguments, test_utils="test_aot_dispatch_dynamic")


@each_op
def test_compiles_without_graph_breaks(case, tensors):
    def function(x, *others):
        return case.run(x.sin(), *others).cos()

    inputs, twins = leaves(tensors), leaves(tensors)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(*inputs)
    expected = function(*twins)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(gradients(compiled, inputs), gradients(expected, twins))


class Layer(nn.Module):
    """The op behind predictors of all its inputs but the parameters, so that one dim decides the other shapes."""

    def __init__(self, case):
        super().__init__()
        self.case = case
        self.predictors = nn.ParameterList()
        for tensor, shape in list(zip(case.spec.inputs, case.shapes()))[1:]:
            per_pixel = [*shape[1:2], case.sizes["C"], case.sizes["kh"], case.sizes["kw"]]
            per_sample = [case.sizes["C"], *shape[1:]]
            kind = shape if tensor.shape[0] != "N" else per_pixel if "Ho" in tensor.shape else per_sample
            self.predictors.append(torch.randn(kind))

    def forward(self, x):
        window = self.case.keywords
        top, left, bottom, right = window["padding"]
        values = [x]
        for tensor, weight in zip(self.case.spec.inputs[1:], self.predictors):
            if tensor.shape[0] != "N":
                values.append(weight)
            elif "Ho" in tensor.shape:
                padded = F.pad(x, (left, right, top, bottom))
                values.append(F.conv2d(padded, weight, None, window["stride"], 0, window["dilation"]))
            else:
                values.append(torch.tensordot(x.mean((2, 3)), weight, 1).abs())
        return self.case.run(*values)


@each_op
def test_exports_with_dynamic_dims(case):
    layer, channels = Layer(case), case.sizes["C"]
    dims = {
        0: torch.export.Dim("batch", max=8),
        2: torch.export.Dim("height", min=4, max=64),
        3: torch.export.Dim("width", min=4, max=64),
    }
    program = torch.export.export(layer, (torch.randn(2, channels, 9, 8),), dynamic_shapes={"x": dims})
    assert torch_op(case.spec) in [node.target for node in program.graph.nodes if node.op == "call_function"]
    for n, height, width in ((1, 4, 4), (3, 12, 7), (8, 5, 33)):
        x = torch.randn(n, channels, height, width)
        torch.testing.assert_close(program.module()(x), layer(x))


# --- dtypes and memory


@each_half
@each_case
def test_halves_are_computed_in_float32_and_rounded_once(draw, case, half):
    tensors = leaves(draw(case, dtype=HALVES[half]))
    wide = leaves(t.float() for t in tensors)
    y, expected = case.run(*tensors), case.run(*wide)
    assert y.dtype == HALVES[half]
    assert torch.equal(y, expected.to(y.dtype))
    assert relative_error(y, case.run(*(t.double() for t in tensors))) < case.spec.tolerance[half] / 2
    direction = torch.randn(y.shape).to(y.dtype)
    y.backward(direction)
    expected.backward(torch.where(y > 0, direction, 0.0).float() if case.keywords["relu"] else direction.float())
    for one, other in zip(tensors, wide):
        assert one.grad.dtype == one.dtype
        assert torch.equal(one.grad, other.grad.to(one.dtype))


@each_op
@each_half
def test_autocast_runs_in_its_dtype(case, tensors, half):
    inputs = leaves(t.float() for t in tensors)
    with torch.autocast("cpu", dtype=HALVES[half]):
        y = case.run(*inputs)
    assert y.dtype == HALVES[half]
    assert torch.equal(y, case.run(*(t.to(HALVES[half]) for t in tensors)))
    y.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in inputs)


@each_op
def test_autocast_takes_mixed_dtypes_and_leaves_float64(case, tensors):
    mixed = [t.to(dtype) for t, dtype in zip(tensors, itertools.cycle([torch.float32, torch.bfloat16, torch.half]))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert case.run(*mixed).dtype == torch.bfloat16
        assert case.run(*tensors).dtype == torch.float64


@each_op
def test_autocast_compiles(case, tensors):
    @torch.compile(fullgraph=True, backend="aot_eager")
    def function(*arguments):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return case.run(*arguments)

    y = function(*(t.float() for t in tensors))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, case.run(*(t.bfloat16() for t in tensors)))


def last_dim_apart(tensor):
    """Equal numbers, but two apart in memory."""
    return torch.stack([tensor, tensor], dim=-1)[..., 0]


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


@each_case
@pytest.mark.parametrize("layout", [last_dim_apart, channels_last])
def test_layout_in_memory_does_not_matter(draw, case, layout):
    tensors = leaves(draw(case))
    others = [layout(t) for t in draw(case)]
    assert not all(t.is_contiguous() for t in others)
    y, other = case.run(*tensors), case.run(*(t.requires_grad_() for t in others))
    assert other.is_contiguous(
        memory_format=torch.channels_last if layout is channels_last else torch.contiguous_format
    )
    torch.testing.assert_close(other, y)
    torch.testing.assert_close(gradients(other, others), gradients(y, tensors))


# --- the function


def spelled(case):
    """The arguments of the function: a choice of two is a word there."""
    hints = typing.get_type_hints(function_of(case.spec))
    words = {name: typing.get_args(hints[name]) for name, value in case.keywords.items() if isinstance(value, bool)}
    return {n: words[n][value] if words.get(n) else value for n, value in case.keywords.items()}


@each_case
def test_function_is_the_op(draw, case):
    tensors = draw(case)
    assert torch.equal(function_of(case.spec)(*tensors, **spelled(case)), case.run(*tensors))


@each_op
def test_last_input_may_be_missing(case, tensors):
    filler = ABSENT[case.spec.inputs[-1].name](tensors[-1])
    y = function_of(case.spec)(*tensors[:-1], **spelled(case))
    assert torch.equal(y, case.run(*tensors[:-1], filler))


@each_op
def test_one_int_stands_for_both_axes(draw, spec):
    case = Case.of(spec, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), dilations=(2, 2))
    tensors = draw(case)
    short = {n: v[0] if isinstance(v, tuple) else v for n, v in spelled(case).items()}
    assert torch.equal(function_of(spec)(*tensors, **short), case.run(*tensors))


@each_op
def test_two_pads_are_height_and_width(draw, spec):
    case = Case.of(spec, pads=(2, 1, 2, 1))
    tensors = draw(case)
    assert torch.equal(function_of(spec)(*tensors, **{**spelled(case), "padding": (2, 1)}), case.run(*tensors))


# --- errors


def names_of(spec):
    return list(inspect.signature(function_of(spec)).parameters)[: len(spec.inputs)]


def refuses(call, *arguments, message):
    with pytest.raises(DynError, match=f"(?s){message}"):
        call(*arguments)


@each_op
def test_only_floats(case, tensors):
    refuses(case.run, tensors[0].long(), *tensors[1:], message=r"x is torch.int64.*one of torch.float64")


@each_input("index", first=1)
def test_tensors_share_dtype_and_device(case, tensors, index):
    name = names_of(case.spec)[index]
    for change, what in (
        (lambda t: t.float(), rf"{name} is torch.float32 on cpu, but x is torch.float64.*fix: {name} = {name}.to\(x\)"),
        (lambda t: t.to("meta"), f"{name} is torch.float64 on meta"),
    ):
        changed = [change(t) if i == index else t for i, t in enumerate(tensors)]
        refuses(case.run, *changed, message=what)


@each_input("index")
def test_a_dim_is_missing(case, tensors, index):
    tensor = case.spec.inputs[index]
    changed = [t[0] if i == index else t for i, t in enumerate(tensors)]
    shape = re.escape(f"{list(changed[index].shape)}, expected [{', '.join(tensor.shape)}]")
    name = torch_op(case.spec)._schema.arguments[index].name
    message = f"{name} has {changed[index].dim()} dims {shape}.*{re.escape(tensor.doc)}"
    refuses(case.run, *changed, message=message)


@each_op
def test_attributes_out_of_range(case, tensors):
    bounded = [a for a in case.spec.attributes if a.low > -float("inf") and not a.is_switch]
    assert len(bounded) > 3
    for attribute in bounded:
        if attribute.high < float("inf"):
            allowed, bad = f"{attribute.low}..{attribute.high}", [attribute.low - 1, attribute.high + 1]
        else:
            allowed, bad = f">= {attribute.low}", [attribute.low - 1]
        for value in bad:
            given = [*case.attributes[attribute.name][1:], value] if attribute.type == "ints" else value
            changed = {**case.keywords, attribute.torch_name: given}
            message = re.escape(f"{attribute.torch_name}={given} is outside {allowed}.")
            refuses(torch_op(case.spec), *tensors, *changed.values(), message=message)


@each_op
def test_three_values_for_two_axes(case, tensors):
    for attribute in (a for a in case.spec.attributes if a.type == "ints"):
        expected = "one int, two .* or four" if attribute.length == 4 else "one int or two"
        changed = {**spelled(case), attribute.torch_name: (1, 1, 1)}
        with pytest.raises(DynError, match=rf"\(1, 1, 1\) is not {expected}"):
            function_of(case.spec)(*tensors, **changed)


@each_op
def test_window_outside_the_map(case, tensors):
    changed = {**case.keywords, "dilation": (9, 2)}
    message = r"dilated kernel \(19\) is larger than the padded input \(6\) along H"
    refuses(torch_op(case.spec), *tensors, *changed.values(), message=message)


# --- the body, by ONNX Runtime and by ONNX's own evaluator, against the float64 op


def choices(spec):
    """gridsample: whether the body is the one for runtimes that lack an op."""
    return (False, True) if hasattr(import_module(spec.module("onnx")), "gridsample_body") else (False,)


def label(value):
    return {False: "standard", True: "gridsample"}[value]


each_body = pytest.mark.parametrize(
    ("spec", "gridsample"),
    [pytest.param(s, choice, id=f"{s.key}-{label(choice)}") for s in custom_ops() for choice in choices(s)],
)


def bodies_of(chosen):
    each = [(case, choice) for case in chosen for choice in choices(case.spec)]
    ids = [f"{case.spec.key}-{label(choice)}-{case}" for case, choice in each]
    return pytest.mark.parametrize(("case", "gridsample"), each, ids=ids)


def open_session(model):
    return onnxruntime.InferenceSession(model.SerializeToString())


def expected(case, feeds):
    return case.run(*(torch.from_numpy(array).double() for array in feeds.values()))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@bodies_of(EVERY)
def test_one_session_serves_every_shape(case, gridsample, dtype):
    session = open_session(single_op_model(case.spec, case.attributes, dtype, gridsample=gridsample))
    for seed, (n, height, width) in enumerate([(1, 7, 6), (3, 5, 9), (2, 12, 5)]):
        feeds = case.draw(seed, dtype, N=n, H=height, W=width)
        (y,) = session.run(None, feeds)
        truth = expected(case, feeds)
        assert y.shape == truth.shape
        assert y.dtype == dtype
        assert relative_error(y, truth) < case.spec.tolerance[dtype]


@each_body
def test_maps_of_one_row_or_column(spec, gridsample):
    case = named(spec, "padded")
    session = open_session(single_op_model(spec, case.attributes, gridsample=gridsample))
    for height, width in ((1, 5), (5, 1), (1, 1)):
        feeds = case.draw(dtype="float32", H=height, W=width)
        (y,) = session.run(None, feeds)
        assert relative_error(y, expected(case, feeds)) < spec.tolerance["float32"]


@each_body
def test_one_body_serves_nodes_of_different_attributes(spec, gridsample):
    """Two nodes in one model, one function: nothing of a node may be in it."""
    one, two = named(spec, "padded"), named(spec, "relu")
    first, second = (single_op_model(spec, c.attributes, gridsample=gridsample) for c in (one, two))
    assert first.functions[0] == second.functions[0]
    merged = onnx.compose.merge_graphs(
        onnx.compose.add_prefix_graph(first.graph, "first_"),
        onnx.compose.add_prefix_graph(second.graph, "second_"),
        io_map=[("first_Y", "second_X")],
    )
    model = onnx.helper.make_model(
        merged, opset_imports=first.opset_import, functions=first.functions, ir_version=first.ir_version
    )
    head = one.draw(0, "float32", H=9, W=11)
    middle = expected(one, head)
    tail = two.draw(1, "float32", **dict(zip("NCHW", middle.shape)))
    tail.pop("X")
    (y,) = open_session(model).run(
        None, {f"first_{k}": v for k, v in head.items()} | {f"second_{k}": v for k, v in tail.items()}
    )
    truth = two.run(middle, *(torch.from_numpy(array).double() for array in tail.values()))
    assert relative_error(y, truth) < spec.tolerance["float32"]


@each_body
def test_bfloat16_is_valid(spec, gridsample):
    """ONNX Runtime has next to no bfloat16 kernels on the CPU; the checker knows the types of every node."""
    model = single_op_model(spec, named(spec, "plain").attributes, "bfloat16", gridsample=gridsample)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    assert inferred.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16


@bodies_of(ANISOTROPIC)
def test_reference_evaluator(case, gridsample):
    feeds = case.draw(dtype="float32", N=1, H=4, W=5)
    model = single_op_model(case.spec, case.attributes, gridsample=gridsample)
    (y,) = ReferenceEvaluator(model).run(None, feeds)
    assert relative_error(y, expected(case, feeds)) < 1e-6
