"""What a request declares, checked against the model before any of its data is touched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dyndeploy.serving.errors import RequestError, UnsupportedError
from dyndeploy.serving.protocol.datatypes import dtype_of
from dyndeploy.tensors import Dim, TensorSpec, check_arrays

_LARGEST_EXTENT = 2**31
_MOST_DIMS = 32


@dataclass(frozen=True)
class Declared:
    """A tensor as the request announces it.

    Attributes:
        name: of the tensor.
        dtype: NumPy's.
        shape: its extents.
        count: number of elements.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    count: int

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return self.count * self.dtype.itemsize


def declare(name: object, datatype: object, shape: object) -> Declared:
    """A tensor from the three fields that both protocols have.

    Raises:
        RequestError: a field is missing or is of the wrong kind.
    """
    if not isinstance(name, str) or not name:
        raise RequestError("An input has no name.", fix='{"name": …, "datatype": …, "shape": […]}')
    if not isinstance(shape, Sequence) or isinstance(shape, (str, bytes)) or len(shape) > _MOST_DIMS:
        raise RequestError(f"The shape of {_quoted(name)} is not a list of sizes.")
    for size in shape:
        if type(size) is not int or not 0 <= size < _LARGEST_EXTENT:
            raise RequestError(f"The shape of {_quoted(name)} has {str(size)[:40]!r}, which is not a size.")
    return Declared(name, dtype_of(datatype), tuple(shape), math.prod(shape))


def check_declared(tensors: Sequence[Declared], specs: Sequence[TensorSpec], dims: Mapping[str, Dim]) -> dict[str, int]:
    """The size of every dim, when the tensors are those that the model takes.

    Raises:
        DynError: names, dtypes, ranks or sizes do not fit.
    """
    named = {tensor.name: tensor for tensor in tensors}
    if len(named) != len(tensors):
        raise RequestError("An input is given twice.")
    unknown = next((name for name in named if all(name != spec.name for spec in specs)), None)
    if unknown is not None:  # before it is quoted in full
        raise RequestError(f"The model has no input {_quoted(unknown)}.", fix=f"Inputs: {'; '.join(map(str, specs))}.")
    return check_arrays(named, specs, dims)


def wanted_outputs(names: Sequence[object], specs: Sequence[TensorSpec]) -> list[str]:
    """The outputs asked for, or all of them where none are.

    Raises:
        RequestError: there is no such output, or it is asked for twice.
    """
    known = [spec.name for spec in specs]
    if not names:
        return known
    wanted: list[str] = []
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise RequestError(f"The model has no output {_quoted(name)}.", fix=f"one of {', '.join(known)}")
        if name in wanted:
            raise RequestError(f"The output {name} is asked for twice.")
        wanted.append(name)
    return wanted


def raw_array(data: bytes | bytearray, at: int, tensor: Declared) -> np.ndarray[Any, Any]:
    """The array that a tensor's bytes are; a view of them, where they lie as its dtype wants.

    Args:
        data: has all of them.
        at: where they begin.
        tensor: what was announced.

    Raises:
        RequestError: it is BOOL, and a byte is neither 0 nor 1.
    """
    array: np.ndarray[Any, Any]
    if tensor.dtype == np.bool_:
        array = np.frombuffer(data, np.uint8, tensor.count, at)
        if tensor.count and array.max() > 1:
            raise RequestError(f"{tensor.name} is BOOL, and has bytes other than 0 and 1.")
        return array.view(np.bool_).reshape(tensor.shape)
    array = np.frombuffer(data, tensor.dtype, tensor.count, at)
    if not array.flags.aligned:  # a kernel may count on it
        array = array.copy()
    return array.reshape(tensor.shape)


_REFUSED = {
    "shared_memory_region": "Shared memory is not supported.",
    "classification": "The classification extension is not supported.",
    "sequence_id": "Sequences are not supported: every request stands alone.",
    "sequence_start": "Sequences are not supported: every request stands alone.",
    "sequence_end": "Sequences are not supported: every request stands alone.",
}


def refuse_extensions(parameters: Mapping[str, object]) -> None:
    """Raise where a parameter asks for what would otherwise be silently left out.

    Raises:
        UnsupportedError: it does.
    """
    for name, what in _REFUSED.items():
        if parameters.get(name):
            raise UnsupportedError(what, fix=f"Leave the parameter {name} out.")


def seconds_of(timeout: object) -> float | None:
    """The parameter `timeout`, in microseconds, as seconds; 0 and None are no limit.

    Raises:
        RequestError: it is not a whole number that is not negative.
    """
    if timeout is None:
        return None
    if type(timeout) is not int or timeout < 0:
        raise RequestError(f"timeout={str(timeout)[:40]!r} is not a number of microseconds.")
    return min(timeout, 10**15) / 1e6 or None


def _quoted(name: object) -> str:
    return repr(str(name)[:80])
