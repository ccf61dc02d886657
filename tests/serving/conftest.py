"""Small bundles made without torch, a runtime that waits until it is told to go on, and servers for them."""

import contextlib
import http.client
import json
import sys
import threading
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

import dyndeploy.runtimes
from dyndeploy.bundle import GOLDENS, MANIFEST, ONNX, Bundle, Manifest, file_digest, golden_key
from dyndeploy.runtimes import BaseSession, register_runtime
from dyndeploy.serving import Server
from dyndeploy.tensors import Dim, TensorSpec, sizes_at

_TYPES = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}
FEATURES, CLASSES = 6, 4


def write_bundle(path, graph, inputs, outputs, dims, reference, seed=0):
    """A bundle from an ONNX graph and a NumPy function that computes the same in float64."""
    path.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path / ONNX)
    goldens = {}
    for point in ("min", "opt", "max"):
        rng = np.random.default_rng(seed)
        sizes = sizes_at(dims, point)
        arrays = {}
        for spec in inputs:
            drawn = rng.integers(0, 2, spec.size_at(sizes)) if spec.dtype == "bool" else None
            drawn = rng.integers(0, 100, spec.size_at(sizes)) if drawn is None else drawn
            arrays[spec.name] = drawn.astype(np.float64)
            goldens[golden_key(point, "inputs", spec.name)] = arrays[spec.name]
        for name, value in reference(arrays).items():
            goldens[golden_key(point, "outputs", name)] = np.ascontiguousarray(value, np.float64)
    save_file(goldens, path / GOLDENS)
    manifest = Manifest(
        created="2026-01-01T00:00:00+00:00",
        versions={},
        precision="fp32",
        io_precision="fp32",
        body="standard",
        dims=dims,
        inputs=inputs,
        outputs=outputs,
        ops=[],
        nodes={},
        kept_fp32=[],
        seed=seed,
        goldens=["min", "opt", "max"],
        files={name: file_digest(path / name) for name in (ONNX, GOLDENS)},
    )
    (path / MANIFEST).write_text(manifest.model_dump_json())
    return path


def write_linear(path, scale=1.0, max_batch=8, seed=0):
    """y = scale * x @ W, x [batch, length, 6] -> y [batch, length, 4]; length 1..5."""
    weights = (scale * np.random.default_rng(7).standard_normal((FEATURES, CLASSES))).astype(np.float32)
    shape = ["batch", "length", FEATURES]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", CLASSES])],
        [helper.make_tensor("W", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    return write_bundle(
        path,
        graph,
        [TensorSpec(name="x", shape=tuple(shape), range=(0.0, 100.0))],
        [TensorSpec(name="y", shape=("batch", "length", CLASSES))],
        {"batch": Dim(min=1, opt=min(4, max_batch), max=max_batch), "length": Dim(min=1, opt=3, max=5)},
        lambda arrays: {"y": arrays["x"] @ weights.astype(np.float64)},
        seed,
    )


def write_echo(path, dtypes=tuple(_TYPES)):
    """Every dtype in, the same out: in_float32 [batch, 3] -> out_float32 [batch, 3], …"""
    nodes = [helper.make_node("Identity", [f"in_{d}"], [f"out_{d}"]) for d in dtypes]
    infos = [
        [helper.make_tensor_value_info(f"{side}_{d}", _TYPES[d], ["batch", 3]) for d in dtypes]
        for side in ("in", "out")
    ]
    specs = [[TensorSpec(name=f"{side}_{d}", dtype=d, shape=("batch", 3)) for d in dtypes] for side in ("in", "out")]
    return write_bundle(
        path,
        helper.make_graph(nodes, "echo", *infos),
        *specs,
        {"batch": Dim(min=1, opt=2, max=4)},
        lambda arrays: {name.replace("in_", "out_"): value for name, value in arrays.items()},
    )


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """Folder with the bundles linear and echo; not to be written to."""
    folder = tmp_path_factory.mktemp("served")
    write_linear(folder / "linear")
    write_echo(folder / "echo")
    return folder


@pytest.fixture(scope="session")
def make_linear():
    return write_linear


@pytest.fixture(scope="session")
def make_bundle():
    return write_bundle


@pytest.fixture(scope="session")
def serve():
    """serve(*bundles, **settings): a running server with free ports."""

    @contextlib.contextmanager
    def run(*folders, **settings):
        with Server(folders, **{"port": 0, "grpc_port": 0, "options": {"threads": 1}, **settings}) as server:
            yield server

    return run


@pytest.fixture(scope="session")
def shared(serve, bundles):
    """A server with linear and echo for tests that change nothing about it."""
    with serve(bundles / "linear", bundles / "echo") as server:
        yield server


class Gate(BaseSession):
    """y = x @ ones, after the gate is opened; remembers what it ran."""

    runtime = "gate"
    opened = threading.Event()
    batches: list
    failing: set

    @classmethod
    def open(cls, source, *, threads=None):
        manifest = source.manifest
        return cls(manifest.inputs, manifest.outputs, manifest.dims)

    def _run(self, arrays):
        x = arrays["x"]
        type(self).batches.append(x.copy())
        assert type(self).opened.wait(60)
        if any(float(row.flat[0]) in type(self).failing for row in x):
            raise RuntimeError("a bad row")
        return {"y": np.ascontiguousarray((x[..., :CLASSES] * 2).astype(np.float32))}


@pytest.fixture
def gate(monkeypatch):
    """A runtime whose runs wait for `gate.opened`; `gate.batches` are the inputs of its runs."""
    module = types.ModuleType("gate_runtime")
    module.Gate = Gate
    monkeypatch.setitem(sys.modules, "gate_runtime", module)
    monkeypatch.setattr(dyndeploy.runtimes, "_RUNTIMES", dict(dyndeploy.runtimes._RUNTIMES))
    register_runtime("gate", "gate_runtime:Gate", package="gate_runtime", extra="gate")
    Gate.opened = threading.Event()
    Gate.opened.set()
    Gate.batches, Gate.failing = [], set()
    yield Gate
    Gate.opened.set()


class Rest:
    """A plain HTTP client."""

    def __init__(self, server, timeout=60):
        self._connect = lambda: http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)

    def __call__(self, method, path, body=None, headers=None):
        """(status, content): JSON where it is JSON, and the headers of the response in `self.headers`."""
        connection = self._connect()
        try:
            if isinstance(body, (dict, list)):
                body, headers = json.dumps(body), {"Content-Type": "application/json", **(headers or {})}
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
            self.headers = {name.lower(): value for name, value in response.getheaders()}
            if self.headers.get("content-type") == "application/json":
                content = json.loads(content)
            return response.status, content
        finally:
            connection.close()

    def infer(self, x, model="linear", headers=None, **more):
        """JSON in and out: (status, array or what else came)."""
        x = np.asarray(x, np.float32)
        tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
        status, content = self("POST", f"/v2/models/{model}/infer", {"inputs": [tensor], **more}, headers)
        if status != 200:
            return status, content
        y = content["outputs"][0]
        return status, np.array(y["data"], np.float32).reshape(y["shape"])


@pytest.fixture(scope="session")
def rest():
    """rest(server)(method, path, …): a plain HTTP client."""
    return Rest


@pytest.fixture(scope="session")
def samples():
    """samples(batch, length, seed): an input of linear."""

    def draw(batch=1, length=3, seed=0):
        return np.random.default_rng(seed).standard_normal((batch, length, FEATURES)).astype(np.float32)

    return draw


@pytest.fixture(scope="session")
def alone(bundles):
    """alone(x): what a session gives for linear."""
    session = dyndeploy.runtimes.open_session(Bundle.open(bundles / "linear"), threads=1)
    yield lambda x: session.run({"x": x})["y"]
    session.close()


def statistics(server, model="linear"):
    return Rest(server)("GET", f"/v2/models/{model}/stats")[1]["model_stats"][0]


@pytest.fixture(scope="session")
def stats():
    """stats(server, model): of the statistics extension."""
    return statistics


@pytest.fixture(scope="session")
def wait_for():
    """wait_for(condition): until it holds, at most a minute."""
    import time

    def wait(condition):
        ends = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < ends, "it did not happen"
            time.sleep(0.005)

    return wait


@pytest.fixture(scope="session")
def root():
    return Path(__file__).parents[2]
