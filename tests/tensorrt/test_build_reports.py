"""Engines as the command line shows them: `dyndeploy build`, and `dyndeploy inspect` of what was built."""

import json
import re
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

import dyndeploy
from dyndeploy.cli import app
from dyndeploy.cli.build import _lines, _live, _share, bytes_of
from dyndeploy.tensorrt.process import Phase


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def test_build(bundle, fake, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    options = ["--target", "tensorrt-rtx", "--gpus", "ada", "--dim", "batch=1:1:2", "--inline", "bend"]
    first = call("build", bundle.path, *options, "--workspace", "2GiB")
    assert re.search(r"cache\s+miss: there is none yet; built in", first.stdout)
    assert re.search(r"graph\s+from bodies: bend, GridSample body of ModulatedDeformConv2d", first.stdout)
    assert re.search(r"built by\s+fake_builder 11.4.0.106, for sm_89", first.stdout)
    assert re.search(r"plugins\s+library \w{12}, beside it", first.stdout)
    assert re.search(r"bend\s+ModulatedDeformConv2d\s+body\s+float32\s+2\n", first.stdout)
    assert re.search(r"filter\s+DecoupledDynamicFilter\s+plugin\s+float32\s+NHWC\s+1\n", first.stdout)
    assert "build: building the engine\nbuild: Optimizing graph\nbuild: Timing kernels\n" in first.stderr
    second = call("build", bundle.path, *options, "--workspace", "2GiB")
    assert re.search(r"cache\s+hit", second.stdout)
    third = json.loads(call("build", bundle.path, *options, "--json").stdout)
    assert third["reason"] == "workspace changed from 2147483648 to none"
    assert third["record"]["gpus"] == [{"compute_capability": "8.9", "name": None}]


def test_build_refuses(bundle, fake):
    wrong = call("build", bundle.path, "--target", "tensorrt-rtx", "--gpus", "hopper", code=2)
    assert "error: Engines cannot be built for hopper" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert "'many' is not a size" in call("build", bundle.path, "-t", "tensorrt", "--workspace", "many", code=2).stderr


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), ("2GiB", 2**31), ("1.5 MiB", 3 * 2**19), ("3GB", 3 * 10**9), ("1g", 2**30)]
)
def test_sizes(text, size):
    assert bytes_of(text) == size
    with pytest.raises(typer.BadParameter):
        bytes_of(f"-{text}")


def test_the_share_of_what_is_done():
    assert _share(()) == 0
    assert _share((Phase("outer", 1, 4),)) == 0.25
    assert _share((Phase("outer", 1, 4), Phase("inner", 1, 2))) == 0.375
    assert _share((Phase("outer", 4, 4), Phase("inner", 2, 2))) == 1


def test_lines_name_each_of_the_larger_phases_once():
    told = []
    monitor = _lines(told.append)
    for inner in ("a", "a", "b", "a"):
        monitor((Phase("outer", 0, 2), Phase(inner, 0, 1), Phase("detail", 0, 1)))
    assert told == ["a", "b"]


def test_a_terminal_has_a_bar(monkeypatch):
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr("dyndeploy.cli.build.err", lambda: console)
    with _live("build") as (tell, monitor):
        tell("parsing the graph")
        monitor((Phase("Building engine", 1, 2), Phase("Timing kernels", 0, 1)))
        monitor(())
    text = console.file.getvalue()
    assert "build: Timing kernels" in text
    assert "━" in text


def test_inspect_shows_engines(bundle, fake):
    assert dyndeploy.inspect(bundle).engines == ()
    built = dyndeploy.build(bundle, "tensorrt").record
    dyndeploy.build(bundle, "tensorrt-rtx", plugins=False)
    engine, rtx = dyndeploy.inspect(bundle).engines
    assert (engine.target, engine.record, engine.problem) == ("tensorrt", built, "")
    assert rtx.target == "tensorrt-rtx"
    text = call("inspect", bundle.path).stdout
    assert "Engine for tensorrt\n" in text
    assert re.search(r"built by\s+fake_builder 11.4.0.106, for GPU 1 \(sm_89\)", text)
    assert re.search(r"filter\s+DecoupledDynamicFilter\s+plugin\s+float32\s+NHWC\s+1\n", text)
    assert "problem" not in text
    assert len(json.loads(call("inspect", bundle.path, "--json").stdout)["engines"]) == 2


def test_inspect_shows_what_is_wrong_with_an_engine(bundle, fake, small):
    record = dyndeploy.build(bundle, "tensorrt").record
    again = f"dyndeploy build {bundle.path} --target tensorrt"
    exported = small.small_bundle(bundle.path, change=lambda model: setattr(model.graph, "doc_string", "newer"))
    (engine,) = dyndeploy.inspect(exported).engines
    assert engine.problem == f"built from another model.onnx: {again}"
    record.path(bundle).write_bytes(b"half")
    (engine,) = dyndeploy.inspect(exported).engines
    assert engine.problem == f"{record.file} is damaged: {again}"
    record.path(bundle).unlink()
    (engine,) = dyndeploy.inspect(exported).engines
    assert engine.record is None
    assert f"fix: {again}" in engine.problem
    assert "problem: " in call("inspect", bundle.path).stdout


def test_doctor_says_which_package_takes_the_plugins(monkeypatch, plugins):
    from dyndeploy.pipeline import environment

    monkeypatch.setattr(environment, "library_path", lambda _name: plugins)
    answers = iter([(0, "plugins taken by: tensorrt_rtx 1.7.1"), (0, "\n"), (1, "Traceback\nit does not take them")])
    monkeypatch.setattr(environment, "_run", lambda _command: next(answers))
    found = [environment._library("tensorrt") for _ in range(3)]
    assert [(f.loads, f.detail) for f in found] == [
        (True, "plugins taken by: tensorrt_rtx 1.7.1"),
        (None, ""),
        (False, "it does not take them"),
    ]
    assert found[0].path == str(plugins)


def test_the_engines_of_the_demo(bundle, fake, monkeypatch):
    import io

    from rich.console import Console

    from dyndeploy.cli.demo import _print_engines
    from dyndeploy.demo.engines import build_engines

    monkeypatch.setattr("dyndeploy.native.library_path", lambda _name: fake.library)
    told = []
    engines, missing = build_engines(bundle, told.append)
    assert (told, missing) == (["engine, bodies", "engine, plugins inside", "engine, plugins"], "")
    console = Console(file=io.StringIO(), width=80)
    _print_engines(console, SimpleNamespace(engines=engines, no_engines=missing))
    text = console.file.getvalue()
    assert "Engines of fake_builder 11.4.0.106, built without a GPU" in text
    assert re.search(r"bend\s+ModulatedDeformConv2d\s+2 layers\s+plugin\s+plugin", text)
    assert dyndeploy.build(bundle, "tensorrt-rtx").hit  # what the bundle has in the end


def test_the_demo_says_which_engines_are_left_out(bundle, fake, monkeypatch):
    import dataclasses

    from dyndeploy.demo.engines import build_engines
    from dyndeploy.errors import DynError
    from dyndeploy.tensorrt import vendor

    def missing(_name):
        raise DynError("libdyndeploy_trt.so is not part of this installation.")

    monkeypatch.setattr("dyndeploy.native.library_path", missing)
    engines, why = build_engines(bundle, lambda _line: None)
    assert list(engines) == ["bodies"]
    assert "is not part of this installation" in why
    absent = dataclasses.replace(vendor.TARGETS["tensorrt-rtx"], package="no_such_vendor")
    monkeypatch.setitem(vendor.TARGETS, "tensorrt-rtx", absent)
    engines, why = build_engines(bundle, lambda _line: None)
    assert engines == {}
    assert "'no_such_vendor', which is not installed" in why
