"""libdyndeploy_trt_register: opening it is enough for TensorRT to have the plugins.

    TENSORRT_INCLUDE_DIR=.../include pytest tests/tensorrt/test_register.py

It is compiled with official headers, which no package brings, here those of TensorRT 11.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dyndeploy.ops._spec import DOMAIN, custom_ops
from dyndeploy.testing.cases import cases
from dyndeploy.testing.single_op import single_op_model

PLUGINS = Path(__file__).parents[2] / "plugins"
HEADERS = os.environ.get("TENSORRT_INCLUDE_DIR")
pytestmark = pytest.mark.skipif(not HEADERS, reason="TENSORRT_INCLUDE_DIR is not set")

VERSIONS = {"dcnv2": ["1", "1-tf32"], "ddf": ["1"], "drconv": ["1", "1-tf32"], "dgc": ["1", "1-tf32"]}
CREATORS = {("DeformConv", "1", "")} | {(s.name, v, DOMAIN) for s in custom_ops() for v in VERSIONS[s.folder]}


@pytest.fixture(scope="module")
def compiled(plugins, tmp_path_factory):
    """Compiles the library for a TensorRT of this environment, and lays the plugins beside it."""

    def compiled(package, file):
        pytest.importorskip(package)
        wheel = Path(importlib.util.find_spec(package).submodule_search_locations[0])
        folder = tmp_path_factory.mktemp(package)
        options = {"DYNDEPLOY_CUDA": "OFF", "TENSORRT_INCLUDE_DIR": HEADERS, "TENSORRT_LIBRARY": wheel / file}
        definitions = [f"-D{name}={value}" for name, value in options.items()]
        subprocess.run(["cmake", "-S", PLUGINS, "-B", folder, *definitions], check=True, stdout=subprocess.DEVNULL)
        target = ["--target", "dyndeploy_trt_register"]
        subprocess.run(["cmake", "--build", folder, *target], check=True, stdout=subprocess.DEVNULL)
        (folder / "libdyndeploy_trt.so").symlink_to(plugins)
        return folder / "libdyndeploy_trt_register.so", wheel

    return compiled


@pytest.fixture(scope="module")
def for_lean(compiled):
    return compiled("tensorrt_lean_libs", "libnvinfer_lean.so.11")


@pytest.fixture(scope="module")
def for_rtx(compiled):
    return compiled("tensorrt_rtx_libs", "libtensorrt_rtx.so.1")


SEEN = """
registry = tensorrt_lean.get_plugin_registry()
for c in registry.all_creators:
    if c.plugin_namespace == "dyndeploy" or c.name == "DeformConv":
        print(c.name, c.plugin_version, c.plugin_namespace, sep=",")
"""


def python(*lines, **environment):
    """The creators in the registry of the lean runtime, and what was written to standard error."""
    code = "\n".join(("import ctypes", *lines, SEEN))
    environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [tuple(line.split(",")) for line in done.stdout.splitlines()], done.stderr


def test_opened_by_a_program(for_lean):
    library, _ = for_lean
    assert python("import tensorrt_lean") == ([], "")
    seen, log = python("import tensorrt_lean", f"ctypes.CDLL({str(library)!r})")
    assert (set(seen), len(seen), log) == (CREATORS, len(CREATORS), "")


def test_preloaded(for_lean):
    library, wheel = for_lean
    seen, log = python("import tensorrt_lean", LD_PRELOAD=library, LD_LIBRARY_PATH=wheel)
    assert (set(seen), len(seen), log) == (CREATORS, len(CREATORS), "")


def test_beside_load_library(for_lean):
    """Whoever comes second finds the plugins there."""
    library, _ = for_lean
    opened = f"ctypes.CDLL({str(library)!r})"
    loaded = f"tensorrt_lean.get_plugin_registry().load_library({str(library.with_name('libdyndeploy_trt.so'))!r})"
    for steps in [(opened, loaded), (loaded, opened), (opened, opened)]:
        seen, _ = python("import tensorrt_lean", *steps)
        assert (set(seen), len(seen)) == (CREATORS, len(CREATORS)), steps


def test_without_the_plugins_it_says_so(for_lean, tmp_path):
    library, _ = for_lean
    alone = tmp_path / library.name
    alone.write_bytes(library.read_bytes())
    seen, log = python("import tensorrt_lean", f"ctypes.CDLL({str(alone)!r})")
    assert seen == []
    assert "dyndeploy: no plugins: libdyndeploy_trt.so" in log


@pytest.mark.parametrize("spec", custom_ops(), ids=lambda s: s.key)
def test_engines_are_built_with_it(spec, for_rtx, build):
    library, _ = for_rtx
    case = cases(spec)[0]
    model = single_op_model(spec, case.attributes, shapes=case.shapes())
    (result,) = build([model], opened=library)
    assert [layer[0] for layer in result["layers"]] == ["PLUGIN_V3"]
    assert result["engine"]


def test_refusals_come_to_the_logger(for_rtx, build):
    library, _ = for_rtx
    spec = custom_ops()[0]
    case = cases(spec)[0]
    model = single_op_model(spec, case.attributes, shapes=case.shapes())
    (relu,) = (a for a in model.graph.node[0].attribute if a.name == "relu")
    relu.i = 7
    (result,) = build([model], opened=library)
    assert "PLUGIN_V3" not in {layer[0] for layer in result["layers"]}
    (line,) = [line for line in result["log"] if "dyndeploy:" in line]
    assert line.startswith("ERROR: ")
    assert "relu = 7 is outside" in line


def test_polygraphy(for_rtx, rtx_environment, tmp_path):
    """A program that only opens what it is given: with the plugins' own library nothing is registered."""
    pytest.importorskip("polygraphy")
    library, wheel = for_rtx
    case = cases(custom_ops()[0])[0]
    model = tmp_path / "model.onnx"
    model.write_bytes(single_op_model(case.spec, case.attributes, shapes=case.shapes()).SerializeToString())
    paths = os.pathsep.join([rtx_environment["LD_LIBRARY_PATH"], str(wheel)])
    environment = {**rtx_environment, "POLYGRAPHY_USE_TENSORRT_RTX": "1", "LD_LIBRARY_PATH": paths}
    run = [sys.executable, "-c", "from polygraphy.tools import main; raise SystemExit(main())"]
    for file in (library.with_name("libdyndeploy_trt.so"), library):
        engine = tmp_path / f"{file.stem}.engine"
        command = [*run, "convert", model, "--convert-to", "trt", "--plugins", file, "-o", engine]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert (done.returncode == 0) == engine.is_file() == (file == library), done.stdout
