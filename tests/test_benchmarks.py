"""The benchmark program: it measures what it is told to, and records where and with what."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "cpu.py"
RECIPE = """
[model]
factory = "torch.nn:Conv2d"
options = { in_channels = 3, out_channels = 2, kernel_size = 3 }
[dims]
batch = "1:2:4"
[inputs.input]
shape = ["batch", 3, 6, 6]
"""


@pytest.fixture
def program(monkeypatch):
    spec = importlib.util.spec_from_file_location("benchmarks_cpu", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cpu.py", *map(str, arguments)])
        module.main()

    return run


def test_measured_and_recorded(program, tmp_path, capsys):
    recipe = tmp_path / "conv"
    recipe.mkdir()
    (recipe / "recipe.toml").write_text(RECIPE)
    file = tmp_path / "results" / "one.json"
    program("--recipe", recipe, "--runtime", "onnxruntime", "--iterations", 2, "--output", file)
    assert "conv, fp32, batch=2: latency" in capsys.readouterr().out
    record = json.loads(file.read_text())
    assert set(record) == {"date", "command", "hardware", "versions", "results"}
    assert record["command"].startswith("python benchmarks/cpu.py --recipe ")
    assert record["hardware"]["cpu"]
    assert record["versions"]["onnxruntime"]
    (result,) = record["results"]
    assert (result["bundle"], result["iterations"]) == ("conv", 2)
    assert result["rows"][0]["median_ms"] > 0
