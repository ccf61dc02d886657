"""Fuzz a server, then load it for minutes with clients that are killed and bundles that are replaced.

    python tests/serving/soak.py --requests 10000 --minutes 10       (make soak)

1. Malformed requests over REST (whole HTTP requests, changed in their bytes and in their meaning) and gRPC: never an
   answer of 500 and above, never INTERNAL or UNKNOWN; afterwards a right request gets its right answer.
2. Clients of both protocols ask without a pause, one request after the other. Every answer must carry the request's id
   and be the numbers of the bundle as it was or as it is now. Meanwhile clients are killed in the middle of requests
   and replaced, and the bundle is written anew and loaded again, and now and then a broken one, which must be refused.
3. The server counts as many requests as the clients, but for those that were under way when their client was killed;
   its memory does not grow.

Prints a summary as JSON on standard output; exit code 1 where something was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

SCALES = (1.0, 2.0)
FEATURES, CLASSES = 6, 4  # of the bundle
SETTLED = 0.25  # of the time: what is allocated once is allocated then
#: Memory may grow by so much from the second quarter to the last.
GROWTH, GROWTH_MIB = 0.03, 4.0
WEIGHTS = np.random.default_rng(7).standard_normal((FEATURES, CLASSES))


def main() -> int:
    """Run it all, or, as a child, one client."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000, help="malformed ones")
    parser.add_argument("--minutes", type=float, default=10.0, help="of load")
    parser.add_argument("--clients", type=int, default=6, help="at a time")
    parser.add_argument("--rate", type=float, default=0, help="requests per second of a client; 0: as many as it can")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--client", nargs=3, metavar=("KIND", "ADDRESS", "NAME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        return client(*arguments.client, arguments.rate, arguments.seed)
    from conftest import write_linear  # beside this program

    with tempfile.TemporaryDirectory() as folder:
        bundle = write_linear(Path(folder) / "linear", SCALES[0])
        with Server(bundle) as server:
            problems: list[str] = []
            summary = {"fuzz": fuzz(server, arguments.requests, random.Random(arguments.seed), problems)}
            if arguments.minutes > 0:
                summary["soak"] = soak(server, bundle, arguments, problems)
            summary["problems"] = problems[:20]
    print(json.dumps(summary, indent=2))
    return 1 if problems else 0


class Server:
    """`dyndeploy serve` in a process of its own."""

    def __init__(self, bundle: Path) -> None:
        command = [sys.executable, "-c", "from dyndeploy.cli import main; main()", "serve", str(bundle), "--json"]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the process
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--grpc-port", "0", "--threads", "1"],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the server does not start:\n{self.log()}")
        ready = json.loads(line)
        self.grpc = ready["grpc_url"]
        self.host, _, port = ready["url"].removeprefix("http://").partition(":")
        self.port = int(port)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()[-4000:]

    def memory_mib(self) -> float:
        """Resident, without files of libraries."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
        raise AssertionError

    def ask(self, method: str, path: str, body: bytes = b"", headers: str = "") -> tuple[int, bytes]:
        """One request on a connection of its own."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        )
        status, answer = exchange(self, head.encode() + body, whole=True)
        assert status is not None
        return status, answer

    def counts(self) -> dict:
        """The model's statistics."""
        return json.loads(self.ask("GET", "/v2/models/linear/stats")[1])["model_stats"][0]


def exchange(server: Server, request: bytes, *, whole: bool = False) -> tuple[int | None, bytes]:
    """Status and body of the answer; None where the connection is closed without one.

    Args:
        server: the server.
        request: bytes, and the last ones unless it is a whole request.
        whole: nothing is missing: the client stays to hear the answer.
    """
    with socket.create_connection((server.host, server.port), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
            if not whole:
                connection.shutdown(socket.SHUT_WR)
        data = b""
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(1 << 16):
                data += piece
    if not data:
        return None, b""
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


# --- 1. malformed requests


def fuzz(server: Server, count: int, rng: random.Random, problems: list[str]) -> dict:
    """Send them; what is in the summary."""
    start, before = time.monotonic(), None
    rest, rpc = Counter(), Counter()
    stub = raw_infer(server.grpc)
    for index in range(count):
        if index == count // 4:
            before = server.memory_mib()
        if index % 5 == 4:
            code = send_rpc(stub, malformed_message(rng))
            rpc[code] += 1
            if code in ("INTERNAL", "UNKNOWN", "UNAVAILABLE"):
                problems.append(f"malformed message {index}: {code}")
            continue
        request = malformed_request(rng)
        try:
            status, _ = exchange(server, request)
        except TimeoutError:
            problems.append(f"malformed request {index}: no answer: {request[:300]!r}")
            continue
        rest["closed" if status is None else str(status)] += 1
        if status is not None and status >= 500:
            problems.append(f"malformed request {index}: {status}: {request[:300]!r}")
        if server.process.poll() is not None:
            problems.append(f"the server ended after request {index}: {request[:300]!r}\n{server.log()}")
            return {}
    x = np.ones((1, 2, FEATURES), np.float32)
    status, body = exchange(server, binary_request(x, "after"), whole=True)
    if status != 200 or not agrees(y_of(body), x, SCALES[:1]):
        problems.append(f"a right request after all of them: {status} {body[:200]!r}")
    after = server.memory_mib()
    if before is not None and after > before * (1 + GROWTH) + GROWTH_MIB:
        problems.append(f"memory grew from {before:.1f} MiB to {after:.1f} MiB while fuzzed")
    return {
        "requests": count,
        "seconds": round(time.monotonic() - start, 1),
        "http": dict(sorted(rest.items())),
        "grpc": dict(sorted(rpc.items())),
        "memory_mib": [round(before or after, 1), round(after, 1)],
    }


def json_body(rng: random.Random) -> dict:
    """A right request in JSON."""
    n, length = rng.randint(1, 3), rng.randint(1, 5)
    data = [round(rng.uniform(-9, 9), 3) for _ in range(n * length * FEATURES)]
    return {"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [n, length, FEATURES], "data": data}]}


def binary_request(x: np.ndarray, identity: str, *, close: bool = True) -> bytes:
    """A right request with raw data."""
    tensor = {"name": "x", "datatype": "FP32", "shape": x.shape, "parameters": {"binary_data_size": x.nbytes}}
    head = json.dumps({"id": identity, "inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    lines = [
        "POST /v2/models/linear/infer HTTP/1.1",
        "Host: x",
        f"Connection: {'close' if close else 'keep-alive'}",
        "Content-Type: application/octet-stream",
        f"X-Request-Id: {identity}",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(head) + x.nbytes}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + head + x.tobytes()


#: What stands in the place of something else.
ODD = [None, True, -1, 0, 1e308, 2**63, -(2**63), 2**70, "", "x" * 5000, "\x00", "FP64", [], {}, [[]], {"a": [1]}, 3.5]


def bend(value: object, rng: random.Random) -> object:
    """The same JSON with one place changed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        what = rng.random()
        if what < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if what < 0.25:
            return {**value, rng.choice(["outputs", "parameters", "inputs", "é", ""]): rng.choice(ODD)}
        return {**value, key: bend(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        index = rng.randrange(len(value))
        what = rng.random()
        if what < 0.15:
            return value[:index] + value[index + 1 :]
        if what < 0.3:
            return value + value[: rng.choice([1, 1, 50])]
        return [*value[:index], bend(value[index], rng), *value[index + 1 :]]
    return rng.choice(ODD)


def malformed_request(rng: random.Random) -> bytes:
    """A whole HTTP request with something wrong."""
    kind = rng.choice(["json", "json", "bytes", "bytes", "head", "noise", "deep", "address", "chunks"])
    if kind == "json":
        body = json.dumps(bend(json_body(rng), rng)).encode()
        return post("/v2/models/linear/infer", body)
    if kind == "deep":
        depth = rng.randint(50, 20_000)
        return post("/v2/models/linear/infer", b'{"inputs":' + b"[" * depth + b"]" * rng.choice([0, depth]))
    if kind == "address":
        path = "/" + "/".join(rng.choice(ADDRESSES) for _ in range(rng.randint(1, 6)))
        method = rng.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"])
        return post(path, b"", method)
    if kind == "noise":
        return rng.randbytes(rng.randint(1, 300))
    x = np.ones((rng.randint(1, 3), rng.randint(1, 5), FEATURES), np.float32)
    right = binary_request(x, "1")
    if kind == "head":
        name = rng.choice(
            [b"Content-Length", b"Inference-Header-Content-Length", b"Content-Type", b"Host", b"Connection"]
        )
        value = rng.choice(
            [b"-1", b"", b"99999999999999999999", b"1e3", b"0x10", b"4294967296", b"\xff", b"7, 7", b"a/b"]
        )
        lines = [line for line in right.split(b"\r\n")[:7] if rng.random() < 0.8 or not line.startswith(name)]
        lines.insert(rng.randint(1, len(lines)), name + b": " + value)
        return b"\r\n".join([*lines, b"", b""]) + right.partition(b"\r\n\r\n")[2]
    if kind == "chunks":
        body = right.partition(b"\r\n\r\n")[2]
        size = rng.choice(
            [b"%x" % len(body), b"%x" % (len(body) + rng.randint(-9, 9)), b"zz", b"fffffffffffffffff", b"-5"]
        )
        lines = [
            b"POST /v2/models/linear/infer HTTP/1.1",
            b"Host: x",
            b"Connection: close",
            b"Transfer-Encoding: chunked",
        ]
        return b"\r\n".join([*lines, b"", b""]) + size + b"\r\n" + body + rng.choice([b"\r\n0\r\n\r\n", b"", b"\r\n"])
    damaged = bytearray(right)
    for _ in range(rng.choice([1, 1, 2, 8, 40])):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged[: rng.choice([len(damaged), len(damaged), rng.randrange(len(damaged))])])


ADDRESSES = [
    "v2", "models", "linear", "infer", "versions", "1", "..", "%2e%2e", "%00", "etc", "passwd", "health", "ready",
    "stats", "repository", "index", "config", "metrics", "page", "page.js", "x" * 3000, "é", "?a=b", "*", "trace",
]  # fmt: skip


def post(path: str, body: bytes, method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n".encode() + body


def message(x: np.ndarray, identity: str):
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="linear", id=identity)
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    request.raw_input_contents.append(x.tobytes())
    return request


def malformed_message(rng: random.Random) -> bytes:
    """A message with something wrong, in its meaning or in its bytes."""
    request = message(np.ones((1, 2, FEATURES), np.float32), "1")
    if rng.random() < 0.5:
        tensor = request.inputs[0]
        change = rng.randrange(8)
        if change == 0:
            tensor.shape[:] = [rng.choice([-1, 0, 2**62, 3]) for _ in range(rng.randint(0, 6))]
        elif change == 1:
            tensor.datatype = rng.choice(["", "FP64", "BYTES", "nonsense", "INT8"])
        elif change == 2:
            request.raw_input_contents[0] = rng.randbytes(rng.randint(0, 200))
        elif change == 3:
            del request.raw_input_contents[:]
            tensor.contents.fp32_contents.extend([1.0] * rng.randint(0, 40))
        elif change == 4:
            request.raw_input_contents.extend([b""] * rng.randint(1, 100))
        elif change == 5:
            tensor.name = rng.choice(["", "y", "x" * 5000])
        elif change == 6:
            request.model_name = rng.choice(["", "../linear", "x" * 5000])
        else:
            request.inputs.extend([tensor] * rng.randint(1, 50))
        return request.SerializeToString()
    data = bytearray(request.SerializeToString())
    for _ in range(rng.choice([1, 3, 20])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])


def raw_infer(address: str):
    import grpc

    channel = grpc.insecure_channel(address)
    return channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None)


def send_rpc(stub, data: bytes) -> str:
    import grpc

    try:
        stub(data, timeout=20)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


# --- 2. load


def agrees(y: np.ndarray, x: np.ndarray, scales: tuple[float, ...]) -> bool:
    """Whether y is what a bundle of one of these scales computes; all of it by the same one."""
    return any(np.allclose(y, scale * (x.astype(np.float64) @ WEIGHTS), rtol=1e-4, atol=1e-4) for scale in scales)


def y_of(body: bytes) -> np.ndarray:
    """The tensor in an answer with raw data."""
    head = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    output = head[0]["outputs"][0]
    size = output["parameters"]["binary_data_size"]
    return np.frombuffer(body[len(body) - size :], np.float32).reshape(output["shape"])


def client(kind: str, address: str, name: str, rate: float, seed: int) -> int:
    """Ask until killed, or until standard input is closed; a line on standard output for every answer."""
    rng = np.random.default_rng([seed, *name.encode()])
    ask = http_caller(address) if kind == "http" else grpc_caller(address)
    os.set_blocking(sys.stdin.fileno(), False)
    number = 0
    while sys.stdin.buffer.read(1) != b"":
        started = time.monotonic()
        x = rng.standard_normal((rng.integers(1, 4), rng.integers(1, 6), FEATURES)).astype(np.float32)
        identity = f"{name}-{number}"
        number += 1
        print(f"sent {identity}", flush=True)
        returned, y = ask(x, identity)
        right = returned == identity and agrees(y, x, SCALES)
        print(f"{'right' if right else 'WRONG'} {identity}", flush=True)
        if rate:
            time.sleep(max(0.0, 1 / rate - (time.monotonic() - started)))
    return 0


def http_caller(address: str):
    host, _, port = address.partition(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    stream = connection.makefile("rb")

    def ask(x, identity):
        connection.sendall(binary_request(x, identity, close=False))
        status = stream.readline()
        headers = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers[b"content-length"]))
        if b" 200 " not in status:
            raise SystemExit(f"{status!r} {body[:300]!r}")
        return headers[b"x-request-id"].decode(), y_of(body)

    return ask


def grpc_caller(address: str):
    from tritonclient.grpc import service_pb2

    stub = raw_infer(address)

    def ask(x, identity):
        answer = service_pb2.ModelInferResponse.FromString(stub(message(x, identity).SerializeToString(), timeout=30))
        return answer.id, np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)

    return ask


class Client:
    """A client process and what it has said."""

    def __init__(self, kind: str, server: Server, name: str, arguments: argparse.Namespace) -> None:
        address = f"{server.host}:{server.port}" if kind == "http" else server.grpc
        self.kind, self.name = kind, name
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the process
        command = [sys.executable, __file__, "--client", kind, address, name, "--seed", str(arguments.seed)]
        self.process = subprocess.Popen(
            [*command, "--rate", str(arguments.rate)],
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=subprocess.STDOUT,
        )

    def said(self) -> Counter:
        """How many lines of a kind, and everything that is none, as "other"."""
        self._said.seek(0)
        lines = self._said.read().splitlines()
        kinds = Counter(line.split(" ", 1)[0] for line in lines)
        other = [line for line in lines if line.split(" ", 1)[0] not in ("sent", "right")]
        self.other = other[-3:]
        return kinds


def soak(server: Server, bundle: Path, arguments: argparse.Namespace, problems: list[str]) -> dict:
    """Load it; what is in the summary."""
    from conftest import write_linear

    rng = random.Random(arguments.seed)
    before = server.counts()["inference_stats"]
    reloads, refusals, kills, made = 0, 0, 0, 0
    memory: list[float] = []
    killed: list[Client] = []

    def new_client() -> Client:
        nonlocal made
        made += 1
        return Client("http" if made % 2 else "grpc", server, f"c{made}", arguments)

    clients = [new_client() for _ in range(arguments.clients)]
    begin, length = time.monotonic(), 60 * arguments.minutes
    next_kill, next_reload = begin + 2, begin + 3
    while (now := time.monotonic()) < begin + length:
        time.sleep(0.2)
        memory.append(server.memory_mib())
        if server.process.poll() is not None:
            problems.append(f"the server ended:\n{server.log()}")
            return {}
        for gone in [c for c in clients if c.process.poll() is not None]:
            gone.said()
            problems.append(f"{gone.name} ended with {gone.process.returncode}: {gone.other}")
            clients[clients.index(gone)] = new_client()
        if now >= next_kill:
            next_kill = now + rng.uniform(0.5, 2.5)
            victim = rng.choice(clients)
            victim.process.send_signal(signal.SIGKILL)
            victim.process.wait()
            killed.append(victim)
            kills += 1
            clients[clients.index(victim)] = new_client()
        if now >= next_reload:
            next_reload = now + rng.uniform(1, 4)
            broken = rng.random() < 0.25
            write_linear(bundle, SCALES[(reloads + 1) % 2])
            if broken:
                (bundle / "model.onnx").write_bytes(b"broken")
            status, answer = server.ask("POST", "/v2/repository/models/linear/load")
            if (status == 200) == broken or status >= 500:
                problems.append(f"load of a {'broken' if broken else 'good'} bundle: {status} {answer[:300]!r}")
            refusals += broken
            reloads += not broken
    for each in clients:
        each.process.stdin.close()
    for each in clients:
        if each.process.wait(60) != 0:
            each.said()
            problems.append(f"{each.name} ended with {each.process.returncode}: {each.other}")
    answered, under_way = 0, 0
    for each in (*clients, *killed):
        said = each.said()
        answered += said["right"]
        if said["WRONG"]:
            problems.append(f"{each.name}: {said['WRONG']} wrong answers")
        under_way += said["sent"] - said["right"] - said["WRONG"]
        if each in clients and said["sent"] != said["right"] + said["WRONG"]:
            problems.append(f"{each.name}: {said['sent']} requests, {said['right'] + said['WRONG']} answers")
    stats = server.counts()
    served, failed = (stats["inference_stats"][kind]["count"] - before[kind]["count"] for kind in ("success", "fail"))
    # A client that is killed may have had its answer and not yet said so.
    if not answered <= served <= answered + under_way:
        problems.append(f"the server counts {served} requests, the clients {answered} and {under_way} under way")
    settled = memory[int(len(memory) * SETTLED) : int(len(memory) * 2 * SETTLED)]
    early, late = statistics.median(settled), statistics.median(memory[int(len(memory) * (1 - SETTLED)) :])
    if late > early * (1 + GROWTH) + GROWTH_MIB:
        problems.append(f"memory grew from {early:.1f} MiB to {late:.1f} MiB")
    return {
        "minutes": arguments.minutes,
        "answered": answered,
        "per_second": round(answered / length, 1),
        "under_way_when_killed": under_way,
        "served": served,
        "failed": failed,
        "kills": kills,
        "reloads": reloads,
        "broken_bundles_refused": refusals,
        "memory_mib": [round(early, 1), round(late, 1)],
    }


if __name__ == "__main__":
    sys.exit(main())
