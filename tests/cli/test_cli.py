"""The command line: quick help, pure JSON, errors without tracebacks, exit codes, 80 columns."""

import json
import shutil
import subprocess
import sys
from typing import get_args

import onnx
import pytest
from typer.testing import CliRunner

import dyndeploy
from dyndeploy import bundle as bundle_module
from dyndeploy.cli import _options, app, build
from dyndeploy.pipeline.export import BODIES
from dyndeploy.tensorrt.vendor import TARGETS
from dyndeploy.tensors import POINTS

VERBS = ("doctor", "inspect", "export", "build", "check", "bench", "demo", "models", "serve")
RECIPE = """
[model]
factory = "model:Net"
[dims]
batch = "1:2:4"
[inputs.image]
shape = ["batch", 3, 6, 8]
range = [0.0, 1.0]
[outputs]
names = ["features"]
"""
MODEL = """
from torch import nn
from dyndeploy.nn import ModulatedDeformConv2d

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(ModulatedDeformConv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
"""


@pytest.fixture(autouse=True)
def _width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes") / "small"
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "model.py").write_text(MODEL)
    return folder


@pytest.fixture(scope="module")
def exported(recipe, tmp_path_factory):
    """(bundle folder, the result of the call)."""
    folder = tmp_path_factory.mktemp("bundles") / "small"
    return folder, call("export", recipe, "--output", folder, "--dim", "batch=1:3:8", "--json")


@pytest.fixture
def bundle(exported, tmp_path):
    """A copy: check writes into it."""
    return shutil.copytree(exported[0], tmp_path / "small")


def assert_narrow(text, folder=None):
    """No line is wider than a terminal; a path in it (that of `folder`) is as long as its user made it."""
    if folder is not None:
        text = text.replace(f"{folder}/", "")
    assert [line for line in text.splitlines() if len(line.rstrip()) > 80] == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_imports_nothing_heavy(arguments):
    program = (
        "import json, sys\n"
        f"sys.argv = ['dyndeploy', *{arguments!r}]\n"
        "from dyndeploy.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *printed, modules = done.stdout.splitlines()
    assert printed
    heavy = {"torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "numpy", "safetensors"}
    assert heavy & set(json.loads(modules)) == set()


def test_help_lists_the_verbs():
    lines = call("--help").stdout
    for verb in VERBS:
        assert verb in lines
    assert_narrow(lines)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_is_complete_and_narrow(verb):
    text = call(verb, "-h").stdout
    assert "--json" in text
    assert_narrow(text)


def test_version():
    assert call("--version").stdout == f"dyndeploy {dyndeploy.__version__}\n"


def test_choices_are_those_of_the_pipeline():
    assert get_args(_options.Precision) == bundle_module.PRECISIONS
    assert get_args(_options.Body) == BODIES
    assert get_args(_options.Point) == POINTS
    assert get_args(build.Target) == tuple(TARGETS)


def test_errors_say_what_why_and_fix_without_a_traceback(recipe, tmp_path):
    result = call("inspect", tmp_path / "nothing", code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "it is not a bundle" in result.stderr
    assert "\n  fix: dyndeploy export RECIPE writes one.\n" in result.stderr
    assert "Traceback" not in result.stderr

    result = call("export", recipe, "--dim", "batch=3:2:1", code=2)
    assert "\n  why: min <= opt <= max does not hold" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["export"], "Missing argument"),
        (["export", "x", "--dim", "batch"], "is not NAME=SIZES"),
        (["export", "x", "--precision", "fp8"], "fp8"),
        (["bench", "x", "--dim", "batch=1:2:3"], "is not one size"),
        (["bench", "x", "--iterations", "0"], "--iterations"),
        (["bench", "x", "--point", "middle"], "middle"),
        (["check", "x", "--runtim", "torch"], "--runtim"),
        (["deploy"], "deploy"),
    ],
)
def test_usage_errors(arguments, expected):
    result = call(*arguments, code=2)
    assert result.stdout == ""
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


def test_export_as_json(exported):
    folder, result = exported
    content = json.loads(result.stdout)
    assert content["path"] == str(folder)
    assert content["manifest"]["dims"]["batch"] == {"min": 1, "opt": 3, "max": 8, "multiple": 1}
    assert content["manifest"]["ops"][0]["type"] == "ModulatedDeformConv2d"
    assert "export: building the model\n" in result.stderr


def test_export_takes_every_option(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--precision", "fp16", "--io-precision", "fp16", "--body", "gridsample"]
    result = call("export", recipe, *options)
    assert result.stdout.startswith("bundles/small\n")
    assert "next: dyndeploy check bundles/small" in result.stdout
    manifest = dyndeploy.Bundle.open("bundles/small").manifest
    assert (manifest.precision, manifest.io_precision, manifest.body) == ("fp16", "fp16", "gridsample")


def test_inspect(bundle):
    text = call("inspect", bundle).stdout
    assert_narrow(text)
    for part in ("image: float32 [batch, 3, 6, 8], 0 to 1", "ModulatedDeformConv2d", "strides=[1,1]", "function body"):
        assert part in text
    content = json.loads(call("inspect", bundle, "--json").stdout)
    assert content["nodes"][0]["inputs"]["X"] == ["batch", 3, 6, 8]
    assert content["dims"]["batch"]["max"] == 8


def test_inspect_marks_what_was_changed(bundle):
    assert "CHANGED" not in call("inspect", bundle).stdout
    (bundle / "model.pt2").write_bytes(b"other")
    assert "CHANGED" in call("inspect", bundle).stdout


def test_check_passes(bundle):
    result = call("check", bundle)
    assert_narrow(result.stdout, bundle.parent)
    assert "onnxruntime, float32: within noise" in result.stdout
    assert "opt: batch=3" in result.stdout
    assert result.stdout.splitlines()[-1] in ("verdict: identical", "verdict: within noise")


def test_check_fails_and_names_the_node(bundle):
    pytest.importorskip("onnxruntime", minversion="1.25")  # for DeformConv
    model = onnx.load(bundle / "model.onnx")
    (node,) = (n for n in model.graph.node if n.op_type == "ModulatedDeformConv2d")
    (weight,) = (t for t in model.graph.initializer if t.name == node.input[2])
    changed = onnx.numpy_helper.to_array(weight).copy()
    changed[0, 0, 1, 1] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save(model, bundle / "model.onnx")

    result = call("check", bundle, "--runtime", "onnxruntime", code=1)
    assert "onnxruntime, float32: broken" in result.stdout
    assert f"guilty: {node.name} (ModulatedDeformConv2d)" in result.stdout
    assert "changed since the export: model.onnx" in result.stdout
    assert result.stdout.splitlines()[-1] == "verdict: broken"

    content = json.loads(call("check", bundle, "-r", "onnxruntime", "--json", code=1).stdout)
    assert content["ok"] is False
    assert content["runtimes"][0]["guilty"]["node"] == node.name


def test_check_as_json(bundle):
    content = json.loads(call("check", bundle, "--runtime", "torch", "--json").stdout)
    assert [r["runtime"] for r in content["runtimes"]] == ["torch"]
    assert content["ok"] is True


def test_unknown_runtime(bundle):
    for verb in ("check", "bench"):
        assert "There is no runtime" in call(verb, bundle, "--runtime", "abacus", code=2).stderr


def test_bench(bundle):
    options = ["--runtime", "onnxruntime", "-r", "torch", "--iterations", "4", "--warmup", "1"]
    text = call("bench", bundle, *options, "--dim", "batch=5").stdout
    assert_narrow(text)
    assert "small, fp32, batch=5" in text
    assert "validation of names, dtypes and shapes" in text
    assert "seeded inputs" in text
    content = json.loads(call("bench", bundle, *options, "--point", "max", "--json").stdout)
    assert content["sizes"] == {"batch": 8}
    assert [row["runtime"] for row in content["rows"]] == ["onnxruntime", "torch"]
    assert content["inputs"] == "goldens"


def test_doctor(monkeypatch):
    from dyndeploy.pipeline import environment

    few = {name: environment._PACKAGES[name] for name in ("onnx", "onnxruntime-gpu", "tensorrt_rtx")}
    monkeypatch.setattr(environment, "_PACKAGES", few)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code in (0, 1)
    for part in ("System", "Packages", "tensorrt_rtx", "Libraries of dyndeploy", "instructions"):
        assert part in result.stdout
    text, _, _ = result.stdout.partition("Problems")  # a fix may be long: it is to be copied in one piece
    assert_narrow(text)


@pytest.mark.parametrize(("breaks", "code"), [(True, 1), (False, 0)])
def test_doctor_exits_with_its_verdict(monkeypatch, breaks, code):
    from dyndeploy.pipeline import doctor as module

    problem = module.Problem("It hurts.", "pip install plaster", breaks)
    diagnosis = module.Diagnosis(not breaks, {"python": "3"}, {}, (), {}, (), (problem,))
    monkeypatch.setattr(module, "doctor", lambda _tell: diagnosis)
    text = call("doctor", code=code).stdout
    assert "It hurts." in text
    assert "fix: pip install plaster" in text
    content = json.loads(call("doctor", "--json", code=code).stdout)
    assert content["ok"] is not breaks
    assert content["problems"][0]["fix"] == "pip install plaster"


def test_demo(bundle, tmp_path, monkeypatch):
    from dyndeploy import demo
    from dyndeploy.demo.result import AccuracyRow, DemoResult, TrainingSummary

    asked = {}

    def run(folder, seconds, progress):
        asked.update(folder=folder, seconds=seconds)
        progress("training")
        return DemoResult(
            bundle=str(bundle),
            layers=("DDF", "DGConv2d"),
            instructions="avx2",
            training=TrainingSummary(
                seconds=5.0,
                steps=70,
                epochs=3.3,
                batch=64,
                images=1347,
                parameters=77668,
                first_loss=2.3,
                last_loss=0.4,
            ),
            check=dyndeploy.check(bundle, runtimes=["torch"]),
            accuracy=(AccuracyRow(runtime="torch", batches=(1, 8), images=450, correct=441, differ=2),),
            latency=tuple(dyndeploy.bench(bundle, ["torch"], dims={"batch": n}, iterations=2) for n in (1, 2)),
            seconds=9.0,
        )

    monkeypatch.setattr(demo, "run", run)
    result = call("demo", "--folder", tmp_path / "out", "--seconds", "5")
    assert asked == {"folder": tmp_path / "out", "seconds": 5.0}
    assert "demo: training\n" in result.stderr
    for part in (
        "77,668",
        "DDF, DGConv2d",
        "441 of 450",
        "98.0 %",
        "compiled, avx2",
        "torch, float32: ",
        "batch=2: latency",
    ):
        assert part in result.stdout
    content = json.loads(call("demo", "--json").stdout)
    assert asked["seconds"] == 60.0
    assert content["accuracy"][0]["correct"] == 441
    assert content["check"]["ok"] is True
