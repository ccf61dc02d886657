"""The compiled kernels, called with torch tensors.

Checking a call and describing its tensors in C takes longer than a small kernel runs. Everything about a call but
the addresses is therefore a `_Call`, made once per combination of shapes, strides, dtype, attributes and setting
(`Device.setting`: threads, or the GPU). On a GPU nothing waits: a call can be captured into a CUDA graph.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dyndeploy.errors import DynError
from dyndeploy.native import abi, library
from dyndeploy.native.devices import Device, Setting, device_of
from dyndeploy.ops._spec import OpSpec

_DTYPES = {torch.float32: abi.FLOAT32, torch.float16: abi.FLOAT16, torch.bfloat16: abi.BFLOAT16}
#: A loop over images of many sizes must not fill the memory with descriptions.
_MOST_CALLS = 4096
#: A query does not follow an address, but sees by NULL that a gradient is not wanted.
_WANTED = 64
#: What is left for a call that the kernels cannot do.
_WITHOUT = "with dyndeploy.native.disabled(): …   (the slow reference)"

#: Operator and kind of device -> the input whose gradient is added up in the order in which the GPU comes to its parts.
_UNORDERED = {("dcnv2", "cuda"): 0}

#: Shape, strides and dtype of a tensor; None for a gradient that is not wanted.
_Signature = tuple[tuple[int, ...], tuple[int, ...], torch.dtype] | None


def available(spec: OpSpec, kind: str, tensor: Tensor) -> bool:
    """Whether a library has the "forward" or the "backward" of an operator, for tensors of this device and dtype."""
    device = device_of(tensor)
    if device is None or tensor.dtype not in _DTYPES or not library.enabled():
        return False
    return device.has(spec.folder, spec.with_variant(kind)) and device.takes(tensor)


def forward(spec: OpSpec, inputs: Sequence[Tensor], values: tuple[Any, ...], output: Tensor) -> None:
    """Compute an operator into `output`.

    Args:
        spec: the operator; `available` says whether a library can.
        inputs: in the order of the spec, of one dtype and device.
        values: attributes in the order of the spec, hashable.
        output: of the right shape, in the layout that is wanted.

    Raises:
        DynError: the library refuses the call.
    """
    inputs = [_readable(t) for t in inputs]
    _run(spec, "forward", len(inputs), (*inputs, output), values)


def backward(
    spec: OpSpec,
    gradient: Tensor,
    inputs: Sequence[Tensor],
    values: tuple[Any, ...],
    gradients: Sequence[Tensor | None],
) -> None:
    """Compute the gradients of an operator's inputs; the ones that are None are not.

    Args:
        spec: the operator; `available` says whether a library can.
        gradient: of the output, before the ReLU.
        inputs, values: as for `forward`.
        gradients: what to write, shaped as the inputs.

    Raises:
        DynError: the library refuses the call; or `torch.use_deterministic_algorithms` asks for the same bits in every
            run, and these kernels do not promise them.
    """
    _check_deterministic(spec, inputs[0], gradients)
    inputs = [_readable(t) for t in inputs]
    _run(spec, "backward", len(inputs), (_readable(gradient), *inputs, *gradients), values)


def _check_deterministic(spec: OpSpec, tensor: Tensor, gradients: Sequence[Tensor | None]) -> None:
    device = device_of(tensor)
    index = _UNORDERED.get((spec.key, device.kind)) if device else None
    if index is None or gradients[index] is None or not torch.are_deterministic_algorithms_enabled():
        return
    error = DynError(
        f"{spec.label}: the gradient of {spec.inputs[index].name} is not the same in every run on a GPU.",
        why="The kernel adds its parts up as they come, and torch.use_deterministic_algorithms asks for one order.",
        fix="torch.use_deterministic_algorithms(True, warn_only=True)",
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise error
    warnings.warn(str(error), stacklevel=2)


def _readable(tensor: Tensor) -> Tensor:
    """The tensor, copied if it is a map with a stride of 1 along neither C nor W."""
    if tensor.dim() < abi.MOST_DIMS or tensor.stride(3) == 1 or tensor.stride(1) == 1:
        return tensor
    return tensor.contiguous()


def _run(spec: OpSpec, kind: str, count: int, tensors: Sequence[Tensor | None], values: tuple[Any, ...]) -> None:
    first = tensors[0]
    assert first is not None
    device = device_of(first)
    assert device is not None
    setting = device.setting(first)
    with device.entered(setting):
        _call(device, spec, kind, count, _signatures(tensors), values, setting)(tensors)


def _signatures(tensors: Sequence[Tensor | None]) -> tuple[_Signature, ...]:
    return tuple(None if t is None else (tuple(t.shape), t.stride(), t.dtype) for t in tensors)


@functools.lru_cache(maxsize=_MOST_CALLS)
def _call(
    device: Device,
    spec: OpSpec,
    kind: str,
    count: int,
    signatures: tuple[_Signature, ...],
    values: tuple[Any, ...],
    setting: Setting,
) -> _Call:
    return _Call(device, spec, kind, count, signatures, values, setting)


class _Call:
    """One call of one function of a library, ready but for the addresses.

    Its arguments are the attributes and groups of tensors: the inputs and the output of `forward`; the gradient, the
    inputs and their gradients of `backward`.
    """

    def __init__(
        self,
        device: Device,
        spec: OpSpec,
        kind: str,
        count: int,
        signatures: tuple[_Signature, ...],
        values: tuple[Any, ...],
        setting: Setting,
    ) -> None:
        self._device, self._setting, self._label = device, setting, spec.label
        stem = f"dyndeploy_{spec.folder}_{device.kind}_{spec.with_variant(kind)}"
        self._library = device.library()
        self._function = getattr(self._library, stem)
        self._attributes = abi.attributes(spec, values)
        self._tensors = _described(signatures)
        self._groups = (0, count) if kind == "forward" else (0, 1, 1 + count)
        needed = ctypes.c_uint64()
        tensors, resources = self._tensors, device.resources(setting)
        query = getattr(self._library, f"{stem}_workspace")
        arguments = (*self._pointers(tensors), ctypes.byref(resources), ctypes.byref(needed))
        self._check(query(ctypes.byref(self._attributes), *arguments))
        self._workspace_bytes = needed.value

    def __call__(self, tensors: Sequence[Tensor | None]) -> None:
        # A copy of its own: several threads may make the same call at once.
        described = type(self._tensors).from_buffer_copy(self._tensors)
        for struct, tensor in zip(described, tensors):
            struct.data = None if tensor is None else tensor.data_ptr()
        # Of the caching allocator of a GPU's current stream: its next user there comes after this call's kernels.
        workspace = torch.empty(self._workspace_bytes, dtype=torch.uint8, device=tensors[0].device)  # type: ignore[union-attr]
        resources = self._device.resources(self._setting)
        resources.workspace, resources.workspace_bytes = workspace.data_ptr(), self._workspace_bytes
        status = self._function(ctypes.byref(self._attributes), *self._pointers(described), ctypes.byref(resources))
        if status:
            self._check(status)

    def _check(self, status: int) -> None:
        fix = _WITHOUT if status == library.UNSUPPORTED else None
        library.check_status(self._label, status, self._library, fix)

    def _pointers(self, tensors: ctypes.Array[abi.Tensor]) -> list[Any]:
        size = ctypes.sizeof(abi.Tensor)
        return [ctypes.byref(tensors, first * size) for first in self._groups]


def _described(signatures: tuple[_Signature, ...]) -> ctypes.Array[abi.Tensor]:
    described = (abi.Tensor * len(signatures))()
    for struct, signature in zip(described, signatures):
        if signature is not None:
            shape, strides, dtype = signature
            struct.extents[: len(shape)], struct.strides[: len(shape)] = shape, strides
            struct.rank, struct.dtype = len(shape), _DTYPES[dtype]
            struct.data = _WANTED
    return described
