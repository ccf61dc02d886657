"""The benchmark programs: they measure what they are told to, by the rule, and record where and with what."""

import importlib
import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
RECIPE = """
[model]
factory = "torch.nn:Conv2d"
options = { in_channels = 3, out_channels = 2, kernel_size = 3 }
[dims]
batch = "1:2:4"
[inputs.input]
shape = ["batch", 3, 6, 6]
"""


@pytest.fixture(autouse=True)
def _import_path(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def run(monkeypatch):
    def run(program, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{program}.py", *map(str, arguments)])
        importlib.import_module(program).main()

    return run


def test_recipes_measured_and_recorded(run, tmp_path, capsys):
    recipe = tmp_path / "conv"
    recipe.mkdir()
    (recipe / "recipe.toml").write_text(RECIPE)
    file = tmp_path / "results" / "one.json"
    run("cpu", "--recipe", recipe, "--runtime", "onnxruntime", "--iterations", 2, "--output", file)
    assert "conv, fp32, batch=2: latency" in capsys.readouterr().out
    record = json.loads(file.read_text())
    assert set(record) == {"date", "command", "hardware", "versions", "results"}
    assert record["command"].startswith("python benchmarks/cpu.py --recipe ")
    assert record["hardware"]["cpu"]
    assert record["versions"]["onnxruntime"]
    (result,) = record["results"]
    assert (result["bundle"], result["iterations"]) == ("conv", 2)
    assert result["rows"][0]["median_ms"] > 0


def test_kernels_measured_and_recorded(run, tmp_path, capsys):
    file = tmp_path / "kernels.json"
    run("cpu_kernels", "--operators", "dgc", "--shape", "1x8x6x5", "--rounds", 1, "--patience", 0, "--save", file)
    printed = capsys.readouterr().out
    assert "dgc, 4 heads, a quarter of the channels kept: ms" in printed
    assert "1x8x6x5" in printed
    record = json.loads(file.read_text())
    assert set(record) == {"date", "command", "hardware", "versions", "rule", "results"}
    assert record["rule"]["rounds"] == 1
    (result,) = record["results"]
    (row,) = result["rows"]
    rivals = {"conv2d of torch, NCHW", "conv2d of torch, channels_last", "official masked form"}
    assert rivals <= set(row["engines"])
    assert all(engine["median_ms"] >= engine["min_ms"] > 0 for engine in row["engines"].values())
    assert row["engines"]["official masked form"]["turns"] == 1
    ours = {name for name in (*row["engines"], *row["left_out"]) if name.startswith("ours")}
    assert ours == {"ours in torch, NCHW", "ours in torch, channels_last"}


class FakeMachine:
    """Busy in turns of 5 ms and more."""

    def quiet_turn(self, engine, patience):
        turn = engine()
        return turn, turn.median_ms < 5


class FakeEngine:
    def __init__(self, name, log, *medians):
        self.name, self.log, self.medians = name, log, list(medians)

    def __call__(self):
        from gate import Turn

        self.log.append(self.name)
        median = self.medians.pop(0)
        return Turn(median, median / 2, 0.0)


def test_engines_of_recipes(run, tmp_path, capsys):
    """A network without dynamic ops, for which no plugin library has to be there."""
    pytest.importorskip("tensorrt_rtx")
    recipe = tmp_path / "conv"
    recipe.mkdir()
    (recipe / "recipe.toml").write_text(RECIPE)
    file = tmp_path / "one.json"
    run("engines", "--recipe", recipe, "--bundles", tmp_path / "bundles", "--output", file)
    assert re.search(r"\| conv \| 0 \| .+ in \d+\.\d s \| .* \| 2 hits of 2, ", capsys.readouterr().out)
    rows = json.loads(file.read_text())["results"]
    assert [row["way"] for row in rows] == ["plugins", "fp16"]
    assert all(row["hit"] and row["engine_bytes"] > 0 for row in rows)


def test_engines_take_turns_and_the_median_counts():
    from gate import Timing, measure

    log = []
    medians = {"a": (4.0, 1.0, 2.0), "b": (9.0, 1.0, 3.0), "c": (9.0, 8.0, 5.0)}
    engines = {name: FakeEngine(name, log, *values) for name, values in medians.items()}
    assert measure(engines, FakeMachine(), rounds=3) == {
        "a": Timing(median_ms=2.0, min_ms=0.5, turns=3, busy=0),
        "b": Timing(median_ms=2.0, min_ms=0.5, turns=3, busy=1),
        "c": Timing(median_ms=8.0, min_ms=2.5, turns=3, busy=3),
    }
    assert "".join(log) == "abcbcacab"


@pytest.fixture
def machine(monkeypatch):
    """A machine on which others use the CPUs when a test says so."""
    import gate

    monkeypatch.setattr(gate, "PAUSE_S", 0.01)
    machine = gate.Machine()
    machine.used = 0.0
    monkeypatch.setattr(machine, "used_s", lambda: machine.used)
    return machine


def test_a_disturbed_turn_is_repeated(machine):
    from gate import Turn

    turns = iter([(10.0, Turn(8.0, 8.0, 1.0)), (1.0, Turn(4.0, 4.0, 1.0))])  # used by all, and what the turn says of it

    def engine():
        used, turn = next(turns)
        machine.used += used
        return turn

    assert machine.quiet_turn(engine, patience=60) == (Turn(4.0, 4.0, 1.0), True)


def test_patience_ends_on_a_machine_that_is_never_idle(machine, monkeypatch):
    import gate

    monkeypatch.setattr(machine, "used_s", lambda: machine.cpus * gate.time.monotonic())
    turn = gate.Turn(1.0, 1.0, 0.0)
    assert machine.quiet_turn(lambda: turn, patience=0.05) == (turn, False)


def test_calls_to_warm_up_are_not_counted():
    from gate import WARM_S, take_turn

    delays = iter([2 * WARM_S])
    turn = take_turn(lambda: time.sleep(next(delays, 0.001)))
    assert 1 <= turn.min_ms <= turn.median_ms < 1000 * WARM_S


def comparison(**bars):
    from compare import Bar, Comparison
    from problems import Problem

    items = (Problem("ddf", (1, 8, 4, 4)), Problem("ddf", (2, 8, 4, 4), 2))
    columns = {"ours": ("ours",), "rivals": ("slow", "fast")}
    return Comparison("ddf", "ddf", items, columns, {title: Bar("ours", **bar) for title, bar in bars.items()})


def measured(items, *times):
    from compare import Row
    from gate import Timing

    return [
        Row(item, {name: Timing(ms, ms, 3, 0) for name, ms in row.items()}, {"none": "not installed: pip install none"})
        for item, row in zip(items, times)
    ]


def test_bars_are_judged_by_the_fastest_rival():
    from compare import verdicts

    table = comparison(
        faster={"rivals": ("slow", "fast", "none"), "factor": 1.5, "geometric_mean": 1.2},
        cheap={"rivals": ("fast",), "factor": 1.1, "at_most": True},
        strided={"rivals": ("fast",), "factor": 1.0, "where": lambda item: item.stride == 2},
        absent={"rivals": ("none",), "factor": 6},
    )
    rows = measured(table.items, {"ours": 1.0, "fast": 2.0, "slow": 3.0}, {"ours": 1.0, "fast": 0.8, "slow": 1.0})
    assert list(verdicts(table, rows)) == [
        "faster >= 1.5: missed at 1 of 2, worst 0.80 at 2x8x4x4 s2 (88 % off); geometric mean 1.26 (met: >= 1.2);"
        " without none",
        "cheap <= 1.1: missed at 1 of 2, worst 1.25 at 2x8x4x4 s2 (14 % off); geometric mean 0.79",
        "strided >= 1: missed at 1 of 1, worst 0.80 at 2x8x4x4 s2 (25 % off); geometric mean 0.80",
        "absent >= 6: not measured",
    ]


def test_table_shows_times_ratios_and_who_is_left_out(capsys):
    from compare import print_comparison
    from rich.console import Console

    table = comparison(faster={"rivals": ("slow", "fast"), "factor": 1.5})
    rows = measured(table.items, {"ours": 1.0, "fast": 2.0, "slow": 3.0}, {"ours": 1.0, "slow": 1.0})
    print_comparison(Console(highlight=False, markup=False), table, rows)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "1x8x4x4 1.000 2.000" in lines
    assert "1x8x4x4 2.00" in lines
    assert "2x8x4x4 s2 1.00!" in lines
    assert "rivals: the fastest of slow; fast" in lines
    assert "left out: none: not installed: pip install none" in lines


def test_an_engine_that_computes_something_else_stops_the_run():
    import cpu_kernels
    from problems import Problem

    problem = Problem("drconv", (1, 8, 5, 5))
    right = problem.answer("plain", problem.draw())
    engines = {
        name: SimpleNamespace(answer=lambda output=output: output)
        for name, output in {"conv2d of torch, NCHW": right, "conv2d of OpenVINO": 1.01 * right}.items()
    }
    with pytest.raises(RuntimeError, match="conv2d of OpenVINO at 1x8x5x5: relative error"):
        cpu_kernels._ready(problem, engines)


@pytest.mark.parametrize("operator", ["dcnv2", "ddf", "drconv", "dgc"])
def test_training_steps_compute_what_they_say(operator):
    """All that is timed gives the gradients of the references; torchvision's operator is not there to be tried."""
    import compositions
    import peers
    import torch
    from problems import Problem

    problem, threads = Problem(operator, (2, 8, 6, 7)), torch.get_num_threads()
    arrays = problem.draw()
    right = problem.answer("step", arrays)
    assert right.size == sum(array.size for array in arrays.values())
    steps = {name for name, (computes, _) in peers.ENGINES.items() if computes == "step"}
    assert set(compositions.LEARNING) >= {operator}
    for name in sorted(steps - ({"step of the composition"} if operator == "dcnv2" else set())):
        call, array = peers.ENGINES[name][1](problem, arrays, threads)
        assert ((array(call()) - right) ** 2).sum() ** 0.5 < 1e-5 * (right**2).sum() ** 0.5, name


def test_a_missing_peer_says_what_to_install():
    import peers

    with pytest.raises(peers.LeftOutError, match="pip install no_such_peer"):
        peers._import("no_such_peer")


def test_inputs_are_what_the_problem_says():
    from problems import Problem

    offsets = Problem("dcnv2", (1, 16, 32, 32), offsets_px=8).draw()["offset_mask"]
    assert offsets[:, :18].std() == pytest.approx(8, rel=0.05)
    assert offsets[:, 18:].std() == pytest.approx(1, rel=0.05)
    regions = Problem("drconv", (1, 8, 9, 13), coherent=True).draw()["guide"].argmax(1)[0]
    assert (regions[:4, :4] == regions[0, 0]).all()
    macs, moved = Problem("ddf", (1, 8, 5, 5), 2).work("plain")
    assert (macs, moved) == (8 * 9 * 9, 4 * (8 * 25 + 8 * 9 + 8 * 9))


def test_bandwidths_are_compared_by_bytes():
    from compare import Bar, Row
    from gate import Timing

    times = {"ours": Timing(2.0, 2.0, 3, 0), "copy": Timing(8.0, 8.0, 3, 0)}
    row = Row(None, times, {}, {"ours": (0, 150), "copy": (0, 1000)})
    assert Bar("ours", ("copy",), 0.7, bandwidth=True).ratio(row) == pytest.approx(0.6)


def test_what_was_only_launched_is_compared_with_launches():
    from compare import Bar, Row
    from gate import Timing

    def ms(**times):
        return {name: Timing(time, time, 3, 0) for name, time in times.items()}

    row = Row(None, ms(ours=1.0, fast=2.0), {}, otherwise=ms(ours=5.0, fast=10.0, slow=30.0))
    assert Bar("ours", ("fast",), 1).ratio(row) == 2
    assert Bar("ours", ("slow",), 1).ratio(row) == 6
    assert Bar("ours", ("slow", "fast"), 1).ratio(row) == 2
