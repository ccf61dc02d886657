"""What every runtime looks like: named arrays in, named arrays out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from dyndeploy._remembered import Remembered
from dyndeploy.errors import DynError
from dyndeploy.tensors import Dim, TensorSpec, check_arrays

if TYPE_CHECKING:
    from typing_extensions import Self

Arrays = dict[str, "np.ndarray[Any, Any]"]

#: So many combinations of shapes that fit a session are remembered.
_REMEMBERED = 256


class UnavailableError(DynError):
    """A runtime cannot run here, or has no kernel for a model: nothing is wrong with the model."""


@runtime_checkable
class Session(Protocol):
    """A model, ready to run in one runtime.

    Attributes:
        runtime: the name under which it was opened.
        inputs, outputs: names, dtypes and shapes.
        dims: the allowed sizes of named dims; one that is not in it may have any size.
    """

    runtime: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    dims: Mapping[str, Dim]

    def run(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run on one request: input name -> array, returns output name -> array.

        Raises:
            DynError: the session is closed, an input does not fit its spec, or the runtime failed; after the
                last two the session can be used again.
        """
        ...

    def close(self) -> None:
        """Give back what the session holds. Closing twice is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None: ...


@runtime_checkable
class DeviceSession(Session, Protocol):
    """A session that also takes and gives arrays on a GPU, where they lie."""

    def run_device(
        self, arrays: Mapping[str, Any], *, outputs: Mapping[str, Any] | None = None, stream: Any = None
    ) -> dict[str, Any]:
        """Run on arrays on the GPU.

        Args:
            arrays: input name -> an array with DLPack or `__cuda_array_interface__` (PyTorch, CuPy, Numba, PyCUDA's
                GPUArray, what this gives), in C order and at an address that is a multiple of 256; or a NumPy array,
                which is copied.
            outputs: output name -> such an array on the GPU, which is written; any of them. The others are made.
            stream: the caller's CUDA stream, as an int or an object of PyTorch, CuPy, Numba, PyCUDA or cuda.core. The
                run comes behind what is queued in it, and what is queued in it later comes behind the run; nothing
                waits here. Without it, this returns when the outputs are there.

        Returns:
            Output name -> the array given for it, or one with DLPack and `__cuda_array_interface__`.

        Raises:
            DynError: as `run`. With a stream, what goes wrong on the GPU later is told by whoever waits for it.
        """
        ...


class BaseSession(ABC):
    """Validation and life cycle; a runtime adds `_run`, and `_release` if it holds something."""

    runtime: str = ""

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        dims: Mapping[str, Dim] | None = None,
    ) -> None:
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.dims: Mapping[str, Dim] = dict(dims or {})
        self._closed = False
        self._fitted: Remembered[Any, bool] = Remembered(_REMEMBERED)

    def run(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """See `Session.run`."""
        if self._closed:
            raise DynError(f"The {self.runtime} session is closed.", fix="Open another one with open_session().")
        self._check(arrays)
        return self._run(arrays)

    def close(self) -> None:
        """See `Session.close`."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, arrays: Mapping[str, Any]) -> None:
        """Raise DynError when arrays do not fit; names, dtypes and shapes that did are not looked at again."""
        try:
            these = tuple([(name, array.dtype, array.shape) for name, array in arrays.items()])
            if these in self._fitted:
                return
        except (AttributeError, TypeError):  # no mapping, or no arrays; or a shape that is no tuple
            these = None
        check_arrays(arrays, self.inputs, self.dims)
        if these is not None:
            self._fitted[these] = True

    @abstractmethod
    def _run(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run on arrays that fit."""

    def _release(self) -> None:  # noqa: B027  # most runtimes need not do anything
        """Give back what the session holds; called once."""
