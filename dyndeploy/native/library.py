"""The compiled libraries: their files, the loaded one, its switches."""

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
_FILES = {"cpu": "libdyndeploy_cpu", "onnxruntime": "libdyndeploy_ort"}
_SUFFIXES = (".so", ".dylib")
#: How often another instruction set was chosen: what was asked of the library before may be out of date.
changes = 0
_enabled = ContextVar("native_enabled", default=True)


def library_names() -> list[str]:
    """What `library_path` takes."""
    return list(_FILES)


def library_path(name: str) -> Path:
    """Where a compiled library of dyndeploy lies, to be given to a program that loads it.

    Args:
        name: "cpu", the kernels behind a C ABI (plugins/<op>/kernels.h), or "onnxruntime", the custom ops for
            ONNX Runtime (`SessionOptions.register_custom_ops_library`).

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
        why="It is compiled when dyndeploy is installed, which needs g++ or clang.",
        fix="pip install --force-reinstall --no-deps dyndeploy   (from a checkout: pip install .)",
    )


@functools.cache
def load() -> ctypes.CDLL:
    """The loaded CPU library.

    Raises:
        DynError: it is not there, or it does not load.
    """
    path = library_path("cpu")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise DynError(f"{path} does not load.", why=str(error), fix="Install dyndeploy on this machine.") from error
    library.dyndeploy_message.restype = ctypes.c_char_p
    library.dyndeploy_instructions.restype = ctypes.c_char_p
    library.dyndeploy_use_instructions.argtypes = [ctypes.c_char_p]
    return library


def check_status(label: str, status: int) -> None:
    """Raise DynError when a function of the library did not return 0; `label` says what was called."""
    if status != 0:
        raise DynError(f"{label}: the native kernel refuses the call.", why=load().dyndeploy_message().decode())


def instructions() -> str:
    """The instruction set that the CPU kernels use: "avx512", "avx2" or "portable"."""
    return str(load().dyndeploy_instructions().decode())


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
    check_status("use_instructions", load().dyndeploy_use_instructions(instruction_set.encode()))
    changes += 1


def enabled() -> bool:
    """Whether the torch ops may use the library."""
    return _enabled.get()


@contextmanager
def disabled() -> Iterator[None]:
    """Run the torch ops on their references in this block: what the kernels are compared with."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)
