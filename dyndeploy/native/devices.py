"""Which library computes on which device, and what a call may use there besides its tensors.

The CPU's calls get threads, those of a GPU a stream and leave to use TF32. All else is the same: kernels.py has it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import warnings
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyndeploy.errors import DynError
from dyndeploy.native import abi, library

#: The lowest compute capability that the CUDA kernels are compiled for.
OLDEST_GPU = (8, 0)
#: What a prepared call depends on beside its tensors and attributes.
Setting = tuple[Any, ...]


class Device(ABC):
    """The library of one kind of device."""

    #: In the names of its functions, dyndeploy_<op>_<kind>_forward.
    kind: str

    @abstractmethod
    def library(self) -> ctypes.CDLL:
        """The loaded library.

        Raises:
            DynError: it is not there, or it does not load.
        """

    def takes(self, tensor: Tensor) -> bool:
        """Whether the kernels run on the very device of this tensor."""
        return True

    @abstractmethod
    def setting(self, tensor: Tensor) -> Setting:
        """What a call with tensors like this one depends on at the moment."""

    @abstractmethod
    def resources(self, setting: Setting) -> Any:
        """The C struct of what a call may use, without the workspace, for a call that begins now."""

    @abstractmethod
    def entered(self, setting: Setting) -> AbstractContextManager[Any]:
        """What a call happens in."""

    @functools.cache  # noqa: B019  # there is one of a kind, for the life of the process
    def loads(self) -> bool:
        """Whether the library can be used; where it cannot, the first answer comes with a warning."""
        try:
            self.library()
        except DynError as error:
            warnings.warn(f"The layers run on their slow references. {error}", RuntimeWarning, stacklevel=2)
            return False
        return True

    @functools.cache  # noqa: B019
    def has(self, folder: str, function: str) -> bool:
        """Whether the library has a function, "forward" or "backward", of the operator in this folder."""
        return self.loads() and hasattr(self.library(), f"dyndeploy_{folder}_{self.kind}_{function}")


class _Cpu(Device):
    """The CPU, with torch's threads."""

    kind = "cpu"

    def library(self) -> ctypes.CDLL:
        return library.load("cpu")

    def setting(self, tensor: Tensor) -> Setting:
        return torch.get_num_threads(), library.changes

    def resources(self, setting: Setting) -> abi.Resources:
        return abi.Resources(ctypes.sizeof(abi.Resources), ctypes.pointer(_threads(setting[0])))

    def entered(self, setting: Setting) -> AbstractContextManager[Any]:
        return nullcontext()


class _Cuda(Device):
    """GPUs of NVIDIA: the kernels run on torch's current stream.

    float32 products may use TF32 where those of `torch.nn.Conv2d` may, torch's default: the layers stand in networks
    between such convolutions, which compute even the offsets. `torch.backends.cudnn.conv.fp32_precision = "ieee"`, or
    `torch.backends.cudnn.allow_tf32 = False`, makes both exact.
    """

    kind = "cuda"

    def library(self) -> ctypes.CDLL:
        return library.load("cuda")

    def takes(self, tensor: Tensor) -> bool:
        return _is_new_enough(tensor.device.index)

    def setting(self, tensor: Tensor) -> Setting:
        return tensor.device.index, _tf32(tensor)

    def resources(self, setting: Setting) -> abi.CudaResources:
        index, tf32 = setting
        stream = torch.cuda.current_stream(index).cuda_stream
        return abi.CudaResources(size=ctypes.sizeof(abi.CudaResources), stream=stream, tf32=tf32)

    def entered(self, setting: Setting) -> AbstractContextManager[Any]:
        """The tensors' device as the current one, which the stream has to belong to."""
        index = setting[0]
        return nullcontext() if index == torch.cuda.current_device() else torch.cuda.device(index)


class _Emulated(Device):
    """The CUDA kernels on the CPU, for tests: device memory is the host's, and there are no streams."""

    kind = "cuda"

    def __init__(self, path: Path) -> None:
        self._path = path

    def library(self) -> ctypes.CDLL:
        return library.load_file(self._path)

    def setting(self, tensor: Tensor) -> Setting:
        return (_tf32(tensor),)

    def resources(self, setting: Setting) -> abi.CudaResources:
        return abi.CudaResources(size=ctypes.sizeof(abi.CudaResources), tf32=setting[0])

    def entered(self, setting: Setting) -> AbstractContextManager[Any]:
        return nullcontext()


_DEVICES: dict[str, Device] = {"cpu": _Cpu(), "cuda": _Cuda()}


def device_of(tensor: Tensor) -> Device | None:
    """What computes with this tensor; None where there are no kernels at all."""
    kind = tensor.device.type
    path = library.emulated() if kind == "cpu" else None
    return _DEVICES.get(kind) if path is None else _emulator(path)


@functools.cache
def _is_new_enough(index: int) -> bool:
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST_GPU:
        warnings.warn(
            f"The layers run on their slow references on {torch.cuda.get_device_name(index)}: the kernels need compute "
            f"capability {'.'.join(map(str, OLDEST_GPU))}, it has {'.'.join(map(str, capability))}.",
            RuntimeWarning,
            stacklevel=2,
        )
    return capability >= OLDEST_GPU


@functools.cache
def _emulator(path: Path) -> Device:
    return _Emulated(path)


def _tf32(tensor: Tensor) -> bool:
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # made by a module that replaces itself
    return tensor.dtype is torch.float32 and conv.fp32_precision == "tf32"


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
