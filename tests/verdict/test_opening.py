"""What `check` needs to know of engines, and the copies of bundles that it builds others from."""

from types import SimpleNamespace

import onnx
from onnx import TensorProto, helper

from dyndeploy.bundle import ONNX, Bundle, Manifest, file_digest
from dyndeploy.graph.probe import with_choices, with_outputs
from dyndeploy.ops._spec import spec_of
from dyndeploy.pipeline.check import _allowed, _rows
from dyndeploy.tensorrt import record
from dyndeploy.tensors import Dim, TensorSpec
from dyndeploy.testing.cases import cases
from dyndeploy.testing.single_op import single_op_model
from dyndeploy.verdict.opening import opener_of, variant_of


def bundle_of(folder, model, **changes):
    folder.mkdir()
    (folder / ONNX).write_bytes(model)
    manifest = Manifest(
        created="", versions={}, precision="fp32", io_precision="fp32", body="standard", dims={}, inputs=[],
        outputs=[TensorSpec(name="Y", shape=(1,))], ops=[], nodes={}, kept_fp32=[], seed=0, goldens=[],
        files={ONNX: file_digest(folder / ONNX)},
    )  # fmt: skip
    bundle = Bundle(folder, manifest.model_copy(update=changes))
    bundle.save_manifest()
    return bundle


def test_an_engine_is_judged_in_the_precision_that_it_was_built_in(tmp_path):
    bundle = bundle_of(tmp_path / "small", b"model")
    assert _rows(bundle, ["torch", "tensorrt"]) == [("torch", "float32"), ("tensorrt", "float32")]
    folder = record.engine_folder(bundle, "tensorrt")
    folder.mkdir(parents=True)
    (folder / "engine").write_bytes(b"")
    record.EngineRecord(
        target="tensorrt", file="engine", bytes=0, sha256="", created="", onnx_sha256="", precision="fp16",
        io_precision="fp32", body="standard", runtime=record.Runtime(package="tensorrt", version="11"),
        plugin_sha256=None, plugins_embedded=False, gpus=(), dims={}, profiles=(), tensors=(), ops=(), config={},
        seconds=0.0, key="", key_parts={},
    ).save(folder)  # fmt: skip
    assert _rows(bundle, ["torch", "tensorrt"]) == [("torch", "float32"), ("tensorrt", "float16")]


def test_points_that_an_engine_was_not_built_for_are_left_out():
    session = SimpleNamespace(dims={"batch": Dim(min=1, opt=2, max=4)})
    assert _allowed(session, {"batch": 4, "height": 99})
    assert not _allowed(session, {"batch": 5})
    assert _allowed(SimpleNamespace(dims={}), {"batch": 5})


def test_a_variant_has_the_outputs_of_its_model_and_operators_only(tmp_path):
    """Decisions are functions of our domain that no build knows: their nodes are in the graph instead."""
    spec = spec_of("drconv")
    case = cases(spec)[0]
    model = single_op_model(spec, case.attributes, shapes=case.shapes())
    node = model.graph.node[0].name
    shown = with_outputs(with_choices(model, {node: "regions"}), ["regions"])
    bundle = bundle_of(tmp_path / "small", model.SerializeToString(), dims={"batch": Dim(min=1, opt=2, max=4)})
    variant = Bundle.open(variant_of(bundle, shown, tmp_path / "variant").path)
    assert [o.name for o in variant.manifest.outputs] == ["Y", "regions"]
    assert variant.manifest.outputs[1].dtype == "int64"
    assert variant.manifest.dims == bundle.manifest.dims
    assert variant.changed_files() == []
    inside = onnx.load(variant.onnx_path)
    assert [n.op_type for n in inside.graph.node if n.domain == "dyndeploy"] == [spec.name]
    assert {f.name for f in inside.functions} == {spec.name}


def test_runtimes_that_take_onnx_open_the_model_itself():
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    with opener_of(SimpleNamespace(), "onnxruntime")(model.SerializeToString()) as session:
        assert session.runtime == "onnxruntime"
