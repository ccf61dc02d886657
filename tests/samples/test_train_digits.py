"""The study: a table, a plot and all numbers, from one command."""

import json
import subprocess
import sys
from pathlib import Path

SAMPLE = Path(__file__).parents[2] / "samples" / "train_digits.py"


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
