"""The runtimes, one file each, behind one `Session` protocol. Their packages are imported when first needed."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyndeploy.bundle import Bundle
from dyndeploy.errors import DynError, MissingPackageError
from dyndeploy.runtimes.base import BaseSession, DeviceSession, Session, UnavailableError

__all__ = [
    "BaseSession",
    "DeviceSession",
    "Session",
    "Source",
    "UnavailableError",
    "open_session",
    "register_runtime",
    "runtime_names",
    "with_bodies",
]

#: What a session can be opened from: a bundle, a .onnx file, or the bytes of one.
Source = Bundle | Path | bytes


@dataclass(frozen=True)
class _Runtime:
    target: str
    package: str
    extra: str


_RUNTIMES = {
    "torch": _Runtime("dyndeploy.runtimes.torch:TorchSession", "torch", "export"),
    "onnxruntime": _Runtime("dyndeploy.runtimes.onnxruntime:OnnxRuntimeSession", "onnxruntime", "onnxruntime"),
    "onnxruntime-bodies": _Runtime(
        "dyndeploy.runtimes.onnxruntime:OnnxRuntimeBodiesSession", "onnxruntime", "onnxruntime"
    ),
    "onnxruntime-cuda": _Runtime(
        "dyndeploy.runtimes.onnxruntime:OnnxRuntimeCudaSession", "onnxruntime", "onnxruntime-gpu"
    ),
    "tensorrt": _Runtime("dyndeploy.runtimes.tensorrt:TensorRtSession", "tensorrt", "tensorrt"),
    "tensorrt-rtx": _Runtime("dyndeploy.runtimes.tensorrt_rtx:TensorRtRtxSession", "tensorrt_rtx", "tensorrt-rtx"),
}


def runtime_names() -> list[str]:
    """The registered runtimes, installed or not."""
    return list(_RUNTIMES)


def with_bodies(names: Sequence[str]) -> list[str]:
    """The names, with function bodies instead of kernels where a runtime has both.

    Example:
        >>> with_bodies(["torch", "onnxruntime"])
        ['torch', 'onnxruntime-bodies']
    """
    return list(dict.fromkeys(f"{n}-bodies" if f"{n}-bodies" in _RUNTIMES else n for n in names))


def register_runtime(name: str, target: str, *, package: str, extra: str) -> None:
    """Make a runtime known to `open_session` and to every verb.

    Args:
        name: its name; an existing one is replaced.
        target: "module:Class"; the class has a classmethod `open(source, **options) -> Session`, where source
            is a Bundle, the Path of a .onnx file or its bytes. The keyword-only parameters of `open` are its
            options.
        package: the package whose absence means that the runtime is not installed.
        extra: the extra of dyndeploy that installs it.

    Raises:
        DynError: target is not "module:Class".
    """
    module, _, class_name = target.partition(":")
    if not (module and class_name):
        raise DynError(f"target={target!r} is not module:Class.", fix='for example "my_package.session:MySession"')
    _RUNTIMES[name] = _Runtime(target, package, extra)


def open_session(
    path: str | os.PathLike[str] | Bundle | bytes, runtime: str = "onnxruntime", **options: Any
) -> Session:
    """Open a model in one runtime.

    Args:
        path: a bundle (or its folder), a .onnx file, or the bytes of one.
        runtime: one of `runtime_names()`. "onnxruntime" runs our ops on the compiled kernels, "onnxruntime-bodies"
            by the function bodies in the file; "tensorrt" and "tensorrt-rtx" run the engine that `build` put into the
            bundle, on a GPU.
        **options: options of the runtime: `dtype` of "torch"; `threads` of those of ONNX Runtime; `device` and
            `tf32` of "onnxruntime-cuda"; `device`, `contexts` and `graphs` of "tensorrt" and "tensorrt-rtx".

    Returns:
        A session; use it in a `with` block, or close it.

    Raises:
        MissingPackageError: the runtime's package is not installed.
        UnavailableError: the runtime cannot run here, or has no kernel for the model.
        DynError: unknown runtime or option, `path` is none of these, or the model cannot be read.

    Example:
        >>> open_session("digits", runtime="abacus")
        Traceback (most recent call last):
        ...
        dyndeploy.errors.DynError: There is no runtime 'abacus'.
          fix: one of torch, onnxruntime, onnxruntime-bodies, onnxruntime-cuda, tensorrt, tensorrt-rtx
    """
    entry = _RUNTIMES.get(runtime) if isinstance(runtime, str) else None
    if entry is None:
        raise DynError(f"There is no runtime {runtime!r}.", fix=f"one of {', '.join(_RUNTIMES)}")
    source = _source(path)
    module, class_name = entry.target.split(":")
    try:
        opener = getattr(importlib.import_module(module), class_name).open
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != entry.package:
            raise
        raise MissingPackageError(entry.package, f"The runtime {runtime!r}", entry.extra) from error
    known = [p.name for p in inspect.signature(opener).parameters.values() if p.kind is p.KEYWORD_ONLY]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise DynError(f"The runtime {runtime!r} has no option {', '.join(unknown)}.", fix=f"one of {', '.join(known)}")
    session: Session = opener(source, **options)
    return session


def _source(path: str | os.PathLike[str] | Bundle | bytes) -> Source:
    if isinstance(path, (Bundle, bytes)):
        return path
    if not isinstance(path, (str, os.PathLike)):
        raise DynError(
            f"A model cannot be opened from a {type(path).__name__}.",
            fix="a bundle, a path, or the bytes of a .onnx file",
        )
    file = Path(path)
    if file.suffix != ".onnx":
        return Bundle.open(file)
    if not file.is_file():
        raise DynError(f"There is no file {file}.")
    return file
