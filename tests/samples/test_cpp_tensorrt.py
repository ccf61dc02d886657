"""The C++ program that runs engines.

    TENSORRT_INCLUDE_DIR=.../include pytest tests/samples/test_cpp_tensorrt.py

compiles it with official headers, which no package has, and runs it with TensorRT's lean runtime, as far as it goes.
"""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import dyndeploy
from dyndeploy.errors import DynError

SAMPLE = Path(__file__).parents[2] / "samples" / "cpp" / "tensorrt"
HEADERS = os.environ.get("TENSORRT_INCLUDE_DIR")


def cmake(*arguments):
    return subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_without_headers_it_says_what_to_give(tmp_path):
    if not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("there is no compiler")
    done = cmake("-S", SAMPLE, "-B", tmp_path, "-DTENSORRT_INCLUDE_DIR=nowhere")
    assert done.returncode != 0
    assert "nowhere' has no NvInferRuntime.h" in " ".join(done.stderr.split())


@pytest.mark.skipif(not HEADERS, reason="TENSORRT_INCLUDE_DIR is not set")
def test_it_compiles_and_fails_in_order_without_a_driver(tmp_path):
    pytest.importorskip("tensorrt_lean_libs")
    wheel = Path(importlib.util.find_spec("tensorrt_lean_libs").submodule_search_locations[0])
    definitions = [f"-DTENSORRT_INCLUDE_DIR={HEADERS}", f"-DTENSORRT_LIBRARY={wheel / 'libnvinfer_lean.so.11'}"]
    configured = cmake("-S", SAMPLE, "-B", tmp_path, *definitions, "-DCMAKE_CXX_FLAGS=-Werror")
    assert configured.returncode == 0, configured.stderr
    built = cmake("--build", tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    try:
        plugins = dyndeploy.library_path("tensorrt")
    except DynError:
        plugins = "-"
    (tmp_path / "engine").write_bytes(b"not an engine")

    def run(*arguments):
        environment = {**os.environ, "LD_LIBRARY_PATH": str(wheel)}
        return subprocess.run(
            [tmp_path / "run_engine", *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    assert run().returncode == 2
    assert "is not INPUT=SHAPE" in run("engine", "-", "1x2").stderr
    done = run(tmp_path / "engine", plugins)
    assert done.returncode == 1, done.stderr
    assert "TensorRT does not start" in done.stderr or "is not loaded" in done.stderr
