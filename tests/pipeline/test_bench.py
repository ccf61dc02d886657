"""Bench: every runtime is measured as often as asked, in turns, on the right inputs."""

import numpy as np
import pytest
import torch
from torch import nn

from dyndeploy.errors import DynError, MissingPackageError
from dyndeploy.pipeline import bench as module
from dyndeploy.pipeline.bench import bench
from dyndeploy.pipeline.export import export
from dyndeploy.runtimes import UnavailableError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bench") / "conv"
    return export(
        nn.Conv2d(3, 2, 3),
        torch.rand(2, 3, 6, 6),
        path,
        inputs={"x": ["batch", 3, 6, 6]},
        dims={"batch": (1, 2, 8)},
        ranges={"x": (0.0, 1.0)},
    )


class Recorder:
    """Opens sessions that note who ran on what, instead of running."""

    def __init__(self):
        self.turns, self.arrays, self.closed = [], [], []

    def open(self, _bundle, runtime):
        if runtime == "absent":
            raise MissingPackageError("absent", "The runtime 'absent'", "absent")
        if runtime == "no-gpu":
            raise UnavailableError("no-gpu finds no GPU.")
        if runtime == "defect":
            raise DynError("The file is broken.")
        recorder = self

        class Session:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                recorder.closed.append(runtime)

            def run(self, arrays):
                recorder.turns.append(runtime)
                recorder.arrays.append(arrays)
                return {}

        return Session()


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(module, "open_session", recorder.open)
    return recorder


def test_real_runtimes(bundle):
    result = bench(bundle.path, ["torch", "onnxruntime"], iterations=12, warmup=1)
    assert (result.bundle, result.precision, result.sizes) == ("conv", "fp32", {"batch": 2})
    assert result.shapes == {"x": (2, 3, 6, 6)}
    assert [row.runtime for row in result.rows] == ["torch", "onnxruntime"]
    for row in result.rows:
        assert 0 < row.min_ms <= row.median_ms <= row.p90_ms <= row.p99_ms
        assert row.throughput == pytest.approx(2000 / row.median_ms)
    first, second = result.rows
    assert first.speedup == 1
    assert second.speedup == pytest.approx(first.median_ms / second.median_ms)
    assert result.included
    assert result.cpus >= 1


def test_runtimes_take_turns(bundle, recorder):
    result = bench(bundle, ["a", "b", "c"], iterations=25, warmup=2)
    turns = recorder.turns
    assert turns[:6] == ["a", "a", "b", "b", "c", "c"]
    leaders = [t for t, before in zip(turns[6:], [None, *turns[6:]]) if t != before]
    # a b c | b c a | c a b | …: where a round ends with the runtime that the next begins with, the two turns touch
    assert leaders[:3] == ["a", "b", "c"]
    assert leaders[3:6] == ["b", "c", "a"]
    assert leaders[6:9] == ["c", "a", "b"]
    # 25 measured, 10 that open a turn, 2 that warm up
    assert [turns.count(name) for name in "abc"] == [37, 37, 37]
    assert result.iterations == 25
    assert recorder.closed == ["c", "b", "a"]


def test_fewer_iterations_than_rounds(bundle, recorder):
    bench(bundle, ["a"], iterations=3, warmup=0)
    assert recorder.turns == ["a"] * 6


def test_golden_inputs_where_the_sizes_are_theirs(bundle, recorder):
    for point in ("min", "opt", "max"):
        result = bench(bundle, ["a"], point, iterations=1, warmup=0)
        assert result.inputs == "goldens"
        np.testing.assert_array_equal(recorder.arrays[-1]["x"], bundle.goldens(point)[0]["x"])
    assert bench(bundle, ["a"], dims={"batch": 8}, iterations=1, warmup=0).inputs == "goldens"


def test_seeded_inputs_elsewhere(bundle, recorder):
    result = bench(bundle, ["a"], dims={"batch": 5}, iterations=1, warmup=0)
    assert (result.inputs, result.sizes, result.shapes) == ("seeded", {"batch": 5}, {"x": (5, 3, 6, 6)})
    x = recorder.arrays[-1]["x"]
    assert x.dtype == np.float32
    assert 0 <= x.min() < 0.1 < 0.9 < x.max() <= 1


def test_inputs_have_the_dtype_of_the_graph(bundle, recorder):
    half = bundle.manifest.inputs[0].model_copy(update={"dtype": "float16"})
    changed = type(bundle)(bundle.path, bundle.manifest.model_copy(update={"inputs": [half]}))
    for dims in ({"batch": 2}, {"batch": 3}):
        bench(changed, ["a"], dims=dims, iterations=1, warmup=0)
        assert recorder.arrays[-1]["x"].dtype == np.float16


def test_runtimes_that_are_not_there_are_left_out_and_said(bundle, recorder, monkeypatch):
    monkeypatch.setattr(module, "runtime_names", lambda: ["absent", "a", "no-gpu"])
    result = bench(bundle, iterations=1, warmup=0)
    assert [row.runtime for row in result.rows] == ["a"]
    assert list(result.skipped) == ["absent", "no-gpu"]
    assert "not installed" in result.skipped["absent"]
    assert result.skipped["no-gpu"] == "no-gpu finds no GPU."


@pytest.mark.parametrize("name", ["absent", "no-gpu"])
def test_runtimes_asked_for_have_to_be_there(bundle, recorder, name):
    with pytest.raises(DynError):
        bench(bundle, ["a", name], iterations=1)
    assert recorder.closed == ["a"]


def test_a_defect_is_not_skipped(bundle, recorder, monkeypatch):
    monkeypatch.setattr(module, "runtime_names", lambda: ["a", "defect"])
    with pytest.raises(DynError, match="The file is broken"):
        bench(bundle, iterations=1)


def test_no_runtime_at_all(bundle, recorder, monkeypatch):
    monkeypatch.setattr(module, "runtime_names", lambda: ["absent"])
    with pytest.raises(DynError, match="No runtime can run conv here"):
        bench(bundle, iterations=1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"dims": {"bach": 1}}, "no dim 'bach'"),
        ({"dims": {"batch": 9}}, "batch=9 is outside 1..8"),
        ({"iterations": 0}, "iterations=0"),
        ({"warmup": -1}, "warmup=-1"),
    ],
)
def test_refused(bundle, recorder, arguments, expected):
    with pytest.raises(DynError, match=expected):
        bench(bundle, ["a"], **arguments)
    assert recorder.turns == []


def test_progress_is_told(bundle, recorder):
    lines = []
    bench(bundle, ["a"], iterations=2, warmup=1, progress=lines.append)
    assert lines == ["open a", "warm up a", "round 1 of 2", "round 2 of 2"]
