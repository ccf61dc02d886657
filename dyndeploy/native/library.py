"""The compiled libraries: their files, the loaded ones, their switches."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import dyndeploy
from dyndeploy.errors import DynError, nearest

#: Name -> stem of the file.
_FILES = {
    "cpu": "libdyndeploy_cpu",
    "onnxruntime": "libdyndeploy_ort",
    "cuda": "libdyndeploy_cuda",
    "tensorrt": "libdyndeploy_trt",
}
#: Those that are compiled where there is an nvcc, and missing elsewhere.
NVCC = ("cuda", "tensorrt")
#: Name -> what it is compiled with.
_COMPILERS = dict.fromkeys(_FILES, "g++ or clang") | dict.fromkeys(NVCC, "nvcc beside g++ or clang")
_SUFFIXES = (".so", ".dylib")
_REINSTALL = "pip install --force-reinstall --no-deps dyndeploy   (from a checkout: pip install .)"
_NVCC = "pip install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-crt nvidia-nvvm nvidia-cuda-cccl"
#: Statuses of the C ABI: of a call that the kernels cannot do, and of one that the CUDA runtime refused.
UNSUPPORTED, FAILED = 2, 3
#: How often another instruction set was chosen: what was asked of the library before may be out of date.
changes = 0
_enabled = ContextVar("native_enabled", default=True)
_emulated: ContextVar[Path | None] = ContextVar("native_emulated", default=None)


def library_names() -> list[str]:
    """What `library_path` takes."""
    return list(_FILES)


def library_path(name: str) -> Path:
    """Where a compiled library of dyndeploy lies, to be given to a program that loads it.

    Args:
        name: "cpu" or "cuda", the kernels behind a C ABI (plugins/<op>/kernels.h); "onnxruntime", the custom ops for
            ONNX Runtime (`SessionOptions.register_custom_ops_library`); or "tensorrt", the plugins for TensorRT and
            TensorRT for RTX (`IPluginRegistry.load_library`).

    Raises:
        DynError: there is no such library, or this installation lacks it.

    Example:
        >>> library_path("onnxruntime").name
        'libdyndeploy_ort.so'
    """
    if name not in _FILES:
        raise DynError(f"There is no library {name!r}.", fix=nearest(name, _FILES))
    # An editable installation keeps Python files and compiled ones in two folders of one package.
    for folder in dyndeploy.__path__:
        for suffix in _SUFFIXES:
            file = Path(folder) / "lib" / (_FILES[name] + suffix)
            if file.is_file():
                return file
    raise DynError(
        f"{_FILES[name]}.so is not part of this installation.",
        why=f"It is compiled when dyndeploy is installed, which needs {_COMPILERS[name]}.",
        fix=reinstall(name),
    )


def reinstall(name: str) -> str:
    """What to type where a library is missing."""
    return f"{_NVCC} && {_REINSTALL}" if name in NVCC else _REINSTALL


def load(name: str = "cpu") -> ctypes.CDLL:
    """The loaded library of kernels for "cpu" or "cuda".

    Raises:
        DynError: it is not there, or it does not load.
    """
    return load_file(library_path(name))


@functools.cache
def load_file(path: Path) -> ctypes.CDLL:
    """The loaded library of a file.

    Raises:
        DynError: it does not load.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise DynError(f"{path} does not load.", why=str(error), fix="Install dyndeploy on this machine.") from error
    library.dyndeploy_message.restype = ctypes.c_char_p
    return library


def check_status(label: str, status: int, library: ctypes.CDLL | None = None, fix: str | None = None) -> None:
    """Raise DynError when a function of a library did not return 0.

    Args:
        label: what was called.
        status: what it returned, in this thread.
        library: of the function, which has the message; the CPU library by default.
        fix: what to do.
    """
    if status != 0:
        who = "CUDA runtime" if status == FAILED else "native kernel"
        message = (library or load()).dyndeploy_message()
        raise DynError(f"{label}: the {who} refuses the call.", why=message.decode(), fix=fix)


def instructions() -> str:
    """The instruction set that the CPU kernels use: "avx512", "avx2" or "portable"."""
    function = load().dyndeploy_instructions
    function.restype = ctypes.c_char_p
    return str(function().decode())


@contextmanager
def using(instruction_set: str) -> Iterator[None]:
    """Use another instruction set in this block; for tests and comparisons, in one thread.

    Raises:
        DynError: this machine does not have it.
    """
    before = instructions()
    _use(instruction_set)
    try:
        yield
    finally:
        _use(before)


def _use(instruction_set: str) -> None:
    global changes  # noqa: PLW0603  # the library's own state is as global
    function = load().dyndeploy_use_instructions
    function.argtypes = [ctypes.c_char_p]
    check_status("use_instructions", function(instruction_set.encode()))
    changes += 1


def enabled() -> bool:
    """Whether the torch ops may use the libraries."""
    return _enabled.get()


@contextmanager
def disabled() -> Iterator[None]:
    """Run the torch ops on their references in this block: what the kernels are compared with."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


def emulated() -> Path | None:
    """The library of `emulating`, in its block."""
    return _emulated.get()


def choice() -> tuple[bool, Path | None]:
    """What `disabled` and `emulating` say at the moment, for `resumed`."""
    return _enabled.get(), _emulated.get()


@contextmanager
def resumed(earlier: tuple[bool, Path | None]) -> Iterator[None]:
    """Keep to an earlier `choice` in this block, besides what holds now.

    Gradients of tensors on a GPU are computed in a thread of autograd's own, which the blocks around the caller do not
    reach.
    """
    enabled_before, emulated_before = earlier
    tokens = _enabled.set(_enabled.get() and enabled_before), _emulated.set(_emulated.get() or emulated_before)
    try:
        yield
    finally:
        _enabled.reset(tokens[0])
        _emulated.reset(tokens[1])


@contextmanager
def emulating(path: Path) -> Iterator[None]:
    """Send tensors on the CPU to the CUDA kernels in this block, run by the emulator; for tests, and very slow.

    What is between the torch ops and the kernels is then tested without a GPU as well.

    Args:
        path: of libdyndeploy_cuda_emulated, the CUDA kernels compiled for the CPU (plugins/emulator).
    """
    token = _emulated.set(path)
    try:
        yield
    finally:
        _emulated.reset(token)
