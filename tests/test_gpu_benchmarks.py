"""The GPU benchmark without a GPU: the rule on a fake one, the engines on the CPU, tables, record and plot."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _import_path(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


class FakeEvent:
    """A moment of the fake clock."""

    def __init__(self, clock):
        self.clock = clock

    def record(self):
        self.at = self.clock.now

    def synchronize(self):
        assert self.at is not None

    def elapsed_time(self, end):
        return end.at - self.at


class FakeGpu:
    """As much of torch.cuda as the rule uses, on the CPU: every call takes some time, and more with a cold cache.

    Attributes:
        now: milliseconds that have passed.
        graph: what is captured at the moment; None outside of captures.
        capturable: whether captures work.
    """

    CACHE = 1 << 16

    def __init__(self):
        self.now, self.graph, self.capturable, self.cold = 0.0, None, True, False

    def work(self, function, ms=0.5):
        """A call that takes `ms`, and a third more when the cache is cold."""

        def once():
            self.now += ms * (4 / 3 if self.cold else 1)
            self.cold = False
            return function()

        def call():
            if self.graph is None:
                return once()
            if not self.capturable:
                raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
            result = function()

            def again():
                result.copy_(once())

            self.graph.calls.append(again)
            return result

        return call


@pytest.fixture
def gpu(monkeypatch):
    """A fake of torch.cuda."""
    import contextlib

    import torch

    fake = FakeGpu()

    class Graph:
        def __init__(self):
            self.calls = []

        def replay(self):
            for call in self.calls:
                call()

    @contextlib.contextmanager
    def capture(graph):
        fake.graph = graph
        try:
            yield
        finally:
            fake.graph = None

    class Flush:
        def sum(self):
            fake.cold = True

    zeros = torch.zeros

    def allocate(*size, **more):
        if more.get("device") != "cuda":
            return zeros(*size, **more)
        assert size[0] >= 4 * FakeGpu.CACHE
        return Flush()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "Event": lambda enable_timing: FakeEvent(fake),
        "CUDAGraph": Graph,
        "graph": capture,
        "Stream": lambda: stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": lambda: stream,
        "set_stream": lambda stream: None,
        "current_device": lambda: 0,
        "empty_cache": lambda: None,
        "get_device_properties": lambda index: SimpleNamespace(L2_cache_size=FakeGpu.CACHE),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "zeros", allocate)
    return fake


def test_a_turn_on_a_gpu_replays_flushes_and_launches(gpu):
    import gpu_gate
    import torch

    x = torch.ones(3)
    recorded = gpu_gate.Recorded(gpu.work(lambda: x + 1), lambda y: torch.equal(y, x + 1))
    assert (recorded.refusal, recorded.calls) == ("", 4)
    turn = gpu_gate.take_turn(recorded)
    assert turn.ms == pytest.approx({"replayed": 0.5, "cold": 2 / 3, "launched": 0.5})


def test_what_cannot_be_captured_is_launched(gpu):
    import gpu_gate
    import torch

    gpu.capturable = False
    recorded = gpu_gate.Recorded(gpu.work(lambda: torch.ones(3)), lambda y: True)
    assert recorded.refusal == (
        "cannot be captured into a CUDA graph: operation not permitted when stream is capturing"
    )
    assert gpu_gate.take_turn(recorded).ms == pytest.approx({"launched": 0.5})


def test_a_graph_that_computes_something_else_is_refused(gpu):
    import gpu_gate
    import torch

    recorded = gpu_gate.Recorded(gpu.work(lambda: torch.ones(3)), lambda y: False)
    assert recorded.refusal == "its CUDA graph computes something else"
    assert set(gpu_gate.take_turn(recorded).ms) == {"launched"}


def test_engines_on_a_gpu_take_turns_and_the_median_counts():
    from gate import Timing
    from gpu_gate import Turn, measure

    log = []

    def engine(name, *times):
        left = list(times)
        return lambda: (
            log.append(name),
            Turn({"launched": left.pop(0), **({"replayed": 1.0} if name == "a" else {})}),
        )[1]

    found = measure({"a": engine("a", 4.0, 1.0, 2.0), "b": engine("b", 9.0, 8.0, 5.0)}, rounds=3)
    assert found["launched"] == {"a": Timing(2.0, 1.0, 3, 0), "b": Timing(8.0, 5.0, 3, 0)}
    assert found["replayed"] == {"a": Timing(1.0, 1.0, 3, 0)}
    assert found["cold"] == {}
    assert "".join(log) == "abbaab"


H200 = SimpleNamespace(name="NVIDIA H200", major=9, minor=0, multi_processor_count=132)


def gpu_tables(*shapes):
    from gpu_kernels import comparisons
    from roofline import peaks

    return comparisons(shapes, peaks(H200))


def test_gpu_tables_name_engines_that_exist():
    from gpu_peers import ENGINES

    for table in gpu_tables():
        assert set(table.engines) <= set(ENGINES), table.title
        for title, bar in table.bars.items():
            assert {bar.ours, *bar.rivals} <= set(table.engines), title
            assert "ours" in bar.ours.replace(",", "").split(), title
            assert any(bar.where(item) for item in table.items), title
    assert [str(item) for item in gpu_tables((1, 8, 5, 6))[1].items] == ["1x8x5x6, 0.5 px", "1x8x5x6, 8 px"]


@pytest.fixture
def peers_on_cpu(gpu, monkeypatch, torchvision_op):
    """gpu_peers, whose engines work on the CPU: what they compute is the same there."""
    import compositions
    import gpu_peers
    import torch

    import dyndeploy
    from dyndeploy import native

    def composed(problem, *tensors):
        """torchvision's op in the tests has no gradients; the references have."""
        with native.disabled():
            return problem.public_function()(*tensors, **problem.public_keywords())

    def deform_conv2d(x, offset, weight, bias, stride, padding, mask):
        tensors = (tensor.float() for tensor in (x, weight, offset, mask, bias))
        return torch.ops.torchvision.deform_conv2d(*tensors, stride, stride, 1, 1, 1, 1, 1, 1, True).to(x.dtype)

    monkeypatch.setattr(compositions, "deform_conv", composed)
    monkeypatch.setitem(compositions.LEARNING, "dcnv2", composed)
    vision = SimpleNamespace(ops=SimpleNamespace(deform_conv2d=deform_conv2d))
    monkeypatch.setattr(gpu_peers, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_peers, "BULK", 64)
    monkeypatch.setattr(gpu_peers, "_import", lambda package: vision)
    monkeypatch.setattr(dyndeploy, "library_path", lambda name: name)
    monkeypatch.setattr(torch, "compile", lambda function, **more: function)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    yield gpu_peers
    gpu_peers._PROCESS.close()
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gpu_engines_compute_what_they_say(dtype, peers_on_cpu, monkeypatch):
    import gpu_gate
    from problems import Problem

    monkeypatch.setattr(
        peers_on_cpu, "Recorded", lambda call, agrees: SimpleNamespace(call=call, refusal="", agrees=agrees)
    )

    def times(factor, result):
        return tuple(factor * tensor for tensor in gpu_gate.several(result))

    tried, judged = set(), set()
    for table in gpu_tables():
        operator, scale = table.items[0].operator, table.items[0].scale
        problem = Problem(operator, (2, 8, 6, 7), dtype=dtype, scale=scale)
        # A training step is another one for each operator.
        for name in {n for n in table.engines if (n, operator if table.name == "step" else "") not in judged}:
            judged.add((name, operator if table.name == "step" else ""))
            recorded, answer = peers_on_cpu.prepare(name, problem)
            assert answer.error <= answer.limit, (table.name, name)
            assert recorded.agrees(recorded.call())
            assert not recorded.agrees(times(1.5, recorded.call()))
            tried.add(name)
    assert tried == set(peers_on_cpu.ENGINES)


def test_our_engines_need_the_library(peers_on_cpu, monkeypatch):
    from gate import LeftOutError
    from problems import Problem

    import dyndeploy

    def missing(name):
        raise dyndeploy.DynError(f"lib{name} is missing.", fix="pip install it")

    monkeypatch.setattr(dyndeploy, "library_path", missing)
    with pytest.raises(LeftOutError, match=r"libcuda is missing\. pip install it"):
        peers_on_cpu.prepare("ours, NCHW", Problem("ddf", (1, 8, 3, 3)))


class InThisProcess:
    """What gate.Worker does, without a process."""

    def __init__(self, prepare, take):
        self.prepare, self.take = prepare, take

    def give(self, *task):
        from gate import LeftOutError

        try:
            self.recorded, self.said = self.prepare(*task)
        except LeftOutError as reason:
            self.said = reason

    def answer(self):
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    def turn(self):
        return self.take(self.recorded)

    def close(self):
        pass


def test_gpu_kernels_measured_printed_recorded_and_drawn(gpu, peers_on_cpu, monkeypatch, tmp_path, capsys):
    import gpu_kernels
    from gate import LeftOutError
    from gpu_gate import Recorded
    from roofline import peaks

    def prepare(name, problem, prepare=peers_on_cpu.prepare):
        if name == "unfold":
            raise LeftOutError("not today")
        ms = {"ours, channels_last": 0.5, "ours, NCHW": 1.0}.get(name, 2.0)
        monkeypatch.setattr(peers_on_cpu, "Recorded", lambda call, agrees: Recorded(gpu.work(call, ms), agrees))
        gpu.capturable = not name.startswith("conv2d")
        return prepare(name, problem)

    monkeypatch.setattr(peers_on_cpu, "prepare", prepare)
    (table,) = (t for t in gpu_tables((1, 8, 6, 7), (2, 8, 5, 6)) if t.title == "ddf, float16")
    measured = gpu_kernels.rows(table, 2, lambda line: None, InThisProcess)
    gpu_kernels.print_rows(table, measured)
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "ddf, float16, replayed as a CUDA graph: us" in printed
    assert "1x8x6x7 500.0 1000 2000 - - 2000 2000 2000" in printed
    assert "ddf, float16, replayed with a cold L2 cache: us" in printed
    assert "1x8x6x7 666.7 1333 2667 - - 2667 2667 2667" in printed
    assert "ddf, float16, launched from Python: us" in printed
    assert "1x8x6x7 500.0 1000 2000 2000 - 2000 2000 2000" in printed
    assert "compiled, cl >= 1.5: met at 2 of 2, worst 4.00 at 1x8x6x7; geometric mean 4.00" in printed
    assert "of depthwise, cl <= 1.2: met at 2 of 2, worst 0.25 at 1x8x6x7; geometric mean 0.25" in printed
    assert "unfold, cl >= 20: not measured" in printed
    assert "bandwidth of copy, cl >= 0.7: not measured" in printed  # it is for large maps
    assert "left out: unfold: not today" in printed
    assert any(line.startswith("conv2d of torch, NCHW cannot be captured into a CUDA graph: ") for line in printed)

    limits = peaks(H200)
    file = tmp_path / "h200.json"
    gpu_kernels.save(file, [gpu_kernels.record_of(table, measured, limits)], {"name": "H200"}, 2)
    record = json.loads(file.read_text())
    assert record["gpu"] == {"name": "H200"}
    assert record["rule"]["rounds"] == 2
    row = record["results"][0]["rows"][1]
    assert row["problem"] == "2x8x5x6"
    assert row["engines"]["ours, channels_last"]["median_ms"] == pytest.approx(0.5)
    assert row["cold"]["ours, channels_last"]["median_ms"] == pytest.approx(2 / 3)
    assert set(row["launched"]) - set(row["engines"]) == {"conv2d of torch, NCHW", "conv2d of torch, channels_last"}
    assert row["errors"]["ours, NCHW"] < 5e-3
    assert row["roofline_us"] == pytest.approx(1e6 * measured[1].work["ours, NCHW"][1] / 4.8e12)
    assert file.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_a_wrong_engine_stops_the_run_on_a_gpu():
    import gpu_kernels
    from gpu_peers import Answer
    from problems import Problem

    workers = {"right": Answer(1e-4, 5e-3, ""), "wrong": Answer(1e-2, 5e-3, ""), "nan": Answer(float("nan"), 1, "")}
    workers = {name: SimpleNamespace(answer=lambda answer=answer: answer) for name, answer in workers.items()}
    problem = Problem("ddf", (1, 8, 5, 5))
    for name in ("wrong", "nan"):
        with pytest.raises(RuntimeError, match=rf"{name} at 1x8x5x5: relative error"):
            gpu_kernels.ready(problem, {n: workers[n] for n in ("right", name)})


def test_rooflines():
    """The limits of an H200, and the numbers that follow from them by hand."""
    from problems import Problem
    from roofline import least_us, peaks

    def least(operator, *shape, **more):
        return least_us(Problem(operator, shape, **more), peaks(H200))

    products = 2 * 9 * 128 * 128 * 16700
    assert least("dcnv2", 1, 128, 100, 167, dtype="float16") == pytest.approx(products / 790e6, rel=0.15)
    assert least("dcnv2", 1, 128, 100, 167) == pytest.approx(products / 67e6, rel=0.15)
    moved = 32 * 16700 * (128 + 128 + 9) * 2
    assert least("ddf", 32, 128, 100, 167, dtype="float16") == pytest.approx(moved / 4.8e6, rel=0.01)
    unknown = SimpleNamespace(name="NVIDIA Z1", major=9, minor=9, multi_processor_count=10)
    assert least_us(Problem("ddf", (1, 8, 4, 4)), peaks(unknown)) is None
    unknown.clock_rate, unknown.memory_clock_rate, unknown.memory_bus_width = 1_000_000, 1_000_000, 1024
    assert peaks(unknown).memory == 256e9
    assert peaks(unknown).single == 2560e9
    assert least_us(Problem("dcnv2", (1, 8, 4, 4), dtype="float16"), peaks(unknown)) is None
    assert least_us(Problem("dcnv2", (1, 8, 4, 4)), peaks(unknown)) > 0


def test_without_a_gpu_there_is_nothing_to_measure(monkeypatch, capsys):
    import gpu_kernels
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_kernels.py", "--operators", "ddf"])
    assert gpu_kernels.main() == 2
    assert capsys.readouterr() == ("", "torch sees no GPU here: there is nothing to measure.\n")


@pytest.mark.parametrize(("script", "count"), [("echo 12; echo 13", 2), ("true", 0), ("exit 9", None)])
def test_other_users_of_the_gpu_are_counted(tmp_path, monkeypatch, script, count):
    from gpu_kernels import other_processes

    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert other_processes() == count
