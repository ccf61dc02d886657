"""Clients of servers, and the bare session: what sends a sample and waits for its answer.

A client is made from where the server is and a bundle's golden sample; it returns a function that makes one request and
gives back the first output. The raw ones send bytes that were put together before: they cost the least that a client
can, and know the protocol only from its text.
"""

from __future__ import annotations

import base64
import json
import socket
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dyndeploy import open_session
from dyndeploy.bundle import Bundle
from dyndeploy.testing.numeric import compare

Array = np.ndarray[Any, Any]
Call = Callable[[], Array]

#: Relative L2 error up to which an answer is the right one.
AGREEMENT = 1e-3
WARM_S = 0.5
_CHUNK = 1 << 18  # bytes
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


def bare(task: Task) -> Call:
    """No server: the session that they all run."""
    options = {} if task.threads is None else {"threads": task.threads}
    session, inputs = open_session(task.bundle, "onnxruntime", **options), task.inputs()
    name = session.outputs[0].name
    return lambda: session.run(inputs)[name]


class _Http:
    """One connection, one request, sent again and again; a connection that the server gave up while idle is renewed."""

    def __init__(self, url: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._address = (host, int(port))
        lines = [f"POST {path} HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._request = "\r\n".join([*lines, "", ""]).encode() + body
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.create_connection(self._address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __call__(self) -> tuple[dict[str, str], bytes]:
        try:
            self._socket.sendall(self._request)
            data = self._socket.recv(_CHUNK)
        except ConnectionError:
            data = b""
        if not data:
            self._connect()
            self._socket.sendall(self._request)
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._receive()
        status, *lines = data[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length, body = int(headers["content-length"]), data[end + 4 :]
        while len(body) < length:
            body += self._receive()
        if status.split(" ")[1] != "200":
            raise RuntimeError(f"{status}: {body[:200]!r}")
        return headers, body

    def _receive(self) -> bytes:
        data = self._socket.recv(_CHUNK)
        if not data:
            raise RuntimeError("the server has closed the connection")
        return data


def raw_http(task: Task) -> Call:
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
    send = _Http(task.url, f"/v2/models/{task.model}/infer", headers, body)

    def call() -> Array:
        received, content = send()
        length = int(received["inference-header-content-length"])
        output = json.loads(content[:length])["outputs"][0]
        data = content[length : length + output["parameters"]["binary_data_size"]]
        return np.frombuffer(data, np.float32).reshape(output["shape"])

    return call


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


def raw_grpc(task: Task) -> Call:
    """gRPC with a message that was serialised before; of the answer only the first raw tensor is read."""
    import grpc
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=task.model)
    for name, array in task.inputs().items():
        request.inputs.add(name=name, datatype=TRITON_TYPES[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    message = request.SerializeToString()
    send = grpc.insecure_channel(task.grpc).unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=None,
        response_deserializer=service_pb2.ModelInferResponse.FromString,
    )

    def call() -> Array:
        answer = send(message)
        return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)

    return call


def plain_http(task: Task) -> Call:
    """The FastAPI peer: the numbers of the only input, and nothing else."""
    (array,) = task.inputs().values()
    send = _Http(task.url, "/predict", {"Content-Type": "application/octet-stream"}, array.tobytes())
    shape = task.answer().shape
    return lambda: np.frombuffer(send()[1], np.float32).reshape(shape)


def litserve_http(task: Task) -> Call:
    """The LitServe peer: the numbers in base64, in JSON."""
    (array,) = task.inputs().values()
    body = json.dumps({"data": base64.b64encode(array[0].tobytes()).decode()}).encode()
    send = _Http(task.url, "/predict", {"Content-Type": "application/json"}, body)
    shape = task.answer().shape
    return lambda: np.frombuffer(base64.b64decode(json.loads(send()[1])["data"]), np.float32).reshape(shape)


CLIENTS: dict[str, Callable[[Task], Call]] = {
    "bare session": bare,
    "HTTP, raw": raw_http,
    "HTTP, tritonclient": triton_http,
    "gRPC, raw": raw_grpc,
    "gRPC, tritonclient": triton_grpc,
    "FastAPI": plain_http,
    "LitServe": litserve_http,
}


# --- a load


@dataclass(frozen=True)
class Load:
    """Callers that make requests one after the other, all at the same time, for a while."""

    calls: tuple[Call, ...]
    seconds: float
    samples: int  # per request


@dataclass(frozen=True)
class Outcome:
    """Of one turn: latencies in milliseconds, and samples answered per second."""

    p50_ms: float
    p99_ms: float
    per_second: float


def prepare(client: str, task: Task, concurrency: int, seconds: float) -> tuple[Load, float]:
    """For a `gate.Worker`: the load, and the relative error of an answer."""
    # A session and a channel are for many threads; a connection is for one.
    shared = CLIENTS[client](task) if client == "bare session" else None
    calls = tuple(shared or CLIENTS[client](task) for _ in range(concurrency))
    error = compare(calls[0](), task.answer()).relative_l2
    return Load(calls, seconds, task.batch), error


def take_turn(load: Load) -> Outcome:
    """Warm up, then count."""
    _run(load.calls, min(WARM_S, load.seconds))
    start = time.perf_counter()
    latencies = _run(load.calls, load.seconds)
    elapsed = time.perf_counter() - start
    latencies.sort()
    p99 = latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))]
    return Outcome(1000 * statistics.median(latencies), 1000 * p99, len(latencies) * load.samples / elapsed)


def _run(calls: tuple[Call, ...], seconds: float) -> list[float]:
    end = time.perf_counter() + seconds
    taken: list[list[float]] = [[] for _ in calls]
    failures: list[BaseException] = []

    def repeat(call: Call, mine: list[float]) -> None:
        try:
            now = time.perf_counter()
            while now < end:
                call()
                later = time.perf_counter()
                mine.append(later - now)
                now = later
        except BaseException as error:
            failures.append(error)

    if len(calls) == 1:
        repeat(calls[0], taken[0])
    else:
        threads = [threading.Thread(target=repeat, args=pair) for pair in zip(calls, taken)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return [latency for mine in taken for latency in mine]
