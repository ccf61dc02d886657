"""Inspect: what it says about a file is what is in the file, and what it says of runtimes is what they do."""

import contextlib
import shutil

import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import nn

from dyndeploy.errors import DynError
from dyndeploy.nn import DRConv2d, ModulatedDeformConv2d
from dyndeploy.ops._spec import custom_ops, spec_of
from dyndeploy.pipeline.capabilities import RULES, executions
from dyndeploy.pipeline.export import export
from dyndeploy.pipeline.inspect import inspect
from dyndeploy.runtimes import open_session, runtime_names
from dyndeploy.tensors import Dim
from dyndeploy.testing.single_op import single_op_model

ATTRIBUTES = {
    "ModulatedDeformConv2d": {},
    "DecoupledDynamicFilter": {"kernel_shape": [3, 3]},
    "DynamicRegionAwareConv2d": {"kernel_shape": [3, 3], "regions": 4},
    "MixedRegionAwareConv2d": {"kernel_shape": [3, 3], "regions": 4},
    "DynamicGroupConv2d": {},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(
        ModulatedDeformConv2d(3, 4, (3, 5), stride=(1, 2), padding=(1, 2)),
        nn.Conv2d(4, 4, 1),
        nn.Sigmoid(),
        DRConv2d(4, 2, 3, padding=1, regions=3, bases=2),
    )
    return export(
        model,
        torch.rand(2, 3, 6, 8),
        tmp_path_factory.mktemp("inspect") / "net",
        inputs={"x": ["batch", 3, 6, 8]},
        dims={"batch": (1, 2, 4)},
        outputs=["y"],
        ranges={"x": (0.0, 1.0)},
        precision="fp16",
        keep_fp32=["Sigmoid"],
    )


def test_bundle(bundle):
    found = inspect(bundle.path)
    assert (found.name, found.bundle) == ("net", True)
    assert [str(t) for t in (*found.inputs, *found.outputs)] == [
        "x: float32 [batch, 3, 6, 8]",
        "y: float32 [batch, 2, 6, 4]",
    ]
    assert found.dims == {"batch": Dim(min=1, opt=2, max=4)}
    assert (found.precision, found.io_precision, found.body) == ("fp16", "fp32", "standard")
    assert found.kept_fp32 == tuple(bundle.manifest.kept_fp32) != ()
    assert found.opsets == {"ai.onnx": 22, "dyndeploy": 1}
    assert found.goldens == ("min", "opt", "max")
    assert found.producer.startswith("dyndeploy ")
    assert "torch" in found.versions
    assert inspect(bundle) == found


def test_nodes_are_counted_as_they_stand_in_the_file(bundle):
    found = inspect(bundle)
    graph = onnx.load(bundle.onnx_path).graph
    standard = [node.op_type for node in graph.node if not node.domain]
    assert found.standard == {op: standard.count(op) for op in standard}
    assert list(found.standard.values()) == sorted(found.standard.values(), reverse=True)
    assert [(node.name, node.type) for node in found.nodes] == [
        (node.name, node.op_type) for node in graph.node if node.domain == "dyndeploy"
    ]


def test_dynamic_nodes_with_shapes_and_attributes(bundle):
    deform, regions = inspect(bundle).nodes
    assert (deform.type, deform.dtype) == ("ModulatedDeformConv2d", "float16")
    assert deform.inputs["X"] == ("batch", 3, 6, 8)
    assert deform.inputs["offset_mask"] == ("batch", 45, 6, 4)
    assert deform.inputs["W"] == (4, 3, 3, 5)
    assert deform.output == ("batch", 4, 6, 4)
    assert deform.attributes["strides"] == (1, 2)
    assert deform.attributes["pads"] == (1, 2, 1, 2)
    assert list(deform.attributes) == [a.name for a in spec_of("dcnv2").attributes]
    assert (regions.type, regions.attributes["regions"]) == ("MixedRegionAwareConv2d", 3)
    assert regions.inputs["share"] == ("batch", 3, 2)
    assert regions.inputs["banks"] == (4, 36)
    assert regions.inputs["guide"] == ("batch", 3, 6, 4)


def test_required_ops_are_those_of_graph_and_bodies(bundle):
    found = inspect(bundle)
    model = onnx.load(bundle.onnx_path)
    inside = {node.op_type for function in model.functions for node in function.node}
    outside = {node.op_type for node in model.graph.node if not node.domain}
    assert set(found.required) == inside | outside
    assert {"DeformConv", "ArgMax"} <= inside
    assert {op.type: set(op.body) for op in found.ops} == {
        f.name: {node.op_type for node in f.node} for f in model.functions
    }


def test_parameters(bundle):
    found = inspect(bundle).parameters
    floats = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}
    arrays = [
        onnx.numpy_helper.to_array(t) for t in onnx.load(bundle.onnx_path).graph.initializer if t.data_type in floats
    ]
    assert found.count == sum(a.size for a in arrays) > 500
    assert found.bytes == sum(a.nbytes for a in arrays)
    assert sum(found.by_dtype.values()) == found.count
    assert found.by_dtype["float16"] > 500


def test_changed_files_are_marked(bundle, tmp_path):
    copy = tmp_path / "net"
    shutil.copytree(bundle.path, copy)
    assert {f.name: f.changed for f in inspect(copy).files} == {
        "model.onnx": False,
        "model.pt2": False,
        "goldens.safetensors": False,
        "manifest.json": None,
    }
    (copy / "model.pt2").write_bytes(b"something else")
    found = inspect(copy)
    assert found.changed == ("model.pt2",)
    assert {f.name: f.bytes for f in found.files}["model.pt2"] == 14


def save(tmp_path, model):
    path = tmp_path / "one.onnx"
    onnx.save(model, path)
    return path


def test_onnx_file_alone(tmp_path):
    model = single_op_model(
        spec_of("drconv"),
        {"kernel_shape": [3, 3], "regions": 4},
        shapes=[["n", 3, "h", 8], ["n", 20, 27], ["n", 4, "ho", 6], [5]],
    )
    found = inspect(save(tmp_path, model))
    assert (found.name, found.bundle, found.precision, found.dims, found.goldens) == ("one.onnx", False, None, {}, ())
    assert str(found.inputs[0]) == "X: float32 [n, 3, h, 8]"
    assert found.nodes[0].inputs["filters"] == ("n", 20, 27)
    assert [f.name for f in found.files] == ["one.onnx"]
    torch_way = next(e for e in found.ops[0].executions if e.runtime == "torch")
    assert not torch_way.runs
    assert "model.pt2" in torch_way.note


def test_other_domains_and_subgraphs(tmp_path):
    relu = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Gelu", ["a"], ["b"], domain="com.microsoft")],
        "then",
        [],
        [helper.make_tensor_value_info("b", 1, [2])],
    )
    none = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["c"])], "else", [], [helper.make_tensor_value_info("c", 1, [2])]
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["flag"], ["y"], then_branch=relu, else_branch=none)],
        "g",
        [helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, [2])],
        [helper.make_tensor_value_info("y", 1, [2])],
    )
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("com.microsoft", 1)]
    found = inspect(save(tmp_path, helper.make_model(graph, opset_imports=opsets, ir_version=10)))
    assert found.standard == {"If": 1, "Identity": 1, "Relu": 1, "com.microsoft::Gelu": 1}
    assert found.nodes == found.ops == ()


def test_a_file_without_bodies(tmp_path):
    model = single_op_model(spec_of("dcnv2"), {})
    del model.functions[:]
    (op,) = inspect(save(tmp_path, model)).ops
    assert op.body is None
    ways = {e.runtime: e for e in op.executions}
    assert ways["onnxruntime"].how == "compiled kernel"
    assert not ways["onnxruntime-bodies"].runs
    assert "no function body" in ways["onnxruntime-bodies"].note
    assert ways["tensorrt"].how == "plugin"


@pytest.mark.parametrize("content", [b"", b"not an onnx file at all"])
def test_not_an_onnx_file(tmp_path, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(DynError, match="is not an ONNX file"):
        inspect(path)


def test_nothing_there(tmp_path):
    with pytest.raises(DynError, match="it is not a bundle"):
        inspect(tmp_path / "nothing")


def test_every_runtime_has_a_rule():
    assert set(runtime_names()) <= {rule.runtime for rule in RULES}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("gridsample", [False, True])
@pytest.mark.parametrize("spec", custom_ops(), ids=lambda spec: spec.key)
def test_onnxruntime_runs_what_the_rules_say(spec, gridsample, dtype):
    model = single_op_model(spec, ATTRIBUTES[spec.name], dtype, gridsample=gridsample)
    body = {node.op_type for node in model.functions[0].node}
    ways = {e.runtime: e for e in executions(body, dtype)}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    expectation = (
        contextlib.nullcontext()
        if ways["onnxruntime-bodies"].runs
        else pytest.raises(Exception, match="NOT_IMPLEMENTED")
    )
    with expectation:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert ways["onnxruntime"].how == "compiled kernel"
    open_session(model.SerializeToString(), "onnxruntime").close()


@pytest.mark.parametrize(
    ("body", "dtype", "runtime", "expected"),
    [
        (["DeformConv"], "float32", "tensorrt-rtx", "plugin or function body (`build --no-plugins` takes its Grid"),
        (["GridSample"], "float32", "tensorrt-rtx", "plugin or function body"),
        (["DeformConv"], "bfloat16", "tensorrt", "plugin or function body (`build --no-plugins` takes its GridSamp"),
        (["DeformConv"], "bfloat16", "onnxruntime-cuda", "not at all (its DeformConv kernel has no bfloat16)"),
        (["DeformConv"], None, "onnxruntime-bodies", "function body (the DeformConv kernel inside needs onnxruntime"),
        (["MatMul"], "float16", "onnxruntime-bodies", "function body"),
        (["MatMul"], "bfloat16", "onnxruntime", "compiled kernel"),
        (["MatMul"], "float32", "torch", "torch custom op"),
    ],
)
def test_rules(body, dtype, runtime, expected):
    (way,) = (e for e in executions(body, dtype) if e.runtime == runtime)
    assert str(way).startswith(expected)
    assert way.runs == (way.how != "not at all")
