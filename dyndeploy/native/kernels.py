"""The CPU kernels, called with torch tensors.

Checking a call and describing its tensors in C takes longer than a small kernel runs. Everything about a call but
the addresses is therefore a `_Call`, made once per combination of shapes, strides, dtype, attributes and threads.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dyndeploy.errors import DynError
from dyndeploy.native import abi, library
from dyndeploy.ops._spec import OpSpec

_DTYPES = {torch.float32: abi.FLOAT32, torch.float16: abi.FLOAT16, torch.bfloat16: abi.BFLOAT16}
#: A loop over images of many sizes must not fill the memory with descriptions.
_MOST_CALLS = 4096
#: A query does not follow an address, but sees by NULL that a gradient is not wanted.
_WANTED = 64

#: Shape, strides and dtype of a tensor; None for a gradient that is not wanted.
_Signature = tuple[tuple[int, ...], tuple[int, ...], torch.dtype] | None


def available(spec: OpSpec, kind: str, tensor: Tensor) -> bool:
    """Whether the library has the "forward" or the "backward" of an operator, for tensors of this device and dtype."""
    return tensor.dtype in _DTYPES and tensor.device.type == "cpu" and library.enabled() and _has(spec, kind)


def forward(spec: OpSpec, inputs: Sequence[Tensor], values: tuple[Any, ...], output: Tensor) -> None:
    """Compute an operator into `output`.

    Args:
        spec: the operator.
        inputs: in the order of the spec, of one dtype.
        values: attributes in the order of the spec, hashable.
        output: of the right shape, in the layout that is wanted.

    Raises:
        DynError: the library refuses the call.
    """
    inputs = [_readable(t) for t in inputs]
    tensors = (*inputs, output)
    _call(spec, "forward", len(inputs), _signatures(tensors), values, _setting())(tensors)


def backward(
    spec: OpSpec,
    gradient: Tensor,
    inputs: Sequence[Tensor],
    values: tuple[Any, ...],
    gradients: Sequence[Tensor | None],
) -> None:
    """Compute the gradients of an operator's inputs; the ones that are None are not.

    Args:
        spec: the operator; `available` says whether the library can.
        gradient: of the output, before the ReLU.
        inputs, values: as for `forward`.
        gradients: what to write, shaped as the inputs.

    Raises:
        DynError: the library refuses the call.
    """
    inputs = [_readable(t) for t in inputs]
    tensors = (_readable(gradient), *inputs, *gradients)
    _call(spec, "backward", len(inputs), _signatures(tensors), values, _setting())(tensors)


@functools.cache
def _has(spec: OpSpec, kind: str) -> bool:
    return _loads() and hasattr(library.load(), f"dyndeploy_{spec.folder}_cpu_{kind}")


@functools.cache
def _loads() -> bool:
    try:
        library.load()
    except DynError as error:
        warnings.warn(f"The layers run on their slow references. {error}", RuntimeWarning, stacklevel=2)
        return False
    return True


def _readable(tensor: Tensor) -> Tensor:
    """The tensor, copied if it is a map with a stride of 1 along neither C nor W."""
    if tensor.dim() < abi.MOST_DIMS or tensor.stride(3) == 1 or tensor.stride(1) == 1:
        return tensor
    return tensor.contiguous()


def _signatures(tensors: Sequence[Tensor | None]) -> tuple[_Signature, ...]:
    return tuple(None if t is None else (tuple(t.shape), t.stride(), t.dtype) for t in tensors)


@functools.lru_cache(maxsize=_MOST_CALLS)
def _call(
    spec: OpSpec,
    kind: str,
    count: int,
    signatures: tuple[_Signature, ...],
    values: tuple[Any, ...],
    setting: tuple[int, int],
) -> _Call:
    return _Call(spec, kind, count, signatures, values, setting[0])


def _setting() -> tuple[int, int]:
    """What the need for workspace depends on beside the call: threads and instruction set."""
    return torch.get_num_threads(), library.changes


class _Call:
    """One call of one function of the library, ready but for the addresses.

    Its arguments are the attributes and groups of tensors: the inputs and the output of `forward`; the gradient, the
    inputs and their gradients of `backward`.
    """

    def __init__(
        self,
        spec: OpSpec,
        kind: str,
        count: int,
        signatures: tuple[_Signature, ...],
        values: tuple[Any, ...],
        lanes: int,
    ) -> None:
        self._label = spec.label
        stem = f"dyndeploy_{spec.folder}_cpu_{kind}"
        self._function = getattr(library.load(), stem)
        self._attributes = abi.attributes(spec, values)
        self._threads = _threads(lanes)
        self._tensors = _described(signatures)
        self._groups = (0, count) if kind == "forward" else (0, 1, 1 + count)
        self._workspace_bytes = 0
        needed = ctypes.c_uint64()
        tensors, resources = self._tensors, self._resources(None)
        query = getattr(library.load(), f"{stem}_workspace")
        arguments = (*self._pointers(tensors), ctypes.byref(resources), ctypes.byref(needed))
        library.check_status(self._label, query(ctypes.byref(self._attributes), *arguments))
        self._workspace_bytes = needed.value

    def __call__(self, tensors: Sequence[Tensor | None]) -> None:
        # A copy of its own: several threads may make the same call at once.
        described = type(self._tensors).from_buffer_copy(self._tensors)
        for struct, tensor in zip(described, tensors):
            struct.data = None if tensor is None else tensor.data_ptr()
        workspace = torch.empty(self._workspace_bytes, dtype=torch.uint8)
        resources = self._resources(workspace)
        status = self._function(ctypes.byref(self._attributes), *self._pointers(described), ctypes.byref(resources))
        if status:
            library.check_status(self._label, status)

    def _pointers(self, tensors: ctypes.Array[abi.Tensor]) -> list[Any]:
        size = ctypes.sizeof(abi.Tensor)
        return [ctypes.byref(tensors, first * size) for first in self._groups]

    def _resources(self, workspace: Tensor | None) -> abi.Resources:
        resources = abi.Resources(ctypes.sizeof(abi.Resources), ctypes.pointer(self._threads))
        if workspace is not None:
            resources.workspace, resources.workspace_bytes = workspace.data_ptr(), self._workspace_bytes
        return resources


def _described(signatures: tuple[_Signature, ...]) -> ctypes.Array[abi.Tensor]:
    described = (abi.Tensor * len(signatures))()
    for struct, signature in zip(described, signatures):
        if signature is not None:
            shape, strides, dtype = signature
            struct.extents[: len(shape)], struct.strides[: len(shape)] = shape, strides
            struct.rank, struct.dtype = len(shape), _DTYPES[dtype]
            struct.data = _WANTED
    return described


@functools.cache
def _threads(lanes: int) -> abi.Threads:
    """torch's own threads where they are OpenMP's: a second team would fight with the first over the cores."""
    threads = abi.Threads()
    parallel = _gomp_parallel()
    if parallel is None:
        library.check_status("own_threads", library.load().dyndeploy_own_threads(lanes, ctypes.byref(threads)))
    else:
        openmp = library.load().dyndeploy_openmp_threads
        library.check_status("openmp_threads", openmp(ctypes.c_void_p(parallel), lanes, ctypes.byref(threads)))
    return threads


@functools.cache
def _gomp_parallel() -> int | None:
    """The address of GOMP_parallel in the OpenMP runtime that torch has loaded."""
    if sys.platform != "linux" or "OpenMP" not in torch.__config__.parallel_info():
        return None
    for name in ("libgomp.so.1", "libomp.so.5", "libiomp5.so"):
        try:
            runtime = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError:
            continue
        return ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p).value
    return None
