import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from dyndeploy.errors import DynError
from dyndeploy.runtimes import UnavailableError, open_session
from dyndeploy.runtimes.onnxruntime import OnnxRuntimeCudaSession


def model(*nodes, element=TensorProto.FLOAT, shape=("batch", 3, None), out=TensorProto.FLOAT, rank=3, constants=()):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", out, ["n"] if rank == 1 else ["batch", 3, "w"])],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(made)
    return made.SerializeToString()


TWICE = helper.make_node("Add", ["x", "x"], ["y"], name="twice")


def test_bytes_and_files_run_alike(tmp_path):
    (tmp_path / "twice.onnx").write_bytes(model(TWICE))
    x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    for source in (model(TWICE), tmp_path / "twice.onnx", str(tmp_path / "twice.onnx")):
        with open_session(source, threads=1) as session:
            assert session.runtime == "onnxruntime"
            np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x)


def test_specs_of_a_bare_file_are_those_of_the_file():
    with open_session(model(TWICE)) as session:
        assert str(session.inputs[0]) == "x: float32 [batch, 3, x_2]"
        assert session.outputs[0].name == "y"
        assert session.dims == {}
        with pytest.raises(DynError, match="expected 3: x: float32"):
            session.run({"x": np.zeros((1, 4, 1), np.float32)})


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint16", "int64", "bool"])
def test_other_dtypes(dtype):
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    identity = helper.make_node("Identity", ["x"], ["y"])
    x = np.array([[[0], [1], [1]]], dtype)
    with open_session(model(identity, element=element, out=element)) as session:
        y = session.run({"x": x})["y"]
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)


def test_bfloat16_goes_in_and_out():
    """NumPy has no such dtype, and ONNX Runtime's run() takes none for it."""
    bf16 = TensorProto.BFLOAT16
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["wide", "wide"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=bf16),
    ]
    x = np.array([[[1.5], [-3.0], [1e30]]], ml_dtypes.bfloat16)
    with open_session(model(*nodes, element=bf16, out=bf16)) as session:
        assert session.inputs[0].dtype == session.outputs[0].dtype == "bfloat16"
        y = session.run({"x": x})["y"]
    assert y.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(y.astype(np.float32), (x + x).astype(np.float32))


def test_an_op_without_kernel_is_named():
    bf16 = TensorProto.BFLOAT16
    with pytest.raises(UnavailableError, match="no CPU kernel for Add") as caught:
        open_session(model(TWICE, element=bf16, out=bf16))
    assert "'twice'" in caught.value.what
    assert "precision" in caught.value.fix


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(DynError, match=r"text\.onnx cannot be loaded by onnxruntime") as caught:
        open_session(tmp_path / "text.onnx")
    assert not isinstance(caught.value, UnavailableError)
    with pytest.raises(DynError, match="The model cannot be loaded"):
        open_session(b"not a model")


def test_a_failing_run_leaves_the_session_usable():
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [6])
    reshape = helper.make_node("Reshape", ["x", "shape"], ["y"])
    with open_session(model(reshape, rank=1, constants=[shape])) as session:
        with pytest.raises(DynError, match="onnxruntime failed to run the model") as caught:
            session.run({"x": np.zeros((1, 3, 1), np.float32)})
        assert "Reshape" in caught.value.why
        assert session.run({"x": np.ones((1, 3, 2), np.float32)})["y"].shape == (6,)


def test_what_is_no_tensor_is_refused():
    sequence = helper.make_node("SequenceConstruct", ["x"], ["y"])
    graph = helper.make_graph(
        [sequence],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    with pytest.raises(DynError, match=r"y is seq\(tensor\(float\)\)"):
        open_session(made.SerializeToString())


class FakeSession:
    """An ONNX Runtime whose CUDA provider is listed, and starts or does not."""

    def __init__(self, model, options, providers):
        self.asked = providers
        FakeSession.last = self

    def disable_fallback(self):
        self.no_fallback = True

    def get_providers(self):
        return FakeSession.started

    def get_inputs(self):
        return []

    get_outputs = get_inputs


@pytest.fixture
def cuda_listed(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)


def test_cuda_is_never_silently_the_cpu(monkeypatch, cuda_listed):
    monkeypatch.setattr(FakeSession, "started", ["CPUExecutionProvider"], raising=False)
    with pytest.raises(UnavailableError, match="does not start, and it fell back to the CPU"):
        open_session(model(TWICE), "onnxruntime-cuda")


def test_cuda_without_tf32_unless_asked(monkeypatch, cuda_listed):
    monkeypatch.setattr(FakeSession, "started", ["CUDAExecutionProvider", "CPUExecutionProvider"], raising=False)
    session = open_session(model(TWICE), "onnxruntime-cuda", device=1)
    assert isinstance(session, OnnxRuntimeCudaSession)
    assert session.runtime == "onnxruntime-cuda"
    assert FakeSession.last.asked == [("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})]
    assert FakeSession.last.no_fallback
    open_session(model(TWICE), "onnxruntime-cuda", tf32=True)
    assert FakeSession.last.asked[0][1]["use_tf32"] == "1"


def test_a_build_without_cuda_says_what_to_install(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UnavailableError, match="is built without CUDA") as caught:
        open_session(model(TWICE), "onnxruntime-cuda")
    assert "dyndeploy[onnxruntime-gpu]" in caught.value.fix
