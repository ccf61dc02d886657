"""Numbers, JSON and progress as people and programs see them."""

import io
import json
import math
import threading
from dataclasses import dataclass

import pytest
from rich.console import Console

from dyndeploy.cli import _render
from dyndeploy.errors import DynError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0.000"),
        (0.05512, "0.055"),
        (0.9994, "0.999"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (123.45, "123"),
        (36080.4, "36080"),
        (3.2e-8, "3.2e-08"),
        (2e9, "2e+09"),
    ],
)
def test_numbers(value, expected):
    assert _render.number(value) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (5_250_000, "5.2 MB"), (3_000_000_000_000, "3000.0 GB")],
)
def test_sizes(count, expected):
    assert _render.size(count) == expected


def test_json_has_no_nan(capsys):
    @dataclass
    class Result:
        values: tuple[float, ...]

    _render.print_json(Result((1.5, math.nan, math.inf)))
    assert json.loads(capsys.readouterr().out) == {"values": [1.5, None, None]}


def test_errors_go_to_stderr_in_whole_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    fix = "pip install " + "a-long-name " * 10
    _render.print_error(DynError("It [bold]broke[/bold].", why="of age", fix=fix))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"error: It [bold]broke[/bold].\n  why: of age\n  fix: {fix}\n"


def test_progress_without_a_terminal_is_a_line_each(capsys):
    with _render.progress("export") as tell:
        tell("tracing [the] model")
        tell("writing")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "export: tracing [the] model\nexport: writing\n"


@pytest.mark.parametrize("animate", [True, False])
def test_progress_on_a_terminal_leaves_nothing_behind(monkeypatch, animate):
    stream = io.StringIO()
    monkeypatch.setattr(_render, "err", lambda: Console(file=stream, force_terminal=True, width=80))
    threads = threading.active_count()
    with _render.progress("export", animate=animate) as tell:
        tell("tracing [the] model")
        assert threading.active_count() - threads == animate
    text = stream.getvalue()
    assert "export: tracing [the] model" in text
    assert text.endswith("\x1b[2K")  # the line is wiped
