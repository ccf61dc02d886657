"""What a server adds to a session: latency of one caller and throughput of many, beside FastAPI, grpcio and LitServe.

    python benchmarks/serve.py
    python benchmarks/serve.py --model digits --rounds 5 --save

One session with the same threads stands behind every server, and runs bare as well. Every client is a process of its
own, on the same CPUs as the servers. Engines take turns, another one first each time, and servers that have none are
stopped; of a turn the median and the 99th percentile of all its requests count, of an engine the median of its turns.
Before anything is timed every answer is compared with the bundle's golden one. With --save the result is also written
to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record
from gate import Machine, Worker, in_turns
from serve_clients import AGREEMENT, PAUSED, Outcome, Task, prepare, take_turn

from dyndeploy.cli._render import heading, number, out, progress, table

CALLERS = 16
START_S = 120.0
#: How long a server stays awake after a request; callers ask again sooner.
SPIN_US = 2000
#: Goals: milliseconds added to the median, and the share of the bare session's throughput in batches.
ADDED_MS, SHARE = 0.5, 0.85


@dataclass(frozen=True)
class Engine:
    """One way to have samples answered: a client, the server it asks ("" for none), and samples per request."""

    client: str
    server: str = ""
    batch: int = 1
    callers: int = 1


LATENCY = {
    "bare session": Engine("bare session"),
    PAUSED: Engine(PAUSED),
    "ours, HTTP": Engine("HTTP, raw", "ours"),
    "ours, HTTP, tritonclient": Engine("HTTP, tritonclient", "ours"),
    "ours, gRPC": Engine("gRPC, raw", "ours"),
    "ours, gRPC, tritonclient": Engine("gRPC, tritonclient", "ours"),
    "ours, spinning, HTTP": Engine("HTTP, raw", "ours, spinning"),
    "ours, spinning, gRPC": Engine("gRPC, raw", "ours, spinning"),
    "FastAPI": Engine("FastAPI", "FastAPI"),
    "grpcio": Engine("grpcio", "grpcio"),
    "LitServe": Engine("LitServe", "LitServe"),
}
THROUGHPUT = {
    f"bare session, batches of {CALLERS}": Engine("bare session", batch=CALLERS),
    "bare session, one by one": Engine("bare session"),
    "ours, HTTP": Engine("HTTP, raw", "ours", callers=CALLERS),
    "ours, gRPC": Engine("gRPC, raw", "ours", callers=CALLERS),
    "ours, HTTP, no batching": Engine("HTTP, raw", "ours, no batching", callers=CALLERS),
    # FastAPI and grpcio run what comes on as many threads as there are CPUs, and more.
    "ours, HTTP, several sessions": Engine("HTTP, raw", "ours, several", callers=CALLERS),
    "ours, gRPC, several sessions": Engine("gRPC, raw", "ours, several", callers=CALLERS),
    "FastAPI": Engine("FastAPI", "FastAPI", callers=CALLERS),
    "grpcio": Engine("grpcio", "grpcio", callers=CALLERS),
    "LitServe": Engine("LitServe", "LitServe", callers=CALLERS),
}
BATCHES = next(iter(THROUGHPUT))


# --- servers


@dataclass(frozen=True)
class Address:
    """Where a server listens, and its processes' group."""

    url: str
    grpc: str = ""
    group: int = 0

    def pause(self) -> None:
        """Stop it between its turns: LitServe's workers look for requests all the time."""
        os.killpg(self.group, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.killpg(self.group, signal.SIGCONT)


@contextlib.contextmanager
def serving(name: str, bundle: Path, threads: int) -> Iterator[Address]:
    """A server of a bundle, in a process of its own.

    Raises:
        RuntimeError: it does not start.
    """
    port = _free_port()
    if name.startswith("ours"):
        command = [sys.executable, "-c", "from dyndeploy.cli import main; main()", "serve", str(bundle), "--json"]
        command += [
            "--threads",
            str(threads),
            "--port",
            str(port),
            "--grpc-port",
            "0",
            *(["--max-batch", "1"] if "no batching" in name else []),
            *(["--spin", str(SPIN_US)] if "spinning" in name else []),
            *(["--instances", str(os.cpu_count() or 1)] if "several" in name else []),
        ]
    else:
        program = Path(__file__).with_name(f"serve_{name.lower()}.py")
        command = [sys.executable, str(program), str(bundle), str(port), str(threads)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        try:
            grpc = ""
            if name.startswith("ours"):
                assert process.stdout is not None
                line = process.stdout.readline()
                grpc = json.loads(line)["grpc_url"] if line else ""
            end = time.monotonic() + START_S
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise RuntimeError(f"{name} does not start:\n{log.read()[-2000:]}")
                time.sleep(0.1)
            yield Address(f"http://127.0.0.1:{port}", grpc or f"127.0.0.1:{port}", process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):  # and the workers that it leaves behind
                os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def own_share_ms(url: str, model: str, before: dict[str, Any] | None = None) -> tuple[float, dict[str, Any]]:
    """Milliseconds per request that the server itself says it took beside the session's, since `before`."""
    with urllib.request.urlopen(f"{url}/v2/models/{model}/stats") as answer:
        stats: dict[str, Any] = json.load(answer)["model_stats"][0]["inference_stats"]
    since = {kind: stats[kind]["ns"] - (before[kind]["ns"] if before else 0) for kind in ("success", "compute_infer")}
    count = stats["success"]["count"] - (before["success"]["count"] if before else 0)
    return (since["success"] - since["compute_infer"]) / max(count, 1) / 1e6, stats


# --- models


def digits(folder: Path) -> Path:
    """The demo's network, not trained: a session answers it in a fraction of a millisecond."""
    import torch

    import dyndeploy
    from dyndeploy.demo.network import DigitsNet

    torch.manual_seed(0)
    image, dims = torch.rand(1, 1, 32, 32), {"batch": (1, 8, CALLERS)}
    network = DigitsNet().eval()
    return dyndeploy.export(network, image, folder, inputs={"image": ["batch", 1, 32, 32]}, dims=dims).path


def shufflenet(folder: Path) -> Path:
    """DRConv's ShuffleNetV2 0.5x, one image of 224x224: a session answers it in some milliseconds."""
    import torch

    import dyndeploy
    from dyndeploy.testing.networks import lively_model

    network, dims = lively_model("drconv_shufflenetv2_x0_5"), {"batch": (1, 8, CALLERS)}
    return dyndeploy.export(
        network, torch.rand(1, 3, 224, 224), folder, inputs={"x": ["batch", 3, 224, 224]}, dims=dims
    ).path


MODELS = {"digits": digits, "shufflenet": shufflenet}


# --- measuring


def measure(
    engines: dict[str, Engine], bundle: Path, addresses: dict[str, Address], threads: int, rounds: int, seconds: float
) -> dict[str, Outcome]:
    """Median of the turns of every engine.

    Raises:
        RuntimeError: a client fails, or its answer is not the golden one.
    """
    workers = {name: Worker(prepare, take_turn) for name in engines}
    try:
        for name, engine in engines.items():
            address = addresses.get(engine.server, Address(""))
            task = Task(str(bundle), address.url, address.grpc, engine.batch, threads)
            workers[name].give(engine.client, task, engine.callers, seconds)
        for name, worker in workers.items():
            error = worker.answer()
            if not error <= AGREEMENT:
                raise RuntimeError(f"{name}: relative error {error:.1e}; it computes something else.")
        turns: dict[str, list[Outcome]] = {name: [] for name in engines}
        for address in addresses.values():
            address.pause()
        for name in in_turns(list(engines), rounds):
            server = addresses.get(engines[name].server)
            if server:
                server.resume()
            turns[name].append(workers[name].turn())
            if server:
                server.pause()
    finally:
        for address in addresses.values():
            address.resume()
        for worker in workers.values():
            worker.close()
    fields = [field.name for field in dataclasses.fields(Outcome)]
    return {
        name: Outcome(*(statistics.median(getattr(turn, field) for turn in taken) for field in fields))
        for name, taken in turns.items()
    }


@contextlib.contextmanager
def awake(wanted: bool) -> Iterator[None]:
    """Keep every CPU from going to sleep, by a process that only gets what nobody else wants."""
    program = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
    count = (os.cpu_count() or 1) if wanted else 0
    spinning = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def idle_share() -> float:
    """How idle the CPUs are; to be asked when nothing of this is at work."""
    machine = Machine()
    before, start = machine.used_s(), time.monotonic()
    time.sleep(0.5)
    return 1 - (machine.used_s() - before) / (machine.cpus * (time.monotonic() - start))


def latency_rows(found: dict[str, Outcome]) -> list[tuple[str, ...]]:
    """Milliseconds, and what is added to the bare session."""
    bare = found["bare session"]
    return [
        (
            name,
            number(o.p50_ms, 3),
            number(o.p99_ms, 3),
            f"{o.p50_ms - bare.p50_ms:+.3f}",
            f"{o.p99_ms - bare.p99_ms:+.3f}",
        )
        for name, o in found.items()
    ]


def verdicts(latency: dict[str, Outcome], throughput: dict[str, Outcome]) -> list[str]:
    """What became of the goals."""
    batches = throughput[BATCHES].per_second
    lines = []
    for name in ("ours, spinning, HTTP", "ours, spinning, gRPC"):
        added = latency[name].p50_ms - latency["bare session"].p50_ms
        lines.append(f"{name}: adds {added:.3f} ms to the bare session (goal < {ADDED_MS}: {_word(added < ADDED_MS)})")
    for name in ("ours, HTTP", "ours, gRPC"):
        for bare in ("bare session", PAUSED):
            added = latency[name].p50_ms - latency[bare].p50_ms
            lines.append(f"{name}: adds {added:.3f} ms to the {bare} (goal < {ADDED_MS}: {_word(added < ADDED_MS)})")
        share = throughput[name].per_second / batches
        words = f"{100 * share:.0f} % of the batches (goal >= {100 * SHARE:.0f} %: {_word(share >= SHARE)})"
        lines.append(f"{name}: {words}")
        for peer in ("grpcio" if "gRPC" in name else "FastAPI", "LitServe"):
            faster = latency[peer].p50_ms / latency[name].p50_ms
            best = max(throughput[n].per_second for n in (name, f"{name}, several sessions"))
            more = best / throughput[peer].per_second
            ahead = _word(faster > 1 and more > 1)
            lines.append(f"{name}: {faster:.2f} times faster than {peer}, {more:.2f} times its throughput ({ahead})")
    return lines


def _word(met: bool) -> str:
    return "met" if met else "missed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=MODELS, help="these; without it all of them")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every engine")
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn")
    parser.add_argument("--threads", type=int, default=1, help="of the session behind every server")
    parser.add_argument("--awake", action="store_true", help="keep CPUs from going to sleep between requests")
    parser.add_argument("--save", nargs="?", const="", metavar="FILE", help="write JSON; to results/ by default")
    arguments = parser.parse_args()
    console, results = out(), []
    for model in arguments.model or MODELS:
        with contextlib.ExitStack() as stack, progress("serve", animate=False) as tell:
            tell(f"{model}: exporting")
            scratch = Path(tempfile.mkdtemp())
            stack.callback(shutil.rmtree, scratch)
            bundle = MODELS[model](scratch / model)
            idle = idle_share()
            names = dict.fromkeys(e.server for e in (*LATENCY.values(), *THROUGHPUT.values()) if e.server)
            addresses = {}
            for name in names:
                tell(f"{model}: starting {name}")
                addresses[name] = stack.enter_context(serving(name, bundle, arguments.threads))
            stack.enter_context(awake(arguments.awake))
            settings = (bundle, addresses, arguments.threads, arguments.rounds, arguments.seconds)
            tell(f"{model}: latency")
            _, before = own_share_ms(addresses["ours"].url, bundle.name)
            latency = measure(LATENCY, *settings)
            own, _ = own_share_ms(addresses["ours"].url, bundle.name, before)
            tell(f"{model}: throughput")
            throughput = measure(THROUGHPUT, *settings)
        idle = min(idle, idle_share())
        console.print(heading(f"{model}: one caller, ms"))
        console.print(table(("", "p50", "p99", "added p50", "added p99"), latency_rows(latency)))
        console.print(f"of a request the server itself counts {own:.3f} ms beside the session's run, on average")
        console.print(heading(f"{model}: {CALLERS} callers, samples a second"))
        batches = throughput[BATCHES].per_second
        rows = [
            (name, number(o.per_second, 4), f"{o.per_second / batches:.2f}", number(o.p50_ms, 3), number(o.p99_ms, 3))
            for name, o in throughput.items()
        ]
        console.print(table(("", "samples/s", "of batches", "p50 ms", "p99 ms"), rows))
        lines = verdicts(latency, throughput)
        for line in lines:
            console.print(line)
        if idle < 0.9:
            console.print("other processes used the CPUs: do not rely on these numbers", style="red")
        results.append(
            {
                "model": model,
                "latency": {name: dataclasses.asdict(o) for name, o in latency.items()},
                "own_share_ms": own,
                "throughput": {name: dataclasses.asdict(o) for name, o in throughput.items()},
                "goals": lines,
                "idle": idle,
            }
        )
    if arguments.save is not None:
        names_of = ("fastapi", "litserve", "uvicorn", "grpcio", "tritonclient")
        versions = {name: importlib.metadata.version(name) for name in names_of}
        rule = {"rounds": arguments.rounds, "seconds": arguments.seconds, "threads": arguments.threads}
        file = Path(arguments.save) if arguments.save else record.RESULTS / f"{record.slug()}-serving.json"
        record.save(file, results, versions, rule=rule | {"callers": CALLERS, "awake": arguments.awake})


if __name__ == "__main__":
    main()
