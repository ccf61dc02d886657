"""A GPU that is host memory. Streams queue, and run only when somebody waits: what is read too early is not there yet.

Every call of the driver is counted, and one of them can be made to fail.
"""

import ctypes
import itertools
import weakref

import numpy as np

from dyndeploy.cuda import STICKY, CudaError, View

POISON = 0xA5
ALIGN = 256


class Fate:
    """Counts the calls of driver and vendor; one of them, by number or the next of a name, fails with `code`.

    Attributes:
        names: what was called.
        failed: the call that failed.
    """

    def __init__(self):
        self.names, self.failing, self.code, self.failed = [], None, "CUDA_ERROR_OUT_OF_MEMORY", None
        self.lost = False

    def meets(self, name):
        """Whether this call fails."""
        self.names.append(name)
        if self.failing in (name, len(self.names) - 1):
            self.failed, self.failing = name, None
            return True
        return False

    def driver(self, name):
        """A call of the driver; a sticky error stays."""
        if self.lost or self.meets(name):
            self.lost = self.lost or self.code in STICKY
            raise CudaError(name, f"{self.code}: as the test says")


class Block:
    """Bytes, filled with poison before their life and after it."""

    def __init__(self, size, pinned):
        self.size, self.pinned = size, pinned
        self._bytes = np.full(size + ALIGN, POISON, np.uint8)
        offset = -self._bytes.ctypes.data % ALIGN
        self.bytes = self._bytes[offset : offset + size]
        self.address = self.bytes.ctypes.data

    def __del__(self):
        self._bytes[:] = POISON


class Memory:
    """A block that ends with this object, or behind the work of a stream."""

    def __init__(self, device, size, pinned):
        self.device, self.size, self.behind = device, size, None
        self.block = Block(size, pinned)
        self.address = self.block.address
        device.blocks[self.address] = self.block

    @property
    def host(self):
        assert self.block.pinned
        return self.block.bytes

    def exported(self, shape, dtype):
        return self.block.bytes[: int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape)

    def free_behind(self, stream):
        self.behind = stream

    def close(self):
        self.device.fate.driver("free")
        self._end()

    def _end(self):
        block, self.block = self.block, None
        if self.behind in self.device.streams:
            self.device.streams[self.behind].push(lambda: block)

    def __del__(self):
        self._end()


class Stream:
    """A queue; `drain` runs it."""

    def __init__(self, device):
        self.device, self.handle = device, next(device.handles)
        self.queue, self.done, self.recording = [], 0, None
        device.streams[self.handle] = self

    def push(self, work):
        """Queue work, or record it."""
        (self.queue if self.recording is None else self.recording).append(work)

    def drain(self, until=None):
        """Run what is queued, up to a place in the queue."""
        while self.done < (len(self.queue) if until is None else until):
            work, self.queue[self.done] = self.queue[self.done], None
            self.done += 1
            work()

    def copy(self, target, source, size):
        self.device.fate.driver("copy")
        self.push(lambda: self.device.move(target, source, size))

    def wait_for(self, stream):
        self.device.fate.driver("wait for a stream")
        other = self.device.streams[stream]
        until = len(other.queue)
        self.push(lambda: other.drain(until))

    def hold(self, stream):
        self.device.fate.driver("hold a stream")
        until = len(self.queue)
        self.device.streams[stream].push(lambda: self.drain(until))

    def capture(self, work):
        self.device.fate.driver("begin capture")
        self.recording = []
        try:
            work()
            self.device.fate.driver("end capture")
            return Graph(self, self.recording)
        finally:
            self.recording = None

    def synchronize(self):
        self.device.fate.driver("synchronize")
        assert self.recording is None
        self.drain()

    def close(self):
        self.device.fate.driver("destroy stream")
        del self.device.streams[self.handle]


class Graph:
    """What was recorded."""

    def __init__(self, stream, works):
        self.stream, self.works, self.closed = stream, works, False
        stream.device.graphs.add(self)

    def launch(self):
        assert not self.closed
        self.stream.device.fate.driver("launch")
        for work in self.works:
            self.stream.push(work)

    def close(self):
        self.stream.device.fate.driver("destroy graph")
        self.closed = True
        self.stream.device.graphs.discard(self)


class Device:
    """The GPU; what is alive on it is in `blocks`, `streams` and `graphs`."""

    def __init__(self, fate=None, index=0, name="Fake GPU", compute_capability=(8, 9), driver="13.0"):
        self.fate = fate or Fate()
        self.index, self.name, self.compute_capability, self.driver = index, name, compute_capability, driver
        self.blocks = weakref.WeakValueDictionary()  # as in cuda.core, a block that nobody has ends
        self.streams, self.graphs = {}, set()
        self.handles = itertools.count(0x1000)

    def activate(self):
        self.fate.driver("activate")

    def stream(self):
        self.fate.driver("create stream")
        return Stream(self)

    def allocate(self, size, stream):
        self.fate.driver("allocate")
        assert stream.handle in self.streams
        return Memory(self, max(size, 1), pinned=False)

    def pinned(self, size):
        self.fate.driver("allocate pinned")
        return Memory(self, max(size, 1), pinned=True)

    def view(self, array, stream):
        interface = array.__cuda_array_interface__
        dtype = np.dtype(interface["typestr"])
        strides = interface["strides"]
        return View(
            interface["data"][0],
            tuple(interface["shape"]),
            dtype,
            tuple(s // dtype.itemsize for s in strides) if strides else None,
            getattr(array, "device", self.index),
            interface["data"][1],
            array,
        )

    def array(self, values):
        """An array of somebody else's on this GPU, with these values."""
        memory = Memory(self, max(values.nbytes, 1), pinned=False)
        memory.exported(values.shape, values.dtype)[...] = values
        return Array(memory, values.shape, values.dtype)

    def move(self, target, source, size):
        """A copy, on real addresses."""
        ctypes.memmove(self.at(target, size), self.at(source, size), size)

    def at(self, address, size):
        """The address, if so many bytes from it on are alive."""
        for start, block in list(self.blocks.items()):
            if start <= address and address + size <= start + block.size:
                return address
        raise CudaError("access memory", "CUDA_ERROR_ILLEGAL_ADDRESS: nothing alive is there")

    def values(self, address, shape, dtype):
        """What lies there, to be read and written."""
        size = int(np.prod(shape)) * dtype.itemsize
        raw = (ctypes.c_uint8 * size).from_address(self.at(address, size))
        return np.frombuffer(raw, dtype).reshape(shape)


class Array:
    """An array of somebody else's."""

    def __init__(self, memory, shape, dtype, *, offset=0, strides=None, readonly=False):
        self.memory, self.shape, self.dtype = memory, tuple(shape), np.dtype(dtype)
        self.__cuda_array_interface__ = {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (memory.address + offset, readonly),
            "strides": strides,
            "version": 3,
        }

    def numpy(self):
        return self.memory.exported(self.shape, self.dtype).copy()
