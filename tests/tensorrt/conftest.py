"""Processes in which TensorRT's own libraries load the plugin library, and a vendor's package that is made up."""

import dataclasses
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dyndeploy.tensorrt import process, vendor, worker
from dyndeploy.tensorrt.record import Gpu

HERE = Path(__file__).parent


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


def _module(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def small():
    """small_bundle.py."""
    return _module("small_bundle")


@pytest.fixture
def bundle(small, tmp_path):
    """A small bundle."""
    return small.small_bundle(tmp_path / "small")


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """The folder of what is kept for later builds."""
    folder = tmp_path / "caches"
    monkeypatch.setenv("DYNDEPLOY_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def fake(fake_process, monkeypatch):
    """As `fake_process`, without a process, which takes time."""
    monkeypatch.setattr("dyndeploy.tensorrt.process.run", _run_here)
    return fake_process


def _run_here(job, *, tell, monitor=None):
    outcome, stream = process.Outcome(), io.StringIO()
    events = worker.Events(stream, job.log)
    try:
        events.send("done", **worker.build(job, events))
    except worker.FailedError as failure:
        events.send("failed", **failure.details)
    events.close()
    for line in stream.getvalue().splitlines():
        process._take(line, outcome, tell, monitor)
    return outcome


@pytest.fixture
def fake_process(monkeypatch, caches, tmp_path):
    """Both targets are served by fake_builder.py, on a GPU that is not there; call it with what it should do."""
    for name, target in vendor.TARGETS.items():
        monkeypatch.setitem(vendor.TARGETS, name, dataclasses.replace(target, package="fake_builder", minimum="0"))
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setattr("dyndeploy.tensorrt.gpu.current_gpu", lambda: Gpu(compute_capability="8.9", name="GPU 1"))
    library = tmp_path / "libplugins.so"
    library.write_bytes(b"plugins")
    monkeypatch.setattr("dyndeploy.pipeline.build.library_path", lambda _name: library)

    def behave(**settings):
        monkeypatch.setenv("FAKE_BUILDER", json.dumps(settings))

    behave.library = library
    return behave
