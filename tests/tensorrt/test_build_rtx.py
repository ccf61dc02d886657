"""`dyndeploy.build` with TensorRT for RTX, which builds without a GPU: real engines, and what it says when it fails."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import dyndeploy
from dyndeploy.bundle import file_digest
from dyndeploy.errors import DynError
from dyndeploy.tensorrt import vendor

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
RTX = "tensorrt-rtx"


@pytest.fixture(autouse=True)
def _library(plugins, monkeypatch, caches):
    monkeypatch.setattr("dyndeploy.pipeline.build.library_path", lambda _name: plugins)


def ops(result):
    return {o.name: (o.how, o.version, o.dtype, o.format) for o in result.record.ops}


def test_plugins_and_a_hit(bundle, plugins):
    result = dyndeploy.build(bundle, RTX)
    assert ops(result) == dict.fromkeys(("bend", "filter"), ("plugin", "1", "float32", "Linear"))
    record = result.record
    assert record.runtime.package == "tensorrt_rtx"
    assert record.plugin_sha256 == file_digest(plugins)
    assert (record.bytes, record.sha256) == (Path(result.engine).stat().st_size, file_digest(Path(result.engine)))
    assert [(t.name, t.dtype, t.shape) for t in record.tensors] == [
        ("image", "float32", (-1, 3, -1, -1)),
        ("head", "float32", (-1, 5, -1, -1)),
    ]
    assert {"8.0", "8.9", "12.0"} <= {gpu.compute_capability for gpu in record.gpus}
    assert result.warnings == ()
    assert dyndeploy.build(bundle, RTX).hit


def test_the_library_inside(bundle, plugins):
    beside = dyndeploy.build(bundle, RTX)
    inside = dyndeploy.build(bundle, RTX, embed_plugins=True)
    assert inside.record.plugins_embedded
    assert inside.record.bytes > plugins.stat().st_size > beside.record.bytes
    assert ops(inside) == ops(beside)


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_a_cast_graph(precision, dtype, bundle):
    result = dyndeploy.build(bundle, RTX, precision=precision)
    assert {op[2] for op in ops(result).values()} == {dtype}
    assert [t.dtype for t in result.record.tensors] == ["float32", "float32"]


def test_bodies_of_a_bundle_with_deform_conv(bundle):
    """TensorRT for RTX cannot import the body that the bundle has."""
    result = dyndeploy.build(bundle, RTX, plugins=False)
    assert all(o.how == "inlined" and o.layers > 20 for o in result.record.ops)
    assert result.record.plugin_sha256 is None
    one = dyndeploy.build(bundle, RTX, inline=["bend"])
    assert [o.how for o in one.record.ops] == ["inlined", "plugin"]


def test_what_the_builder_is_doing(bundle):
    phases = []
    dyndeploy.build(bundle, RTX, monitor=phases.append, gpus="ampere", dims={"batch": 1}, tf32=True)
    names = {phase.name for at in phases for phase in at}
    assert "Building engine" in names
    assert len(names) > 2
    assert all(phase.done <= phase.total for at in phases for phase in at)


def error_of(bundle, **options):
    with pytest.raises(DynError) as caught:
        dyndeploy.build(bundle, RTX, **options)
    assert not [f for f in bundle.path.rglob("*") if "engine" in f.name and f.is_file()]
    return caught.value


def test_the_end_of_its_process_is_a_message(bundle, monkeypatch):
    """Without the link that its wheel lacks it ends the process, as soon as there is a plugin."""
    if not vendor.missing_link(vendor.TARGETS[RTX]):
        pytest.skip("this version of tensorrt_rtx finds itself")
    monkeypatch.setattr(vendor, "missing_link", lambda _target: None)
    error = error_of(bundle)
    assert "was ended by SIGABRT while parsing the graph" in error.what
    assert "opened itself by a name that its package does not have" in error.why
    assert "terminate called without an active exception" in error.why
    assert error.fix.startswith("dyndeploy doctor")


def test_an_op_that_nobody_knows(small, tmp_path):
    def change(model):
        node = small.node_of(model, "filter")
        node.op_type, node.domain = "DecoupledDynamicFilters", "com.example"
        model.opset_import.add(domain="com.example", version=1)

    error = error_of(small.small_bundle(tmp_path / "small", change=change))
    assert error.what.endswith("nothing runs node filter (DecoupledDynamicFilters).")
    assert "  DecoupledDynamicFilters (version '1', namespace 'dyndeploy')" in error.why
    assert "  ROIAlign_TRT (version '2', namespace '')" in error.why
    assert "The nearest is DecoupledDynamicFilter (version '1', namespace 'dyndeploy')" in error.why


def test_another_version_of_a_plugin(small, tmp_path):
    def change(model):
        small.set_attribute(small.node_of(model, "bend"), "plugin_version", "2")

    def without_body(model):
        change(model)
        del model.functions[:]

    error = error_of(small.small_bundle(tmp_path / "with_body", change=change))
    assert error.what == "Node bend was to be a plugin, and TensorRT for RTX built it from its body."
    assert "It asks for ModulatedDeformConv2d (version '2', namespace 'dyndeploy')" in error.why
    error = error_of(small.small_bundle(tmp_path / "without_body", change=without_body))
    assert "nothing runs node bend (ModulatedDeformConv2d)" in error.what
    assert "  ModulatedDeformConv2d (version '2', namespace 'dyndeploy')" in error.why
    assert "The nearest is ModulatedDeformConv2d (version '1', namespace 'dyndeploy')" in error.why
    assert "its nodes and this version's plugins do not go together" in error.fix


def test_deform_conv_of_onnx(small, tmp_path):
    def change(model):
        node = small.node_of(model, "bend")
        node.domain, node.op_type = "", "DeformConv"
        kept = {a.name: a for a in node.attribute}
        del node.attribute[:]
        node.attribute.extend(kept[name] for name in ("strides", "pads", "dilations", "group", "offset_group"))
        node.input[:] = ["stem", "bend.W", "offsets18"]
        first = numpy_helper.from_array(np.zeros((18, 8, 3, 3), np.float32), "offsets18.W")
        model.graph.initializer.append(first)
        conv = helper.make_node("Conv", ["stem", "offsets18.W"], ["offsets18"], "offsets18", pads=[1] * 4)
        model.graph.node.insert(1, conv)

    bundle = small.small_bundle(tmp_path / "small", change=change)
    error = error_of(bundle, plugins=False)
    assert "nothing runs node bend (DeformConv)" in error.what
    assert error.fix == "dyndeploy export RECIPE --body gridsample, or build with the plugins"
    assert dyndeploy.build(bundle, RTX).record.plugin_sha256  # the library has one for it


def test_a_plugin_says_why_it_refuses_a_node(small, tmp_path):
    def change(model):
        small.set_attribute(small.node_of(model, "bend"), "group", 3)

    error = error_of(small.small_bundle(tmp_path / "small", change=change))
    assert error.what.endswith("a plugin refuses its node.")
    assert error.why == "ModulatedDeformConv2d node 'bend': dcnv2: group = 3 does not divide the 8 outputs of W"


def test_turing_has_no_float32_products(small, tmp_path):
    bundle = small.small_bundle(tmp_path / "small", change=_with_product)
    error = error_of(bundle, gpus="turing", plugins=False)
    assert "cannot be compiled for Turing" in error.why
    assert "FP32 GEMM is not supported" in error.why


def _with_product(model):
    weight = numpy_helper.from_array(np.ones((5, 5), np.float32), "product.W")
    model.graph.initializer.append(weight)
    head = next(n for n in model.graph.node if n.name == "head")
    head.output[0] = "map"
    model.graph.node.append(helper.make_node("GlobalAveragePool", ["map"], ["mean"], "mean"))
    model.graph.node.append(helper.make_node("Flatten", ["mean"], ["flat"], "flat"))
    model.graph.node.append(helper.make_node("MatMul", ["flat", "product.W"], ["head"], "product"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("head", onnx.TensorProto.FLOAT, ["batch", 5]))


def test_dims_that_the_graph_does_not_have(small, tmp_path):
    """The manifest promises sizes that the graph was not exported for."""

    def change(model):
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 16

    error = error_of(small.small_bundle(tmp_path / "small", change=change))
    assert "Dim 2 of image is 16 in the graph, and the profile asks for min=8, opt=16, max=32" in error.why
    assert "--dim NAME=MIN:OPT:MAX" in error.fix
