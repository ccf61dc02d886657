"""TensorRT on a GPU: the engine that `dyndeploy build BUNDLE --target tensorrt` made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyndeploy.tensorrt.session import EngineSession

if TYPE_CHECKING:
    from dyndeploy.runtimes import Source


class TensorRtSession(EngineSession):
    """Runs a bundle's engine in TensorRT."""

    runtime = "tensorrt"

    @classmethod
    def open(cls, source: Source, *, device: int = 0, contexts: int = 1, graphs: int = 8) -> EngineSession:
        """Open a bundle that has an engine.

        Args:
            source: a bundle.
            device: index of the GPU.
            contexts: requests that run at once; each has a stream, buffers and activations of its own.
            graphs: CUDA graphs that each of them keeps, one per shapes (and addresses) of a request; 0 for none. One
                is captured when a request comes that was seen before, and then runs as a single launch.

        Raises:
            MissingPackageError: TensorRT or cuda-python is not installed.
            UnavailableError: the bundle has no engine, there is no GPU or driver, or TensorRT does not support the GPU.
            DynError: the engine does not fit the model, this machine or what is installed, or is not whole; `fix` says
                how to build it again.
        """
        return cls.open_engine(source, device, contexts, graphs)
