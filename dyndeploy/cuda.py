"""The few calls of the CUDA driver that sessions make, over cuda-python, behind protocols: tests bring another device.

Addresses and stream handles are ints, sizes are bytes. Everything raises `CudaError` where the driver refuses.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dyndeploy.errors import DynError, MissingPackageError
from dyndeploy.runtimes.base import UnavailableError

#: Errors after which every later call of this process on the same GPU fails as well.
STICKY = frozenset(
    {
        "CUDA_ERROR_ASSERT",
        "CUDA_ERROR_CONTAINED",
        "CUDA_ERROR_CONTEXT_IS_DESTROYED",
        "CUDA_ERROR_DEINITIALIZED",
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "CUDA_ERROR_EXTERNAL_DEVICE",
        "CUDA_ERROR_HARDWARE_STACK_ERROR",
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        "CUDA_ERROR_INVALID_ADDRESS_SPACE",
        "CUDA_ERROR_INVALID_PC",
        "CUDA_ERROR_LAUNCH_FAILED",
        "CUDA_ERROR_LAUNCH_TIMEOUT",
        "CUDA_ERROR_MISALIGNED_ADDRESS",
        "CUDA_ERROR_MPS_CLIENT_TERMINATED",
        "CUDA_ERROR_NVLINK_UNCORRECTABLE",
        "CUDA_ERROR_TENSOR_MEMORY_LEAK",
        "CUDA_ERROR_UNKNOWN",
    }
)
_ON_HOST = "It is in the memory of the host."
_DL_CPU, _DL_BFLOAT = 1, 4  # DLPack's, of devices and of types
_CODE = re.compile(r"CUDA_ERROR_\w+")
#: The default stream of old: waits for all others, but those that were made not to be waited for.
LEGACY_STREAM = 1
#: Handles that are no objects.
_LEGACY, _PER_THREAD = (0, LEGACY_STREAM), 2


class CudaError(DynError):
    """The driver refused a call.

    Attributes:
        code: its name for the reason ("CUDA_ERROR_OUT_OF_MEMORY"); empty where it gave none.
    """

    def __init__(self, call: str, reason: str) -> None:
        found = _CODE.search(reason)
        self.code = found[0] if found else ""
        super().__init__(f"CUDA failed to {call}.", why=reason)

    @property
    def sticky(self) -> bool:
        """Whether nothing runs in this process on this GPU any more."""
        return self.code in STICKY


class Memory(Protocol):
    """A block of memory."""

    address: int
    size: int

    @property
    def host(self) -> np.ndarray[Any, Any]:
        """Pinned memory as uint8 [size]."""

    def exported(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """An object that gives the memory out by DLPack."""

    def free_behind(self, stream: int) -> None:
        """It ends only when what is queued in this stream then is done."""

    def close(self) -> None:
        """Free it."""


class Graph(Protocol):
    """Captured work."""

    def launch(self) -> None:
        """Queue it in the stream that it was captured in."""

    def close(self) -> None:
        """Destroy it."""


class Stream(Protocol):
    """A queue of work on the GPU."""

    handle: int

    def copy(self, target: int, source: int, size: int) -> None:
        """Queue a copy between any two of pinned and device memory."""

    def wait_for(self, stream: int) -> None:
        """What comes next waits for what is queued in another stream now."""

    def hold(self, stream: int) -> None:
        """What comes next in another stream waits for what is queued in this one now."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """What `work` queues becomes a graph instead; nothing of it runs."""

    def synchronize(self) -> None:
        """Wait until all of it is done."""

    def close(self) -> None:
        """Destroy it."""


@dataclass(frozen=True)
class View:
    """An array of somebody else's on the GPU: `strides` count elements, None is C order; `owner` keeps it alive."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...] | None = None
    device: int = 0
    readonly: bool = False
    owner: Any = None


class Device(Protocol):
    """A GPU."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    driver: str  # the newest CUDA that its driver serves ("13.0")

    def activate(self) -> None:
        """The calls of this thread are for this GPU."""

    def stream(self) -> Stream:
        """A new stream."""

    def allocate(self, size: int, stream: Stream) -> Memory:
        """Memory of the GPU, for use in this stream."""

    def pinned(self, size: int) -> Memory:
        """Memory of the host that the GPU reads and writes."""

    def view(self, array: Any, stream: Stream) -> View:
        """An array on the GPU; the stream waits for what makes it.

        Raises:
            Exception: it is none, with the reason.
        """


def open_device(index: int = 0, *, extra: str = "tensorrt") -> Device:
    """The GPU of this index.

    Args:
        index: of the GPU, among those that this process sees.
        extra: of dyndeploy, that installs what this needs.

    Raises:
        MissingPackageError: cuda-python is not installed.
        UnavailableError: there is no driver or no GPU.
        DynError: there are GPUs, but none of this index.
    """
    try:
        import cuda.core
    except ModuleNotFoundError as error:
        raise MissingPackageError("cuda-core", "Running an engine", extra) from error
    try:
        count = len(cuda.core.Device.get_all_devices())
    except Exception as error:  # cuda-python has an error for each reason
        found = _CODE.search(str(error))
        raise UnavailableError(
            "There is no GPU here." if found and "NO_DEVICE" in found[0] else "There is no usable CUDA driver here.",
            why=str(error),
            fix="Run on a machine with an NVIDIA GPU; nvidia-smi shows its driver.",
        ) from error
    if not count:
        raise UnavailableError("There is no GPU here.", fix="Run on a machine with an NVIDIA GPU.")
    if not 0 <= index < count:
        raise DynError(f"There is no GPU {index}.", fix=f"device=0{f' to {count - 1}' if count > 1 else ''}")
    return _Device(index)


@contextmanager
def _calling(call: str) -> Iterator[None]:
    try:
        yield
    except DynError:
        raise
    except Exception as error:
        raise CudaError(call, str(error)) from error


def _foreign(handle: int) -> Any:
    from cuda import core

    if handle in _LEGACY:
        return core.LEGACY_DEFAULT_STREAM
    return core.PER_THREAD_DEFAULT_STREAM if handle == _PER_THREAD else core.Stream.from_handle(handle)


class _Memory:
    def __init__(self, buffer: Any) -> None:
        self._buffer, self.address, self.size = buffer, int(buffer.handle), int(buffer.size)

    @property
    def host(self) -> np.ndarray[Any, Any]:
        return np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self.address))

    def exported(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        from cuda.core.utils import StridedMemoryView

        if dtype.name != "bfloat16":
            return StridedMemoryView.from_buffer(self._buffer, shape, dtype=dtype)
        return _Bfloat16(StridedMemoryView.from_buffer(self._buffer, shape, dtype=np.dtype(np.uint16)))

    def free_behind(self, stream: int) -> None:
        self._buffer.set_deallocation_stream(_foreign(stream))

    def close(self) -> None:
        with _calling("free memory"):
            self._buffer.close()


class _Bfloat16:
    """Gives out an array of uint16 as one of bfloat16, which cuda-python takes in and does not give out."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self._array.__dlpack__(**options)
        api = ctypes.pythonapi
        api.PyCapsule_GetPointer.restype = ctypes.c_void_p
        api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        api.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]
        for name, header in ((b"dltensor", 0), (b"dltensor_versioned", 32)):
            if api.PyCapsule_IsValid(capsule, name):  # behind the address, the device and the rank
                ctypes.c_uint8.from_address(api.PyCapsule_GetPointer(capsule, name) + header + 20).value = _DL_BFLOAT
        return capsule


class _Graph:
    def __init__(self, graph: Any, stream: Any) -> None:
        self._graph, self._stream = graph, stream

    def launch(self) -> None:
        with _calling("launch a graph"):
            self._graph.launch(self._stream)

    def close(self) -> None:
        with _calling("destroy a graph"):
            self._graph.close()


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream, self.handle = stream, int(stream.handle)

    def copy(self, target: int, source: int, size: int) -> None:
        from cuda.bindings import driver

        if size:
            (status,) = driver.cuMemcpyAsync(target, source, size, self.handle)
            if status != driver.CUresult.CUDA_SUCCESS:
                raise CudaError("copy", status.name)

    def wait_for(self, stream: int) -> None:
        with _calling("order streams"):
            self._stream.wait(_foreign(stream))

    def hold(self, stream: int) -> None:
        with _calling("order streams"):
            _foreign(stream).wait(self._stream)

    def capture(self, work: Callable[[], None]) -> Graph:
        with _calling("capture a graph"):
            builder = self._stream.create_graph_builder()
            try:
                # Other threads may allocate while this one captures; what this one must not do fails and is told.
                builder.begin_building("thread_local")
                try:
                    work()
                except BaseException:
                    with suppress(Exception):  # a capture that failed; the stream must not go on recording
                        builder.end_building()
                    raise
                builder.end_building()
                graph = builder.complete()
                graph.upload(self._stream)
            finally:
                builder.close()
        return _Graph(graph, self._stream)

    def synchronize(self) -> None:
        with _calling("run"):
            self._stream.sync()

    def close(self) -> None:
        with _calling("destroy a stream"):
            self._stream.close()


class _Device:
    def __init__(self, index: int) -> None:
        from cuda import core
        from cuda.bindings import driver

        self.index = index
        with _calling(f"open GPU {index}"):
            self.activate()
            device = core.Device(index)
            self.name = str(device.name)
            self.compute_capability = (int(device.compute_capability[0]), int(device.compute_capability[1]))
            _, version = driver.cuDriverGetVersion()
            self.driver = f"{version // 1000}.{version % 1000 // 10}"

    def activate(self) -> None:
        from cuda import core

        with _calling(f"use GPU {self.index}"):
            core.Device(self.index).set_current()

    def stream(self) -> Stream:
        from cuda import core

        with _calling("create a stream"):
            return _Stream(core.Device(self.index).create_stream())

    def allocate(self, size: int, stream: Stream) -> Memory:
        from cuda import core

        with _calling(f"allocate {size} bytes on GPU {self.index}"):
            return _Memory(core.Device(self.index).allocate(max(size, 1), stream=_foreign(stream.handle)))

    def pinned(self, size: int) -> Memory:
        from cuda import core

        with _calling(f"allocate {size} bytes of pinned memory"):
            return _Memory(core.LegacyPinnedMemoryResource().allocate(max(size, 1)))

    def view(self, array: Any, stream: Stream) -> View:
        from cuda.core.utils import StridedMemoryView

        where = getattr(array, "__dlpack_device__", None)
        if where is not None and where()[0] == _DL_CPU:
            raise BufferError(_ON_HOST)
        found = StridedMemoryView.from_any_interface(array, stream_ptr=stream.handle)
        if not found.is_device_accessible:
            raise BufferError(_ON_HOST)
        if found.dtype is None:
            raise BufferError("It has no dtype that NumPy knows.")
        return View(
            found.ptr, tuple(found.shape), found.dtype, found.strides, found.device_id, bool(found.readonly), found
        )
