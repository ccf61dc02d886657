"""Every operator is whole, and its parts agree: OpSpec, torch op, ONNX schema, bodies, layer, documentation.

All of it is written over SPECS: an operator is tested by being there. `-k dcnv2` picks one.
"""

import inspect
import itertools
import re
import typing
from importlib import import_module
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch._subclasses import FakeTensorMode

import dyndeploy.nn
import dyndeploy.ops.all
from dyndeploy.ops._onnx import OPSET, bodies, choice_of
from dyndeploy.ops._spec import DOMAIN, PLUGIN_ATTRIBUTES, SPECS, VERSION, custom_ops
from dyndeploy.ops._torch import torch_op
from dyndeploy.testing.cases import grid
from dyndeploy.testing.single_op import single_op_model

ROOT = Path(__file__).parents[1]
OPS = ROOT / "dyndeploy" / "ops"
PLUGINS = ROOT / "plugins"
PLUGIN_PARTS = ["kernels.h", "problem.h", "problem.cpp", "kernels.cpp", "cpu.h", "cpu.cpp", "cuda.cu"]
PLUGIN_PARTS += ["onnxruntime.cpp", "tensorrt.cpp"]
PARTS = ["__init__.py", "reference.py", "op.py", "module.py", "onnx.py", "checkpoint.py", "README.md"]

each_operator = pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.key)
each_custom_op = pytest.mark.parametrize("spec", custom_ops(), ids=lambda s: s.key)
TORCH_TENSORS = {"X": "x", "W": "weight", "B": "bias"}


# --- whole


def test_every_folder_is_an_operator():
    assert {p.parent.name for p in OPS.glob("*/__init__.py")} == {s.folder for s in SPECS}


@each_operator
def test_parts_are_there(spec):
    assert [part for part in PARTS if not (OPS / spec.folder / part).is_file()] == []


@each_custom_op
def test_plugin_parts_are_there(spec):
    assert [part for part in PLUGIN_PARTS if not (PLUGINS / spec.folder / part).is_file()] == []
    assert (PLUGINS / "tests" / "reference" / f"{spec.key}.h").is_file()


@each_custom_op
def test_every_attribute_is_read_by_the_onnxruntime_op(spec):
    """The struct itself is compared in tests/native/test_library.py; this is the table that fills it."""
    text = (PLUGINS / spec.folder / "onnxruntime.cpp").read_text(encoding="utf-8")
    assert re.findall(r'node\("(\w+)", a\.(\w+)\);', text) == [(a.name, a.name) for a in spec.attributes]
    assert f'kName = "{spec.name}"' in text


@each_custom_op
def test_parts_of_a_variant_are_there(spec):
    for part in ("reference", "op", "onnx"):
        assert (ROOT / spec.module(part).replace(".", "/")).with_suffix(".py").is_file()
    assert (PLUGINS / "tests" / f"test_{spec.key}.cpp").is_file()
    assert (PLUGINS / "tests" / f"test_{spec.key}_cuda.cpp").is_file()


@each_operator
def test_tests_are_there(spec):
    tests = ROOT / "tests" / "ops" / spec.folder
    for part in ("reference", "op", "module", "onnx"):
        assert list(tests.glob(f"test_{spec.folder}_{part}*.py")), f"no test_{spec.folder}_{part}*.py in {tests.name}"


def layers_of(spec):
    """The public layers in module.py."""
    module = import_module(f"dyndeploy.ops.{spec.folder}.module")
    public = [name for name in dyndeploy.nn.__all__ if name in vars(module)]
    return [vars(module)[name] for name in public]


@each_operator
def test_layer_is_in_dyndeploy_nn(spec):
    layers = layers_of(spec)
    assert layers
    for layer in layers:
        assert getattr(dyndeploy.nn, layer.__name__) is layer
        assert issubclass(layer, torch.nn.Module)


@each_operator
def test_readme_names_everything(spec):
    text = (OPS / spec.folder / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    code = " ".join(re.findall(r"`([^`]+)`", text))
    names = [layer.__name__ for layer in layers_of(spec)]
    if spec.name:
        names += [spec.name, spec.torch_name]
        names += [t.name for t in spec.inputs]
        names += itertools.chain.from_iterable((a.name, a.torch_name) for a in spec.attributes)
    assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", code)] == []


@each_operator
@pytest.mark.parametrize("page", ["README.md", "docs/support-matrix.md"])
def test_operator_has_a_row(spec, page):
    rows = [line for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    names = {spec.folder, *(layer.__name__ for layer in layers_of(spec))}
    assert any(names & set(re.findall(r"\w+", row)) for row in rows)


# --- names, types, defaults


def torch_type(attribute):
    if attribute.is_switch:
        return "bool", None
    return ("List[int]", attribute.length) if attribute.type == "ints" else (attribute.type, None)


@each_custom_op
def test_torch_schema(spec):
    schema = torch_op(spec)._schema
    tensors = [(TORCH_TENSORS.get(t.name, t.name), "Tensor", None) for t in spec.inputs]
    attributes = [(a.torch_name, *torch_type(a)) for a in spec.attributes]
    assert [(a.name, str(a.type), a.N) for a in schema.arguments] == tensors + attributes
    assert [str(r.type) for r in schema.returns] == ["Tensor"]
    assert not schema.is_mutable


def as_onnx(attribute, value, annotation):
    """A default of the Python function as the ONNX attribute has it."""
    if isinstance(value, str):
        return typing.get_args(annotation).index(value)
    if attribute.type == "ints":
        return (value,) * attribute.length if isinstance(value, int) else tuple(value)
    return int(value) if attribute.is_switch else value


@each_custom_op
def test_defaults_of_the_function(spec):
    function = getattr(import_module(spec.module("op")), spec.torch_name)
    parameters, hints = inspect.signature(function).parameters, typing.get_type_hints(function)
    tensors = [TORCH_TENSORS.get(t.name, t.name) for t in spec.inputs]
    assert list(parameters) == tensors + [a.torch_name for a in spec.attributes]
    for attribute in spec.attributes:
        parameter = parameters[attribute.torch_name]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if attribute.default is None:
            assert parameter.default is inspect.Parameter.empty
        else:
            value = as_onnx(attribute, parameter.default, hints[attribute.torch_name])
            assert (attribute.name, value) == (attribute.name, attribute.default)


@each_custom_op
def test_onnx_schema(spec):
    import_module(spec.module("onnx"))
    schema = onnx.defs.get_schema(spec.name, VERSION, DOMAIN)
    kinds = onnx.defs.OpSchema.AttrType
    types = {"int": kinds.INT, "float": kinds.FLOAT, "ints": kinds.INTS}
    expected = {a.name: types[a.type] for a in spec.attributes} | dict.fromkeys(PLUGIN_ATTRIBUTES, kinds.STRING)
    assert {name: a.type for name, a in schema.attributes.items()} == expected
    assert all(a.required for a in schema.attributes.values())  # no runtime's default matters
    assert [i.name for i in schema.inputs] == [t.name for t in spec.inputs]
    assert [o.name for o in schema.outputs] == [spec.output.name]
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    assert {p.option for p in (*schema.inputs, *schema.outputs)} == {single}
    (constraint,) = schema.type_constraints
    names = {"float32": "tensor(float)"}
    assert set(constraint.allowed_type_strs) == {names.get(d, f"tensor({d})") for d in spec.dtypes}


def bodies_of(spec):
    """One body, or two where there is one for runtimes that lack an op."""
    module = import_module(spec.module("onnx"))
    choices = (False, True) if hasattr(module, "gridsample_body") else (False,)
    return [bodies([spec.key], gridsample=choice)[spec.name] for choice in choices]


@each_custom_op
def test_bodies_declare_what_the_spec_says(spec):
    for body in bodies_of(spec):
        assert (body.domain, body.name, body.opset_imports) == (DOMAIN, spec.name, {"": OPSET})
        assert [v.name for v in body.inputs] == [t.name for t in spec.inputs]
        assert [v.name for v in body.outputs] == [spec.output.name]
        types = {"int": ir.AttributeType.INT, "float": ir.AttributeType.FLOAT, "ints": ir.AttributeType.INTS}
        assert {n: a.type for n, a in body.attributes.items()} == {a.name: types[a.type] for a in spec.attributes}


@each_custom_op
def test_bodies_refer_to_declared_attributes_of_the_same_type(spec):
    for body in bodies_of(spec):
        references = [a for node in body for a in node.attributes.values() if a.is_ref()]
        assert references
        for reference in references:
            assert body.attributes[reference.ref_attr_name].type == reference.type


@each_custom_op
def test_bodies_are_standard_ops_and_use_every_input(spec):
    for body in bodies_of(spec):
        assert {node.domain for node in body} == {""}
        assert [v.name for v in body.inputs if not v.uses()] == []


@each_custom_op
def test_what_decides_can_be_asked_for_its_decision(spec):
    assert hasattr(import_module(spec.module("onnx")), "choice") == (spec.choice is not None)
    if spec.choice is not None:
        choice, (body, *_) = choice_of(spec), bodies_of(spec)
        assert [v.name for v in choice.inputs] == [spec.choice]
        assert {n: a.type for n, a in choice.attributes.items()} == {n: a.type for n, a in body.attributes.items()}
        assert {node.domain for node in choice} == {""}


# --- shapes


def output_shape(case):
    """The size of the window's output is asked of torch's convolution; the rest follows from the spec's shapes."""
    top, left, bottom, right = case.attributes["pads"]
    sizes = case.sizes
    padded = torch.empty(1, 1, sizes["H"] + top + bottom, sizes["W"] + left + right, device="meta")
    taps = padded.new_empty(1, 1, sizes["kh"], sizes["kw"])
    plain = torch.nn.functional.conv2d(padded, taps, None, case.attributes["strides"], 0, case.attributes["dilations"])
    symbols = {**sizes, **case.attributes, "Ho": plain.shape[2], "Wo": plain.shape[3]}
    return tuple(eval(size, {}, symbols) for size in case.spec.output.shape)


@each_custom_op
def test_shape_rule_of_the_spec(spec):
    for case in grid(spec):
        assert spec.output_shape(case.shapes(), case.attributes) == output_shape(case)


@each_custom_op
def test_shape_of_the_torch_op_and_its_fake_kernel(spec):
    for case in grid(spec):
        with FakeTensorMode():
            assert tuple(case.run(*map(torch.empty, case.shapes())).shape) == output_shape(case)
        assert tuple(case.run(*map(torch.randn, case.shapes())).shape) == output_shape(case)


@each_custom_op
def test_shape_inference_of_the_onnx_schema(spec):
    for case in grid(spec):
        model = single_op_model(spec, case.attributes, shapes=case.shapes())
        del model.functions[:]  # the body would tell as well
        model.graph.output[0].type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0]
        assert tuple(d.dim_value for d in inferred.type.tensor_type.shape.dim) == output_shape(case)


def alternatives():
    """(spec, gridsample) for every body there is."""
    for spec in custom_ops():
        for gridsample in (False, True)[: len(bodies_of(spec))]:
            yield pytest.param(spec, gridsample, id=f"{spec.key}-{'gridsample' if gridsample else 'standard'}")


@pytest.mark.parametrize(("spec", "gridsample"), list(alternatives()))
def test_shape_and_value_of_the_bodies(spec, gridsample):
    """The body, which knows nothing of the spec's rules, against the torch op."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # opened once, run once
    for case in grid(spec):
        model = single_op_model(spec, case.attributes, gridsample=gridsample)
        feeds = case.draw(dtype="float32")
        (y,) = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)
        truth = case.run(*(torch.from_numpy(a).double() for a in feeds.values()))
        assert y.shape == output_shape(case) == tuple(truth.shape)
        assert (torch.from_numpy(y) - truth).norm() <= spec.tolerance["float32"] * truth.norm()
