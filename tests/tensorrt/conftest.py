"""The plugin library, and processes in which TensorRT's own libraries load it."""

import fcntl
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dyndeploy
from dyndeploy.errors import DynError

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def plugins():
    """libdyndeploy_trt of this installation, or, where there was no nvcc for it, the one with the emulator inside."""
    try:
        return dyndeploy.library_path("tensorrt")
    except DynError:
        pass
    folder = ROOT / "build" / "emulated"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run("cmake", "-S", ROOT / "plugins", "-B", folder, "-DDYNDEPLOY_EMULATOR=ON", "-DDYNDEPLOY_CUDA=OFF")
        _run("cmake", "--build", folder, "--target", "dyndeploy_trt_emulated", "--parallel", "2")
    (library,) = folder.rglob("libdyndeploy_trt_emulated.so")
    return library


@pytest.fixture(scope="session")
def rtx_environment(tmp_path_factory):
    """Of a process that can build plugins into engines of TensorRT for RTX.

    The wheel of 1.7.1 opens its own library by a name that it does not have, and ends the process when that fails.
    """
    pytest.importorskip("tensorrt_rtx_libs")
    wheel = Path(importlib.util.find_spec("tensorrt_rtx_libs").submodule_search_locations[0])
    folder = tmp_path_factory.mktemp("rtx")
    (folder / "libtensorrt_rtx.so").symlink_to(wheel / "libtensorrt_rtx.so.1")
    paths = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths)}


@pytest.fixture
def build(rtx_environment, tmp_path):
    """Builds models with TensorRT for RTX: one result of rtx_worker.py for each."""

    def build(models, library=None, *, opened=None, only_parse=False, embed=False, profiles=None, words=()):
        jobs = []
        for index, model in enumerate(models):
            path = tmp_path / f"{index}.onnx"
            path.write_bytes(model.SerializeToString())
            jobs.append(
                {
                    "model": str(path),
                    "library": str(library) if library else None,
                    "opened": str(opened) if opened else None,
                    "build": not only_parse,
                    "embed": embed,
                    "profile": profiles[index] if profiles else {},
                    "words": list(words),
                }
            )
        done = subprocess.run(
            [sys.executable, HERE / "rtx_worker.py"],
            input=json.dumps(jobs),
            env=rtx_environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return build


def _run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
