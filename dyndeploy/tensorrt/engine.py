"""A loaded engine and its contexts: the calls of the vendor's runtime, with reasons where it only says no."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dyndeploy.cuda import Device, Memory
from dyndeploy.errors import DynError
from dyndeploy.runtimes.base import UnavailableError
from dyndeploy.tensorrt.log import Log
from dyndeploy.tensorrt.vendor import Vendor

#: TensorRT's DataType -> NumPy's dtype; those that NumPy cannot hold are not there.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "INT8": np.dtype(np.int8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
#: What TensorRT asks of addresses of tensors.
ALIGNMENT = 256

Shape = tuple[int, ...]


class EngineError(DynError):
    """TensorRT refused a call, as it logged."""


@dataclass(frozen=True)
class Port:
    """An input or output of an engine.

    Attributes:
        name, dtype: of the tensor.
        shape: -1 where a size may vary.
        largest: the largest shape that the profile allows; of an output, what the largest inputs lead to.
    """

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    largest: Shape

    def bytes(self, shape: Shape) -> int:
        """The size of a tensor of this shape."""
        return int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize


class Context:
    """An execution context. One thread at a time uses it."""

    def __init__(self, handle: Any, log: Log) -> None:
        self._handle, self._log = handle, log

    def output_shapes(self, inputs: Mapping[str, Shape], outputs: list[str]) -> dict[str, Shape]:
        """Set the shapes of the inputs, and infer those of the outputs.

        Raises:
            EngineError: TensorRT refuses a shape, or an output's depends on values.
        """
        with self._reasons("take the shapes of the inputs") as check:
            for name, shape in inputs.items():
                check(self._handle.set_input_shape(name, shape), f"{name} {list(shape)}")
            unknown = self._handle.infer_shapes()
            check(not unknown, f"nothing says the shapes of {', '.join(map(str, unknown or ()))}")
            found = {name: tuple(int(d) for d in self._handle.get_tensor_shape(name)) for name in outputs}
            for name, shape in found.items():
                check(min(shape, default=0) >= 0, f"the shape of {name} depends on values: {list(shape)}")
        return found

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Where the tensors lie.

        Raises:
            EngineError: TensorRT refuses an address.
        """
        with self._reasons("take the address of a tensor") as check:
            for name, address in addresses.items():
                check(self._handle.set_tensor_address(name, address), name)

    def enqueue(self, stream: int) -> None:
        """Queue a run.

        Raises:
            EngineError: TensorRT cannot.
        """
        with self._reasons("run") as check:
            check(self._handle.execute_async_v3(stream), None)

    def capturable(self, stream: int) -> bool:
        """Whether a run may be captured, where the vendor has an answer; otherwise it is tried."""
        ask = getattr(self._handle, "is_stream_capturable", None)
        return ask is None or bool(ask(stream))

    def close(self) -> None:
        """Let the context go."""
        self._handle = None

    @contextmanager
    def _reasons(self, what: str) -> Iterator[Any]:
        with self._log.listening() as lines:

            def check(ok: object, detail: str | None) -> None:
                if not ok:
                    why = "; ".join(filter(None, (detail, *lines))) or "It logged nothing."
                    raise EngineError(f"TensorRT does not {what}.", why=why)

            yield check


class Engine:
    """A loaded engine.

    Attributes:
        inputs, outputs: its tensors, by name.
        activations: bytes of device memory that one run at a time needs.
    """

    def __init__(self, vendor: Vendor, runtime: Any, handle: Any, kernels: Path | None = None) -> None:
        self._module, self._runtime, self._handle = vendor.module, runtime, handle
        self._log = Log.of(vendor.module)
        self._kernels = kernels
        self._config = self._runtime_config()
        self.activations = int(handle.device_memory_size_v2)
        names = [str(handle.get_tensor_name(i)) for i in range(handle.num_io_tensors)]
        reads = {n: handle.get_tensor_mode(n) == self._module.TensorIOMode.INPUT for n in names}
        for name in names:
            if handle.get_tensor_location(name) != self._module.TensorLocation.DEVICE:
                raise DynError(f"The engine wants {name} in the memory of the host.", why="It is a tensor of shapes.")
            if handle.get_tensor_format(name) != self._module.TensorFormat.LINEAR:
                raise DynError(f"{name} of the engine is not linear: {handle.get_tensor_format_desc(name)}.")
        self.inputs = {n: self._port(n, self._profile(n)) for n in names if reads[n]}
        outputs = [n for n in names if not reads[n]]
        probe = self._context()
        largest = probe.output_shapes({n: p.largest for n, p in self.inputs.items()}, outputs)
        probe.close()
        self.outputs = {n: self._port(n, largest[n]) for n in outputs}

    @classmethod
    def load(
        cls,
        vendor: Vendor,
        content: bytes,
        device: Device,
        *,
        host_code: bool,
        rebuild: str,
        kernels: Path | None = None,
    ) -> Engine:
        """Load an engine.

        Args:
            vendor: the package that built it.
            content: the engine.
            device: the GPU, which is in use in this thread.
            host_code: plugins are inside the engine and may run.
            rebuild: the command that builds it again.
            kernels: the file in which TensorRT for RTX finds what it compiled before, and leaves it.

        Raises:
            UnavailableError: the driver is too old.
            DynError: the vendor's runtime refuses it.
        """
        log = Log.of(vendor.module)
        with log.listening() as lines:
            handle = diagnosis = None
            runtime = vendor.module.Runtime(log.logger)
            if lines:  # TensorRT 11 gives out something that must not be touched, not even deleted
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))
            else:
                runtime.engine_host_code_allowed = host_code
                diagnosis = _diagnosis(vendor.module, runtime, content)
                handle = None if diagnosis else runtime.deserialize_cuda_engine(content)
        if handle is not None:
            return cls(vendor, runtime, handle, kernels)
        said = "; ".join(filter(None, (diagnosis, *dict.fromkeys(lines)))) or "It logged nothing."
        if "cudaError 35" in said or "error: 35" in said or "OLD_CUDA" in said:  # the driver is older than the runtime
            raise UnavailableError(
                f"The driver is too old for {vendor.target.title} {vendor.version}.",
                why=f"It serves CUDA up to {device.driver}. {said}",
                fix="Install a newer NVIDIA driver.",
            )
        raise DynError(f"{vendor.target.title} {vendor.version} does not load the engine.", why=said, fix=rebuild)

    def context(self, memory: Memory) -> Context:
        """A new context that computes in `memory`, which holds `activations` bytes.

        Raises:
            EngineError: TensorRT cannot make one.
        """
        return self._context(memory)

    def close(self) -> None:
        """Let the engine go, and then its runtime; what was compiled is kept for the next time."""
        self._keep_kernels()
        self._config = self._handle = None
        self._runtime = None

    def _context(self, memory: Memory | None = None) -> Context:
        with self._log.listening() as lines:
            handle = self._handle.create_execution_context(self._config or self._strategy())
            if handle is None:
                raise EngineError("TensorRT does not make a context.", why="; ".join(lines) or "It logged nothing.")
            if memory is not None:
                handle.set_device_memory(memory.address, memory.size)
        return Context(handle, self._log)

    def _strategy(self) -> Any:
        return self._module.ExecutionContextAllocationStrategy.USER_MANAGED

    def _runtime_config(self) -> Any:
        """Of TensorRT for RTX, which compiles kernels when shapes come.

        Kernels for the shapes of a request are compiled at once, so that a graph captured after one run has them; and
        contexts share what was compiled.
        """
        strategies = getattr(self._module, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return None
        config = self._handle.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._strategy())
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        cache = config.create_runtime_cache()
        with suppress(OSError):  # there is none yet; one of another version or GPU is not taken, and replaced
            if self._kernels is not None:
                cache.deserialize(self._kernels.read_bytes())
        config.set_runtime_cache(cache)
        return config

    def _keep_kernels(self) -> None:
        if self._config is None or self._kernels is None:
            return
        content = bytes(self._config.get_runtime_cache().serialize())
        try:
            self._kernels.parent.mkdir(parents=True, exist_ok=True)
            if not self._kernels.is_file() or self._kernels.read_bytes() != content:
                scratch = self._kernels.with_suffix(f".{os.getpid()}")
                scratch.write_bytes(content)
                scratch.replace(self._kernels)
        except OSError as error:
            warnings.warn(f"Compiled kernels are not kept for the next time: {error}", stacklevel=2)

    def _port(self, name: str, largest: Shape) -> Port:
        kind = self._handle.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise DynError(f"{name} of the engine is {kind}, which no session can take or give.")
        return Port(name, DTYPES[kind], tuple(int(d) for d in self._handle.get_tensor_shape(name)), largest)

    def _profile(self, name: str) -> Shape:
        fixed = tuple(int(d) for d in self._handle.get_tensor_shape(name))
        if -1 not in fixed:
            return fixed
        _, _, largest = self._handle.get_tensor_profile_shape(name, 0)
        return tuple(int(d) for d in largest)


def _diagnosis(module: Any, runtime: Any, content: bytes) -> str | None:
    """What makes an engine invalid here, as far as the vendor tells before loading; None where nothing does."""
    ask = getattr(runtime, "get_engine_validity", None)
    if ask is None:
        return None
    validity, bits = ask(content)
    if validity != module.EngineValidity.INVALID:
        return None
    flags = module.EngineInvalidityDiagnostics.__members__
    return (
        ", ".join(name for name, flag in flags.items() if int(bits) & int(flag.value)) or "It calls the engine invalid"
    )
