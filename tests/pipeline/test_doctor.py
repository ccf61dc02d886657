"""Doctor: it survives what it looks at, and each problem comes with the command that mends it."""

import subprocess
import sys
from importlib import metadata

import pytest

from dyndeploy.native import instructions
from dyndeploy.pipeline import doctor as module
from dyndeploy.pipeline import environment
from dyndeploy.pipeline.doctor import doctor
from dyndeploy.pipeline.environment import Library, Package

NO_GPU = {"nvidia-smi": "not found", "libcuda": "not found"}
GPU = {"nvidia-smi": "NVIDIA L4, 8.9, 23034 MiB, 580.65", "libcuda": "CUDA 13.0, devices: 1"}


def package(name, version="2.0", loads=True, detail="", minimum=None):
    return Package(name, version, loads if version else None, detail, None, minimum)


def packages(*found):
    base = {name: package(name) for name in ("torch", "onnxscript", "onnxruntime")}
    return base | {p.name: p for p in found}


def problems(found, gpu=NO_GPU):
    return [problem for rule in module.RULES for problem in rule(found, gpu)]


def test_this_machine():
    phases = []
    diagnosis = doctor(phases.append)
    found = {p.name: p for p in diagnosis.packages}
    assert diagnosis.system["python"].startswith("3.")
    assert diagnosis.system["cpus"]
    for name in ("torch", "onnx", "onnx-ir", "onnxscript"):
        assert found[name].version == metadata.version(name)
        assert found[name].loads, found[name].detail
    assert found["torch"].detail
    assert found["torch"].extra == "export"
    assert found["onnx"].extra is None
    assert set(diagnosis.tools) == {"g++", "cmake", "nvcc"}
    cpu, onnxruntime, cuda, tensorrt = diagnosis.libraries
    assert (cpu.name, cpu.loads, cpu.detail) == ("cpu", True, f"instructions: {instructions()}")
    assert (onnxruntime.name, onnxruntime.loads) == ("onnxruntime", None)
    assert (cuda.name, cuda.loads) == ("cuda", True if cuda.path else None)
    assert cuda.detail.startswith("architectures: " if cuda.path else "It is compiled when")
    rtx = found["tensorrt_rtx"]
    taken = f"plugins taken by: tensorrt_rtx {rtx.version}" if tensorrt.path and rtx.loads else None
    assert (tensorrt.name, tensorrt.loads) == ("tensorrt", True if taken else None)
    assert taken in (None, tensorrt.detail)
    assert not rtx.loads or rtx.detail.startswith("builds for sm_")
    assert diagnosis.ok == (not any(p.breaks for p in diagnosis.problems))
    assert phases == ["system", "GPU", "compilers", "packages", "libraries", "own libraries", "known problems"]


def test_a_failing_probe_does_not_end_it(monkeypatch):
    def fail():
        raise OSError("no such thing")

    for name in ("system", "gpu", "tools", "packages"):
        monkeypatch.setattr(environment, name, fail)
    diagnosis = doctor()
    assert diagnosis.ok
    assert (diagnosis.system, diagnosis.packages) == ({}, ())
    assert [p.what for p in diagnosis.problems] == [
        f"Looking at {what} failed: OSError('no such thing')." for what in ("system", "GPU", "compilers", "packages")
    ]


def test_nothing_to_complain_about():
    assert problems(packages()) == []


@pytest.mark.parametrize(
    ("found", "gpu", "what", "fix", "breaks"),
    [
        (
            packages(package("onnx", loads=False, detail="ImportError: libfoo.so.1")),
            NO_GPU,
            "onnx 2.0 does not load: ImportError: libfoo.so.1",
            "pip install --force-reinstall onnx",
            True,
        ),
        (
            packages(package("onnxruntime", "1.9.0", minimum="1.25")),
            NO_GPU,
            "onnxruntime 1.9.0 is older than 1.25.",
            'pip install --upgrade "onnxruntime>=1.25"',
            True,
        ),
        (
            packages(package("onnxruntime-gpu")),
            NO_GPU,
            "both installed",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
            True,
        ),
        (packages(package("torch", None)), NO_GPU, "no export here", 'pip install "dyndeploy[export]"', False),
        (
            {name: package(name, None) for name in packages()} | {"onnx": package("onnx")},
            NO_GPU,
            "No runtime is installed.",
            'pip install "dyndeploy[onnxruntime]"',
            False,
        ),
        (
            packages(package("torch", detail="CPU build"), package("onnxruntime", None), package("onnxruntime-gpu")),
            GPU,
            "torch is a CPU build",
            "pip install --force-reinstall torch",
            False,
        ),
        (packages(), GPU, "onnxruntime is the package for CPUs", "pip uninstall -y onnxruntime &&", False),
        (
            packages(package("onnxruntime", None), package("onnxruntime-gpu")),
            GPU | {"libcuda": "not found"},
            "libcuda.so.1: not found",
            "docker run --gpus all",
            True,
        ),
    ],
)
def test_problems(found, gpu, what, fix, breaks):
    hits = [p for p in problems(found, gpu) if what in p.what]
    assert len(hits) == 1
    assert hits[0].fix.startswith(fix)
    assert hits[0].breaks == breaks


def library(name, path, loads, detail=""):
    return {name: Library(name, path, loads, detail)}


def test_problems_of_our_libraries():
    (missing,) = module.broken_library(library("cpu", None, None, "It needs g++."))
    assert (missing.what, missing.breaks) == ("The library 'cpu' is missing: It needs g++.", True)
    for name in ("cpu", "cuda"):
        (broken,) = module.broken_library(library(name, "/lib", False, "OSError: libc"))
        assert (broken.what, broken.breaks) == (f"The library {name!r} does not load: OSError: libc", True)
        assert "pip install" in broken.fix


def test_cuda_kernels_are_missed_where_there_is_a_gpu():
    absent, there = library("cuda", None, None, "It needs nvcc."), library("cuda", "/lib", True, "architectures: 90")
    assert list(module.broken_library(absent)) == []
    assert list(module.no_cuda_kernels(absent, NO_GPU)) == []
    assert list(module.no_cuda_kernels(there, GPU)) == []
    (problem,) = module.no_cuda_kernels(absent, GPU)
    assert (problem.what, problem.breaks) == ("There is a GPU, and no kernels for it: It needs nvcc.", False)
    assert problem.fix.startswith("pip install nvidia-cuda-nvcc ")


@pytest.mark.parametrize("version", ["1.25", "1.25.1", "1.31.1+cpu", "2.0rc1", "1.100"])
def test_new_enough(version):
    assert problems(packages(package("onnxruntime", version, minimum="1.25"))) == []


def test_minima_and_extras_are_those_of_the_project(monkeypatch):
    lines = [
        "numpy>=1.26",
        'torch<3,>=2.9; extra == "export"',
        'cuda-python>=12.6; extra == "tensorrt"',
        'cuda-python>=12.6; extra == "tensorrt-rtx"',
        'dyndeploy[export]; extra == "demo"',
        'tensorrt_rtx>=1.7.1; python_version > "3" and extra == "tensorrt-rtx"',
    ]
    minor = sys.version_info.minor
    lines += [
        f'onnxruntime>=1.99; python_version < "3.{minor}" and extra == "onnxruntime"',
        f'onnxruntime>=1.25; python_version >= "3.{minor}" and extra == "onnxruntime"',
        f'onnxruntime>=1.98; python_version >= "3.{minor + 1}" and extra == "onnxruntime"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda _name: lines)
    needs = environment._requirements()
    assert needs["numpy"] == ("1.26", None)
    assert needs["torch"] == ("2.9", "export")
    assert needs["onnxruntime"] == ("1.25", "onnxruntime")
    assert needs["cuda-python"] == ("12.6", "tensorrt")
    assert needs["tensorrt-rtx"] == ("1.7.1", "tensorrt-rtx")


def test_every_package_that_is_probed_is_one_of_ours():
    assert {environment._normal(name) for name in environment._PACKAGES} <= environment._requirements().keys()


def test_a_crash_a_hang_and_an_error_are_told_apart(monkeypatch):
    assert environment._run([sys.executable, "-c", "import os; os.abort()"]) == (-6, "killed by SIGABRT")
    code, output = environment._run([sys.executable, "-c", "raise ImportError('no libfoo')"])
    assert (code, environment._last(output)) == (1, "ImportError: no libfoo")
    monkeypatch.setattr(environment, "_TIMEOUT_S", 0.2)
    code, output = environment._run([sys.executable, "-c", "import time; time.sleep(30)"])
    assert code != 0
    assert "timed out" in output
    assert environment._run(["a-program-that-nobody-has"])[0] != 0


def test_a_package_that_crashes_is_said_to(monkeypatch):
    monkeypatch.setitem(environment._PACKAGES, "onnx", ("os", "m.abort()"))
    found = environment._package("onnx", None, None)
    assert (found.loads, found.detail) == (False, "killed by SIGABRT")


def test_files_in_the_current_folder_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "onnx.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    assert environment._package("onnx", None, None).loads


def fake_nvidia_smi(folder, monkeypatch, script):
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_gpus_are_listed(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA L4, 8.9, 23034 MiB, 580.65'")
    assert environment.gpu()["nvidia-smi"] == "NVIDIA L4, 8.9, 23034 MiB, 580.65"


def test_a_driver_that_does_not_answer(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA-SMI has failed.'; exit 9")
    found = environment.gpu()
    assert found["nvidia-smi"] == "fails: NVIDIA-SMI has failed."
    assert not module._has_gpu(found)


def test_no_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment, "_LIBCUDA", environment._LIBCUDA.replace("libcuda.so.1", "libcuda-of-nobody.so.1"))
    assert environment.gpu() == NO_GPU


def test_a_tensorrt_without_our_plugins():
    library = {"tensorrt": Library("tensorrt", None, None, "It is compiled when dyndeploy is installed.")}
    (problem,) = module.engines_without_plugins(packages(package("tensorrt_rtx")), library)
    assert "tensorrt_rtx can build engines from function bodies only" in problem.what
    assert "pip install" in problem.fix
    assert not problem.breaks
    assert list(module.engines_without_plugins(packages(), library)) == []


def test_the_missing_library_of_tensorrt_rtx(tmp_path, monkeypatch):
    libs = tmp_path / "tensorrt_rtx_libs"
    libs.mkdir()
    (libs / "__init__.py").touch()
    (libs / "libtensorrt_rtx.so.1").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx_libs", raising=False)  # of a test before this one
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    installed = packages(package("tensorrt_rtx"))
    assert problems(packages()) == []
    (problem,) = problems(installed)
    assert not problem.breaks  # `dyndeploy build` helps itself
    assert "lacks libtensorrt_rtx.so" in problem.what

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "libtensorrt_rtx.so").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{elsewhere}")
    assert problems(installed) == []

    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert str(libs) in problem.fix
    subprocess.run(problem.fix, shell=True, check=True)
    assert (libs / "libtensorrt_rtx.so").resolve() == libs / "libtensorrt_rtx.so.1"
    assert problems(installed) == []
