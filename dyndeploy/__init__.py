"""dyndeploy: from a PyTorch model with content-dependent convolutions to one ONNX file, with proven numbers.

`import dyndeploy` is light: torch, onnx and the runtimes are imported when something first needs them.

    export, export_recipe   a model, or a recipe, becomes a bundle
    Bundle                  an opened bundle
    open_session            run a bundle or an ONNX file in one runtime
    check                   the verdict: every runtime against the float64 reference
    bench                   latency per runtime
    inspect                 what an ONNX file consists of, and who runs which op how
    doctor                  what is installed, and what to type where something is wrong
    nn                      the layers
    DynError                the one error type
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dyndeploy._version import version

if TYPE_CHECKING:
    from dyndeploy import nn
    from dyndeploy.bundle import Bundle
    from dyndeploy.errors import DynError
    from dyndeploy.pipeline.bench import bench
    from dyndeploy.pipeline.check import check
    from dyndeploy.pipeline.doctor import doctor
    from dyndeploy.pipeline.export import export
    from dyndeploy.pipeline.inspect import inspect
    from dyndeploy.pipeline.recipe import export_recipe
    from dyndeploy.runtimes import open_session

    __version__: str

_HOME = {
    "Bundle": "dyndeploy.bundle",
    "DynError": "dyndeploy.errors",
    "bench": "dyndeploy.pipeline.bench",
    "check": "dyndeploy.pipeline.check",
    "doctor": "dyndeploy.pipeline.doctor",
    "export": "dyndeploy.pipeline.export",
    "export_recipe": "dyndeploy.pipeline.recipe",
    "inspect": "dyndeploy.pipeline.inspect",
    "open_session": "dyndeploy.runtimes",
}

__all__ = [
    "Bundle",
    "DynError",
    "__version__",
    "bench",
    "check",
    "doctor",
    "export",
    "export_recipe",
    "inspect",
    "nn",
    "open_session",
]


def __getattr__(name: str) -> Any:
    if name == "nn":
        return _load("dyndeploy.nn")
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
