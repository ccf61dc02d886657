"""What is there on this machine: system, driver, Python packages, compilers, our libraries. `doctor` judges it.

Only the standard library is used, and whatever could crash runs in a process of its own: a doctor that dies
of the patient's illness is of no use.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dyndeploy.errors import DynError
from dyndeploy.native.library import library_names, library_path

_TIMEOUT_S = 120
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve")
_TOOLS = ("g++", "cmake", "nvcc")
_GENERATIONS = (
    "'builds for ' + ', '.join(n.replace('SM', 'sm_') for n in m.ComputeCapability.__members__ if n[:2] == 'SM')"
)
_PROVIDERS = "', '.join(p.removesuffix('ExecutionProvider') for p in m.get_available_providers())"

#: Distribution -> (module, expression over the imported module m that says more).
_PACKAGES = {
    "torch": (
        "torch",
        "f'CUDA {m.version.cuda}, GPU usable: {m.cuda.is_available()}' if m.version.cuda else 'CPU build'",
    ),
    "onnx": ("onnx", "''"),
    "onnx-ir": ("onnx_ir", "''"),
    "onnxscript": ("onnxscript", "''"),
    "onnxruntime": ("onnxruntime", _PROVIDERS),
    "onnxruntime-gpu": ("onnxruntime", _PROVIDERS),
    "tensorrt": ("tensorrt", "''"),
    "tensorrt_rtx": ("tensorrt_rtx", _GENERATIONS),
    "cuda-bindings": ("cuda.bindings", "''"),
    "cuda-core": ("cuda.core", "''"),
    "polygraphy": ("polygraphy", "''"),
}

_LIBCUDA = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
version, count = ctypes.c_int(), ctypes.c_int()
status = cuda.cuInit(0)
cuda.cuDriverGetVersion(ctypes.byref(version))
cuda.cuDeviceGetCount(ctypes.byref(count))
print(status, version.value, count.value)
"""


#: Libraries that a process can load by itself, and what they say of themselves; the others need a runtime.
_LIBRARIES = {
    "cpu": ("dyndeploy_instructions", "instructions"),
    "cuda": ("dyndeploy_cuda_architectures", "architectures"),
}
_LIBRARY = """
import ctypes, dyndeploy
function = ctypes.CDLL(str(dyndeploy.library_path({name!r}))).{function}
function.restype = ctypes.c_char_p
print(function().decode())
"""
# The plugins are loaded by what they are for, if that is installed.
_PLUGINS = """
import dyndeploy
from dyndeploy.tensorrt import vendor
taken = []
for target in vendor.TARGETS:
    try:
        loaded = vendor.load(target)
    except dyndeploy.DynError:
        continue
    loaded.load_plugins(dyndeploy.library_path("tensorrt"))
    taken.append(f"{loaded.target.package} {loaded.version}")
print("plugins taken by: " + ", ".join(taken) if taken else "")
"""


@dataclass(frozen=True)
class Library:
    """One of the project's compiled libraries.

    Attributes:
        name: as `dyndeploy.library_path` takes it.
        path: where it lies; None when it is not there.
        loads: whether a process can load it; None when it was not tried.
        detail: the instruction set in use, the GPUs it is compiled for, or what is wrong.
    """

    name: str
    path: str | None
    loads: bool | None
    detail: str


@dataclass(frozen=True)
class Package:
    """A Python package that the project can use.

    Attributes:
        name: of the distribution.
        version: the installed one; None when it is not installed.
        loads: whether it can be imported; None when it is not installed.
        detail: what it says of itself, or why it does not load.
        extra: the extra of dyndeploy that installs it; None when dyndeploy always does.
        minimum: the lowest version that dyndeploy works with, where it says so.
    """

    name: str
    version: str | None
    loads: bool | None
    detail: str
    extra: str | None
    minimum: str | None


def system() -> dict[str, str]:
    """Python, platform and CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    model = re.search(r"model name\s*:\s*(.+)", text)
    flags = set((re.search(r"(?:flags|Features)\s*:\s*(.+)", text) or [""])[0].split())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cpus": f"{usable} usable of {os.cpu_count()}",
        "instructions": ", ".join(f for f in _CPU_FLAGS if f in flags) or "not known",
    }


def gpu() -> dict[str, str]:
    """The driver as nvidia-smi sees it, and as a program that loads libcuda does."""
    found = {"nvidia-smi": "not found"}
    if shutil.which("nvidia-smi"):
        query = [
            "nvidia-smi",
            "--query-gpu=name,compute_cap,memory.total,driver_version",
            "--format=csv,noheader",
        ]
        code, output = _run(query)
        found["nvidia-smi"] = "; ".join(output.splitlines()) if code == 0 else f"fails: {_last(output)}"
    code, output = _run([sys.executable, "-c", _LIBCUDA])
    if code:
        found["libcuda"] = "not found" if "cannot open shared object" in output else f"fails: {_last(output)}"
    else:
        status, version, devices = map(int, output.split()[-3:])
        found["libcuda"] = (
            f"fails: cuInit returned {status}"
            if status
            else f"CUDA {version // 1000}.{version % 1000 // 10}, devices: {devices}"
        )
    return found


def tools() -> dict[str, str]:
    """Compilers: name -> version and path."""
    found = {}
    for name in _TOOLS:
        path = shutil.which(name)
        version = re.search(r"\d+\.\d+(\.\d+)*", _run([path, "--version"])[1]) if path else None
        found[name] = f"{version[0] if version else 'unknown version'} ({path})" if path else "not found"
    return found


def libraries() -> dict[str, Library]:
    """The project's compiled libraries by name; the kernels' own are loaded, in processes of their own."""
    return {name: _library(name) for name in library_names()}


def _library(name: str) -> Library:
    try:
        path = str(library_path(name))
    except DynError as error:
        return Library(name, None, None, str(error.why))
    if name == "tensorrt":
        code, output = _run([sys.executable, "-c", _PLUGINS])
        return Library(name, path, code == 0 if code or _last(output) else None, _last(output))
    if name not in _LIBRARIES:
        return Library(name, path, None, "")
    function, says = _LIBRARIES[name]
    code, output = _run([sys.executable, "-c", _LIBRARY.format(name=name, function=function)])
    return Library(name, path, code == 0, f"{says}: {_last(output)}" if code == 0 else _last(output))


def packages() -> dict[str, Package]:
    """The Python packages by name; those that are installed are imported, each in a process of its own."""
    needs = _requirements()
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = pool.map(lambda name: _package(name, *needs.get(_normal(name), (None, None))), _PACKAGES)
        return {package.name: package for package in found}


def _package(name: str, minimum: str | None, extra: str | None) -> Package:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Package(name, None, None, "", extra, minimum)
    module, detail = _PACKAGES[name]
    code, output = _run([sys.executable, "-c", f"import {module} as m\nprint()\nprint({detail})"])
    return Package(name, version, code == 0, _last(output), extra, minimum)


def _requirements() -> dict[str, tuple[str | None, str | None]]:
    """Package -> (lowest version, first extra that names it), as dyndeploy's own metadata say."""
    try:
        lines = importlib.metadata.requires("dyndeploy") or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    found: dict[str, tuple[str | None, str | None]] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", requirement)
        minimum = re.search(r">=\s*([\d.]+)", requirement)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        if name and _for_this_python(marker):
            value = (minimum[1] if minimum else None, extra[1] if extra else None)
            found.setdefault(_normal(name[0]), value)
    return found


def _for_this_python(marker: str) -> bool:
    """Whether the python_version conditions of a requirement hold; `packaging` could tell, but may be absent."""
    bounds = re.findall(r"python_version\s*(<|>=)\s*['\"]3\.(\d+)['\"]", marker)
    return all((sys.version_info[:2] >= (3, int(minor))) == (sign == ">=") for sign, minor in bounds)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _run(command: list[str]) -> tuple[int, str]:
    """Exit code and output, never an exception: a command that hangs or is killed has failed."""
    try:
        done = subprocess.run(
            # Not the current folder: a file torch.py in it would be imported instead of torch.
            command,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            cwd=sys.prefix,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    if done.returncode < 0:
        return done.returncode, f"killed by {signal.Signals(-done.returncode).name}"
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def _last(output: str) -> str:
    lines = output.removesuffix("\n").split("\n")
    return lines[-1].strip()
