"""Before a model is ready: its goldens, and whether its samples may run together."""

import types

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import dyndeploy
from dyndeploy.bundle import ONNX, Bundle, OpRecord
from dyndeploy.errors import DynError, MissingPackageError
from dyndeploy.serving.models import selftest
from dyndeploy.serving.models.batching import Batching, batch_dim
from dyndeploy.serving.models.limits import Limits
from dyndeploy.tensors import Dim, TensorSpec
from dyndeploy.testing.numeric import Verdict


@pytest.fixture
def linear(make_linear, tmp_path):
    return Bundle.open(make_linear(tmp_path / "linear"))


def results(bundle, factor=1.0):
    with dyndeploy.open_session(bundle, threads=1) as session:
        found = selftest.warm_up([session], bundle)
    return {point: {"y": outputs["y"] * np.float32(factor)} for point, outputs in found.items()}


def test_right_numbers_pass(linear):
    assert selftest.self_test(linear, "onnxruntime", results(linear)) == "within noise at min, opt, max"


def test_a_changed_file_is_refused(linear):
    found = results(linear)
    linear.onnx_path.write_bytes(linear.onnx_path.read_bytes() + b"\0")
    with pytest.raises(DynError, match=r"not what was exported: model\.onnx"):
        selftest.self_test(linear, "onnxruntime", found)


def without_torch(monkeypatch):
    def missing(*_):
        raise MissingPackageError("torch", "Running model.pt2", "export")

    import dyndeploy.pipeline.check

    monkeypatch.setattr(dyndeploy.pipeline.check, "check_runtime", missing)


def test_without_torch_what_is_far_off_is_refused_and_what_is_near_is_told(linear, monkeypatch):
    without_torch(monkeypatch)
    with pytest.raises(DynError, match="is broken") as error:
        selftest.self_test(linear, "onnxruntime", results(linear, 1.01))
    assert "torch is not installed" in error.value.why
    assert "--no-self-test" in error.value.fix
    assert selftest.self_test(linear, "onnxruntime", results(linear, 1 + 1e-5)).startswith("suspicious (y at min)")


def test_with_torch_its_own_error_decides(linear, monkeypatch):
    import dyndeploy.pipeline.check

    asked = []
    for verdict in (Verdict.WITHIN_NOISE, Verdict.BROKEN):
        monkeypatch.setattr(
            dyndeploy.pipeline.check, "check_runtime", lambda *given, v=verdict: asked.append(given[1:]) or v
        )
        if verdict.ok:
            found = selftest.self_test(linear, "onnxruntime", results(linear, 1.01))
            assert found == "within noise at min, opt, max, by PyTorch's own error"
        else:
            with pytest.raises(DynError, match="gives other numbers"):
                selftest.self_test(linear, "onnxruntime", results(linear, 1.01))
    assert asked == [("onnxruntime", ["min", "opt", "max"])] * 2


def test_an_exported_bundle_is_judged_by_torch_where_floors_are_not_enough(tmp_path, monkeypatch, serve, rest):
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU())
    bundle = dyndeploy.export(
        model,
        torch.rand(2, 2, 5, 5),
        tmp_path / "conv",
        inputs={"image": ["batch", 2, 5, 5]},
        dims={"batch": (1, 2, 4)},
    )
    before = (bundle.path / "manifest.json").read_bytes()
    monkeypatch.setattr(selftest, "_judge", lambda *_: Verdict.BROKEN)
    monkeypatch.setattr(selftest, "rows_are_independent", lambda *_: True)
    with serve(bundle, grpc_port=None) as server:
        parameters = rest(server)("GET", "/v2/models/conv/config")[1]["parameters"]
        assert parameters["self_test"]["string_value"].endswith("by PyTorch's own error")
        assert rest(server)("GET", "/v2/models/conv")[1]["outputs"][0]["shape"] == [-1, 3, 3, 3]
    assert (bundle.path / "manifest.json").read_bytes() == before


def test_a_model_whose_samples_depend_on_each_other_is_not_batched(make_bundle, tmp_path, serve, rest, caplog):
    shape = ["batch", 3]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        "centred",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    specs = [TensorSpec(name=name, shape=tuple(shape)) for name in ("x", "y")]
    folder = make_bundle(
        tmp_path / "centred",
        graph,
        specs[:1],
        specs[1:],
        {"batch": Dim(min=1, opt=2, max=4)},
        lambda arrays: {"y": arrays["x"] - arrays["x"].mean(axis=0)},
    )
    with serve(folder, grpc_port=None) as server:
        config = rest(server)("GET", "/v2/models/centred/config")[1]
        assert "dynamic_batching" not in config
        assert config["max_batch_size"] == 4
    assert "no batching" in caplog.text


def manifest(*shapes, **dims):
    specs = [TensorSpec(name=f"t{i}", shape=shape) for i, shape in enumerate(shapes)]
    sized = {name: Dim.parse(name, sizes) for name, sizes in dims.items()}
    return types.SimpleNamespace(inputs=specs[:1], outputs=specs[1:], dims=sized)


@pytest.mark.parametrize(
    ("shapes", "dim"),
    [
        ([("batch", 3), ("batch", 4)], "batch"),
        ([("batch", 3), (4, "batch")], None),
        ([("batch", "batch"), ("batch", 4)], None),
        ([("batch", "2*batch"), ("batch", 4)], None),
        ([("batch", 3), ()], None),
        ([("one", 3), ("one", 4)], None),
        ([(2, 3), (2, 4)], None),
        ([("batch", 3), ("other", 4)], None),
    ],
)
def test_the_dim_that_counts_samples(shapes, dim):
    assert batch_dim(manifest(*shapes, batch=(1, 2, 4), other=(1, 2, 4), one=1)) == dim


def test_max_batch_beyond_the_dim_is_refused(linear):
    assert Batching.of(linear.manifest, None, 0).rows == 8
    assert Batching.of(linear.manifest, 4, 0).rows == 4
    with pytest.raises(DynError, match="max_batch=9"):
        Batching.of(linear.manifest, 9, 0)
    with pytest.raises(DynError, match="max_batch=2"):
        Batching.of(manifest((2, 3), (2, 3)), 2, 0)


def test_limits_are_those_of_the_largest_sizes(linear):
    limits = Limits.of(linear.manifest, 1 << 20)
    assert limits.binary == 8 * 5 * 6 * 4
    assert limits.binary < limits.json < 1 << 20
    assert Limits.of(linear.manifest, 1000).json == 1000


def test_discrete_choices_are_known_from_the_manifest(linear):
    assert not selftest._chooses(linear)
    op = OpRecord(name="n", type="DynamicRegionAwareConv2d", folder="drconv", reference="a", source="b")
    linear.manifest.ops.append(op)
    assert selftest._chooses(linear)


def test_the_file_is_a_model(linear):
    onnx.checker.check_model(str(linear.path / ONNX))
