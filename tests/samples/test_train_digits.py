"""The study: a table, a plot and all numbers, from one command."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = Path(__file__).parents[2] / "samples" / "train_digits.py"


def study(folder, *options):
    command = [sys.executable, SAMPLE, "--steps", "2", "--seeds", "1", "--jobs", "1", "--output", folder, *options]
    subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads((folder / "study.json").read_text())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_mixed_precision(tmp_path, dtype):
    record = study(tmp_path, "--layers", "DGConv2d", "--autocast", dtype)
    assert record["command"].endswith(f"--device cpu --autocast {dtype}")
    assert all(math.isfinite(loss) for loss in record["runs"][0]["losses"])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_on_a_gpu(tmp_path, dtype):
    record = study(tmp_path, "--device", "cuda", "--autocast", dtype, "--steps", "20")
    assert len(record["runs"]) == 6
    for run in record["runs"]:
        assert all(math.isfinite(loss) for loss in run["losses"])
        assert sum(run["losses"][-5:]) < sum(run["losses"][:5])


def test_table_plot_and_numbers(tmp_path):
    options = ["--steps", "2", "--seeds", "2", "--layers", "Conv2d", "DDF", "--output", tmp_path / "study"]
    done = subprocess.run([sys.executable, SAMPLE, *options], capture_output=True, text=True, check=True)
    page = (tmp_path / "study" / "study.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith(("| Conv2d", "| DDF"))]
    assert len(rows) == 2 and all(row in done.stdout for row in rows)
    record = json.loads((tmp_path / "study" / "study.json").read_text())
    assert {(r["layer"], r["seed"]) for r in record["runs"]} == {(n, s) for n in ("Conv2d", "DDF") for s in (0, 1)}
    for run in record["runs"]:
        assert len(run["losses"]) == 2
        assert 0 <= run["accuracy"] <= 1
        assert f"{100 * run['accuracy']:.1f}" in next(row for row in rows if row.startswith(f"| {run['layer']} "))
    assert (tmp_path / "study" / "study.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
