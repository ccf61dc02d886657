"""dyndeploy: from a PyTorch model with content-dependent convolutions to one ONNX file, with proven numbers.

`import dyndeploy` is light: torch, onnx and the runtimes are imported when something first needs them.

    export, export_recipe   a model, or a recipe, becomes a bundle
    Bundle                  an opened bundle
    open_session            run a bundle or an ONNX file in one runtime
    check                   the verdict: every runtime against the float64 reference
    bench                   latency per runtime
    build                   an engine of TensorRT, or of TensorRT for RTX, from a bundle
    inspect                 what an ONNX file consists of, and who runs which op how
    serve                   bundles behind REST and gRPC, until a signal ends it
    library_path            where a compiled library lies, for programs that load it
    doctor                  what is installed, and what to type where something is wrong
    nn                      the layers
    create_model, list_models   the papers' networks, by name
    load_checkpoint         weights of the papers' official code, or of ours
    count_macs              multiply-accumulates of a network, layer by layer
    training                losses, schedules and parameter groups that the layers are trained with
    DynError                the one error type
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dyndeploy._version import version

if TYPE_CHECKING:
    from dyndeploy import nn, training
    from dyndeploy.bundle import Bundle
    from dyndeploy.checkpoints import load_checkpoint
    from dyndeploy.errors import DynError
    from dyndeploy.models import create_model, list_models
    from dyndeploy.models.macs import count_macs
    from dyndeploy.native import library_path
    from dyndeploy.pipeline.bench import bench
    from dyndeploy.pipeline.build import build
    from dyndeploy.pipeline.check import check
    from dyndeploy.pipeline.doctor import doctor
    from dyndeploy.pipeline.export import export
    from dyndeploy.pipeline.inspect import inspect
    from dyndeploy.pipeline.recipe import export_recipe
    from dyndeploy.pipeline.serve import serve
    from dyndeploy.runtimes import open_session

    __version__: str

_HOME = {
    "Bundle": "dyndeploy.bundle",
    "DynError": "dyndeploy.errors",
    "bench": "dyndeploy.pipeline.bench",
    "build": "dyndeploy.pipeline.build",
    "check": "dyndeploy.pipeline.check",
    "count_macs": "dyndeploy.models.macs",
    "create_model": "dyndeploy.models",
    "doctor": "dyndeploy.pipeline.doctor",
    "export": "dyndeploy.pipeline.export",
    "export_recipe": "dyndeploy.pipeline.recipe",
    "inspect": "dyndeploy.pipeline.inspect",
    "library_path": "dyndeploy.native",
    "list_models": "dyndeploy.models",
    "load_checkpoint": "dyndeploy.checkpoints",
    "open_session": "dyndeploy.runtimes",
    "serve": "dyndeploy.pipeline.serve",
}

__all__ = [
    "Bundle",
    "DynError",
    "__version__",
    "bench",
    "build",
    "check",
    "count_macs",
    "create_model",
    "doctor",
    "export",
    "export_recipe",
    "inspect",
    "library_path",
    "list_models",
    "load_checkpoint",
    "nn",
    "open_session",
    "serve",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in ("nn", "training"):
        return _load(f"dyndeploy.{name}")
    if name == "__version__":
        value: Any = version()
    elif name in _HOME:
        value = getattr(_load(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'dyndeploy' has no attribute {name!r}")
    globals()[name] = value  # asked once
    return value


def _load(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "onnxscript"):
            raise
        from dyndeploy.errors import MissingPackageError

        raise MissingPackageError(error.name, module, "export") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
