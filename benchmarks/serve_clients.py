"""Clients of servers, and the bare session: what sends a sample and waits for its answer.

A client is made from where the server is and a bundle's golden sample; it returns a function that makes one request and
gives back the first output. The raw ones send bytes that were put together before: they cost the least that a client
can, and know the protocol only from its text.
"""

from __future__ import annotations

import base64
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from serve_wires import Grpc, Http1, Wire, call, drive

from dyndeploy import open_session
from dyndeploy.bundle import Bundle
from dyndeploy.testing.numeric import compare

Array = np.ndarray[Any, Any]
Call = Callable[[], Array]

#: Relative L2 error up to which an answer is the right one.
AGREEMENT = 1e-3
WARM_S = 0.5
#: A client that is a bare session and rests before every run, for as long as a session behind a server does while a
#: request is on its way to it: a CPU that sleeps takes its time to be as fast as before.
PAUSED, PAUSE_S = "bare session, after a pause", 0.0005
TRITON_TYPES = {"float32": "FP32", "float16": "FP16"}


@dataclass(frozen=True)
class Task:
    """What a client sends, and where.

    Attributes:
        bundle: folder of the model that is served.
        url: "http://host:port" of the server.
        grpc: "host:port", where it has one.
        batch: samples per request.
        threads: of the bare session.
    """

    bundle: str
    url: str = ""
    grpc: str = ""
    batch: int = 1
    threads: int | None = None

    def inputs(self) -> dict[str, Array]:
        """The golden sample, repeated, in the dtype that the model takes."""
        bundle = Bundle.open(self.bundle)
        arrays, _ = bundle.goldens("min")
        return {
            spec.name: np.repeat(arrays[spec.name][:1], self.batch, 0).astype(spec.dtype)
            for spec in bundle.manifest.inputs
        }

    def answer(self) -> Array:
        """What has to come back."""
        bundle = Bundle.open(self.bundle)
        _, outputs = bundle.goldens("min")
        return np.repeat(outputs[bundle.manifest.outputs[0].name][:1], self.batch, 0)

    @property
    def model(self) -> str:
        """Its name."""
        return Bundle.open(self.bundle).name


# --- clients


@dataclass(frozen=True)
class Raw:
    """A client that is a connection, and how what comes is read."""

    wire: Wire
    read: Callable[[bytes], Array]

    def __call__(self) -> Array:
        return self.read(call(self.wire))


def bare(task: Task) -> Call:
    """No server: the session that they all run."""
    options = {} if task.threads is None else {"threads": task.threads}
    session, inputs = open_session(task.bundle, "onnxruntime", **options), task.inputs()
    name = session.outputs[0].name
    return lambda: session.run(inputs)[name]


def raw_http(task: Task) -> Raw:
    """REST with binary tensors, on a bare socket."""
    inputs = task.inputs()
    described = [
        {
            "name": name,
            "datatype": TRITON_TYPES[array.dtype.name],
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    head = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
    body = head + b"".join(array.tobytes() for array in inputs.values())
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    wire = Http1(task.url, f"/v2/models/{task.model}/infer", headers, body)

    def read(content: bytes) -> Array:
        length = int(wire.field(b"inference-header-content-length"))
        output = json.loads(content[:length])["outputs"][0]
        data = content[length : length + output["parameters"]["binary_data_size"]]
        return np.frombuffer(data, np.float32).reshape(output["shape"])

    return Raw(wire, read)


def triton_http(task: Task) -> Call:
    """tritonclient's synchronous HTTP client."""
    import tritonclient.http

    return _triton(tritonclient.http, task.url.removeprefix("http://"), task)


def triton_grpc(task: Task) -> Call:
    """tritonclient's synchronous gRPC client."""
    import tritonclient.grpc

    return _triton(tritonclient.grpc, task.grpc, task)


def _triton(triton: Any, address: str, task: Task) -> Call:
    client = triton.InferenceServerClient(address)
    model, name = task.model, Bundle.open(task.bundle).manifest.outputs[0].name
    arrays = task.inputs()

    def call() -> Array:
        inputs = [triton.InferInput(n, a.shape, TRITON_TYPES[a.dtype.name]) for n, a in arrays.items()]
        for tensor, array in zip(inputs, arrays.values()):
            tensor.set_data_from_numpy(array)
        array: Array = client.infer(model, inputs).as_numpy(name)
        return array

    return call


def raw_grpc(task: Task) -> Raw:
    """gRPC with a message that was serialised before, on a bare socket."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=task.model)
    for name, array in task.inputs().items():
        request.inputs.add(name=name, datatype=TRITON_TYPES[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    wire = Grpc(task.grpc, "/inference.GRPCInferenceService/ModelInfer", request.SerializeToString())

    def read(content: bytes) -> Array:
        answer = service_pb2.ModelInferResponse.FromString(content)
        return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)

    return Raw(wire, read)


def plain_http(task: Task) -> Raw:
    """The FastAPI peer: the numbers of the only input, and nothing else."""
    (array,) = task.inputs().values()
    wire = Http1(task.url, "/predict", {"Content-Type": "application/octet-stream"}, array.tobytes())
    return _numbers(wire, task)


def plain_grpc(task: Task) -> Raw:
    """The peer of plain grpcio: the numbers of the only input, and nothing else."""
    (array,) = task.inputs().values()
    return _numbers(Grpc(task.grpc, "/Peer/Predict", array.tobytes()), task)


def _numbers(wire: Wire, task: Task) -> Raw:
    shape = task.answer().shape
    return Raw(wire, lambda content: np.frombuffer(content, np.float32).reshape(shape))


def litserve_http(task: Task) -> Raw:
    """The LitServe peer: the numbers in base64, in JSON."""
    (array,) = task.inputs().values()
    body = json.dumps({"data": base64.b64encode(array[0].tobytes()).decode()}).encode()
    wire = Http1(task.url, "/predict", {"Content-Type": "application/json"}, body)
    shape = task.answer().shape
    return Raw(
        wire, lambda content: np.frombuffer(base64.b64decode(json.loads(content)["data"]), np.float32).reshape(shape)
    )


CLIENTS: dict[str, Callable[[Task], Call | Raw]] = {
    "bare session": bare,
    PAUSED: bare,
    "HTTP, raw": raw_http,
    "HTTP, tritonclient": triton_http,
    "gRPC, raw": raw_grpc,
    "gRPC, tritonclient": triton_grpc,
    "FastAPI": plain_http,
    "grpcio": plain_grpc,
    "LitServe": litserve_http,
}


# --- a load


@dataclass(frozen=True)
class Load:
    """Callers that make requests one after the other, all at the same time, for a while."""

    calls: tuple[Call | Raw, ...]
    seconds: float
    samples: int  # per request
    pause_s: float


@dataclass(frozen=True)
class Outcome:
    """Of one turn: latencies in milliseconds, and samples answered per second."""

    p50_ms: float
    p99_ms: float
    per_second: float


def prepare(client: str, task: Task, concurrency: int, seconds: float) -> tuple[Load, float]:
    """For a `gate.Worker`: the load, and the relative error of an answer."""
    # A session and a channel are for many threads; a connection is for one.
    shared = CLIENTS[client](task) if client.startswith("bare session") else None
    calls = tuple(shared or CLIENTS[client](task) for _ in range(concurrency))
    error = compare(calls[0](), task.answer()).relative_l2
    return Load(calls, seconds, task.batch, PAUSE_S if client == PAUSED else 0.0), error


def take_turn(load: Load) -> Outcome:
    """Warm up, then count."""
    _run(load, min(WARM_S, load.seconds))
    start = time.perf_counter()
    latencies = _run(load, load.seconds)
    elapsed = time.perf_counter() - start
    latencies.sort()
    p99 = latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))]
    return Outcome(1000 * statistics.median(latencies), 1000 * p99, len(latencies) * load.samples / elapsed)


def _run(load: Load, seconds: float) -> list[float]:
    wires = [each.wire for each in load.calls if isinstance(each, Raw)]
    if len(wires) > 1:  # one thread for all: sixteen of them would fight for Python's lock, beside the server
        return drive(wires, seconds)
    if len(load.calls) == 1:
        return _repeat(load.calls[0], seconds, load.pause_s)
    with ThreadPoolExecutor(len(load.calls)) as pool:
        return [latency for mine in pool.map(lambda each: _repeat(each, seconds), load.calls) for latency in mine]


def _repeat(request: Callable[[], object], seconds: float, pause_s: float = 0.0) -> list[float]:
    taken = []
    now = time.perf_counter()
    end = now + seconds
    while now < end:
        if pause_s:
            time.sleep(pause_s)
            now = time.perf_counter()
        request()
        later = time.perf_counter()
        taken.append(later - now)
        now = later
    return taken
