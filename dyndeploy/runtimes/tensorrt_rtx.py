"""TensorRT for RTX on a GPU: the engine that `dyndeploy build BUNDLE --target tensorrt-rtx` made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyndeploy.tensorrt.session import EngineSession

if TYPE_CHECKING:
    from dyndeploy.runtimes import Source


class TensorRtRtxSession(EngineSession):
    """Runs a bundle's engine in TensorRT for RTX."""

    runtime = "tensorrt-rtx"

    @classmethod
    def open(cls, source: Source, *, device: int = 0, contexts: int = 1, graphs: int = 8) -> EngineSession:
        """Open a bundle that has an engine; as for "tensorrt"."""
        return cls.open_engine(source, device, contexts, graphs)
