"""The torch runtime: model.pt2, without the user's code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dyndeploy.bundle import DTYPE_OF, Bundle
from dyndeploy.errors import DynError
from dyndeploy.runtimes.base import Arrays, BaseSession
from dyndeploy.runtimes.program import Program

if TYPE_CHECKING:
    from dyndeploy.runtimes import Source


_DTYPES = ("float64", "float32", "float16", "bfloat16")


class TorchSession(BaseSession):
    """Runs a bundle's torch.export program in one dtype; inputs and outputs are as the manifest says."""

    runtime = "torch"

    def __init__(self, bundle: Bundle, program: Program) -> None:
        manifest = bundle.manifest
        super().__init__(manifest.inputs, manifest.outputs, manifest.dims)
        self._program = program

    @classmethod
    def open(cls, source: Source, *, dtype: str | None = None) -> TorchSession:
        """Open a bundle.

        Args:
            source: a bundle.
            dtype: "float64", "float32", "float16" or "bfloat16"; by default that of the bundle's precision.

        Raises:
            DynError: the source is no bundle, the dtype is none of these, or model.pt2 cannot be read.
        """
        if not isinstance(source, Bundle):
            raise DynError(
                "The torch runtime cannot open an ONNX file.",
                why="It runs the model.pt2 of a bundle.",
                fix="Give the bundle's folder, or choose another runtime.",
            )
        dtype = dtype or DTYPE_OF[source.manifest.precision]
        if dtype not in _DTYPES:
            raise DynError(f"The torch runtime does not compute in {dtype!r}.", fix=f"one of {', '.join(_DTYPES)}")
        return cls(source, Program.load(source.program_path, dtype))

    def _run(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        try:
            outputs, _ = self._program.run([arrays[spec.name] for spec in self.inputs])
        except RuntimeError as error:
            raise DynError("torch failed to run the model.", why=str(error)) from error
        return {s.name: o.astype(s.numpy_dtype, copy=False) for s, o in zip(self.outputs, outputs, strict=True)}
