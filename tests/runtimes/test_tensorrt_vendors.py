"""The genuine libraries, as far as they go without a driver: what they say becomes an error, and nothing crashes."""

import ctypes
import json
import subprocess
import sys

import pytest
from onnx import TensorProto, helper

CODE = """
import gc, importlib, json, sys
from dyndeploy.errors import DynError
from dyndeploy.tensorrt.engine import Engine
from dyndeploy.tensorrt.vendor import TARGETS, Vendor

class Device:
    driver = "12.0"

vendor = Vendor(TARGETS[sys.argv[1]], importlib.import_module(sys.argv[2]))
try:
    Engine.load(vendor, open(sys.argv[3], "rb").read(), Device(), host_code=False, rebuild="build it again")
except DynError as error:
    print(json.dumps([type(error).__name__, error.what, error.why, error.fix]))
gc.collect()
"""


@pytest.fixture(autouse=True)
def _no_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    pytest.skip("there is a driver here; `make test-gpu` runs sessions on it")


@pytest.fixture
def load(tmp_path):
    def load(target, package, content):
        pytest.importorskip(package)
        (tmp_path / "engine").write_bytes(content)
        command = [sys.executable, "-c", CODE, target, package, str(tmp_path / "engine")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return load


def test_tensorrt_11_gives_out_a_runtime_that_crashes(load):
    """Its lean runtime: the error is only in the log, and what it gives out must not even be deleted."""
    kind, what, why, _ = load("tensorrt", "tensorrt_lean", b"not an engine" * 100)
    assert kind == "UnavailableError"
    assert what.startswith("The driver is too old for TensorRT 11.")
    assert why.startswith("It serves CUDA up to 12.0. createInferRuntime: Error Code 6: API Usage Error")


def test_what_is_no_engine_of_tensorrt_for_rtx(load):
    kind, what, why, fix = load("tensorrt-rtx", "tensorrt_rtx", b"not an engine" * 100)
    assert kind == "DynError"
    assert what.endswith("does not load the engine.")
    assert why == "MALFORMED_ENGINE"
    assert fix == "build it again"


def test_an_engine_of_tensorrt_for_rtx_wants_a_driver(load):
    trt = pytest.importorskip("tensorrt_rtx")
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    assert trt.OnnxParser(network, logger).parse(model.SerializeToString())
    engine = bytes(builder.build_serialized_network(network, builder.create_builder_config()))
    kind, what, why, _ = load("tensorrt-rtx", "tensorrt_rtx", engine)
    assert kind == "UnavailableError"
    assert what.startswith("The driver is too old for TensorRT for RTX 1.")
    assert "cudaError 35" in why
