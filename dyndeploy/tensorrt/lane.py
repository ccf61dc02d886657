"""What one request at a time runs on: a stream, buffers that stay where they are, contexts and their graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from dyndeploy._remembered import Remembered
from dyndeploy.bundle import Arrays
from dyndeploy.cuda import CudaError, Device, Graph, Memory, View
from dyndeploy.errors import DynError
from dyndeploy.tensorrt.arrays import DeviceArray
from dyndeploy.tensorrt.engine import Context, Engine, EngineError, Port, Shape
from dyndeploy.tensorrt.graphs import GraphCache, Statistics

#: Shapes of inputs whose outputs' shapes are remembered.
_SHAPES = 256


@dataclass(frozen=True)
class _Staged:
    """The two buffers of one tensor of a caller on the host, as large as it can become."""

    device: Memory
    pinned: Memory

    def array(self, shape: Shape, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self.pinned.host[:size].view(dtype).reshape(shape)


@dataclass(frozen=True)
class _Call:
    """A request as the engine sees it.

    Attributes:
        shapes, addresses: of all tensors.
        uploads, downloads: the copies before and after: (target, source, bytes).
    """

    shapes: Mapping[str, Shape]
    addresses: Mapping[str, int]
    uploads: tuple[tuple[int, int, int], ...]
    downloads: tuple[tuple[int, int, int], ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What a graph is for: it has shapes and addresses inside."""
        return tuple(self.shapes.items()), tuple(self.addresses.items())


class _Captured:
    """A graph and the context that it was captured from, which runs nothing else."""

    def __init__(self, graph: Graph, context: Context) -> None:
        self.graph, self._context = graph, context

    def close(self) -> None:
        self.graph.close()
        self._context.close()


class Lane:
    """One of the lanes of a session; who has it uses it alone.

    Args:
        engine: what is run.
        device: the GPU, in use in this thread.
        graphs: CUDA graphs that are kept; 0 captures none.

    Attributes:
        statistics: what became of its requests.
    """

    def __init__(self, engine: Engine, device: Device, graphs: int) -> None:
        self._engine, self._device, self.statistics = engine, device, Statistics()
        self._graphs: GraphCache[_Captured] = GraphCache(graphs)
        self._staged: dict[str, _Staged] = {}
        self._shapes: Remembered[tuple[Shape, ...], dict[str, Shape]] = Remembered(_SHAPES)
        self._unwaited = False
        self._closing: list[Callable[[], None]] = []
        try:
            self.stream = device.stream()
            self._closing.append(self.stream.close)
            self._activations = device.allocate(engine.activations, self.stream)
            self._closing.append(self._activations.close)
            self._context = engine.context(self._activations)
        except BaseException:
            self.close()
            raise

    def run(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run on arrays on the host that fit.

        Raises:
            CudaError, EngineError: the device or TensorRT failed; call `reset` before the next request.
        """
        self._wait()
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        outputs = self.output_shapes(shapes)
        staged = {name: self._buffers(port) for name, port in self._ports().items()}
        for name, array in arrays.items():
            np.copyto(staged[name].array(array.shape, array.dtype), array)
        self._launch(self._call({**shapes, **outputs}, {}, staged))
        self._wait()
        ports = self._engine.outputs
        return {name: staged[name].array(shape, ports[name].dtype).copy() for name, shape in outputs.items()}

    def output_shapes(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shapes that inputs of these lead to.

        Raises:
            EngineError: TensorRT refuses them.
        """
        key = tuple(inputs[name] for name in self._engine.inputs)
        if key not in self._shapes:
            self._shapes[key] = self._context.output_shapes(inputs, list(self._engine.outputs))
        return self._shapes[key]

    def run_device(
        self,
        inputs: Mapping[str, np.ndarray[Any, Any] | View],
        outputs: Mapping[str, View],
        stream: int | None,
    ) -> dict[str, DeviceArray]:
        """Run on arrays on the GPU, and host arrays among them, that fit; the outputs that were not given are made.

        Args:
            inputs: per input.
            outputs: where outputs go; any.
            stream: the caller's, in whose order it happens; None waits for the end.

        Returns:
            The outputs that were not given.

        Raises:
            CudaError, EngineError: as `run`.
        """
        on_host = {name: a for name, a in inputs.items() if isinstance(a, np.ndarray)}
        if on_host:
            self._wait()  # what reads the staged inputs of the request before
        shapes = {name: tuple(a.shape) for name, a in inputs.items()}
        shapes |= self.output_shapes(shapes)
        views = {n: a.address for n, a in inputs.items() if isinstance(a, View)} | {
            n: v.address for n, v in outputs.items()
        }
        staged = {name: self._buffers(self._engine.inputs[name]) for name in on_host}
        for name, array in on_host.items():
            np.copyto(staged[name].array(array.shape, array.dtype), array)
        made = {n: self._made(p, shapes[n], stream) for n, p in self._engine.outputs.items() if n not in outputs}
        self._launch(self._call(shapes, views | {n: a.address for n, a in made.items()}, staged))
        if stream is None:
            self._wait()
        else:
            self.stream.hold(stream)
        return made

    def reset(self) -> None:
        """Make it usable after a failure: what may be half-done is waited for or dropped.

        Raises:
            CudaError: the device is lost.
        """
        self._unwaited = True
        self._drop_graphs()
        self._wait()
        self._shapes.clear()
        self._context.close()
        self._context = self._engine.context(self._activations)

    def close(self) -> None:
        """Give back everything; what the device refuses is left to the end of the process."""
        with suppress(CudaError):
            self._wait()
        with suppress(CudaError):
            self._drop_graphs()
        for staged in self._staged.values():
            self._closing += [staged.device.close, staged.pinned.close]
        self._staged.clear()
        if hasattr(self, "_context"):
            self._context.close()
        for close in reversed(self._closing):
            with suppress(CudaError):
                close()
        self._closing.clear()

    def _ports(self) -> dict[str, Port]:
        return {**self._engine.inputs, **self._engine.outputs}

    def _buffers(self, port: Port) -> _Staged:
        """The buffers of a tensor, made for the first caller on the host. They never move: graphs have their places."""
        if port.name not in self._staged:
            size = port.bytes(port.largest)
            device = self._device.allocate(size, self.stream)
            try:
                self._staged[port.name] = _Staged(device, self._device.pinned(size))
            except BaseException:
                device.close()
                raise
        return self._staged[port.name]

    def _made(self, port: Port, shape: Shape, stream: int | None) -> DeviceArray:
        memory = self._device.allocate(port.bytes(shape), self.stream)
        # Whoever reads it does so in the caller's stream, or, if that is unknown, behind the default one.
        memory.free_behind(0 if stream is None else stream)
        return DeviceArray(memory, shape, port.dtype, self._device.index)

    def _call(self, shapes: Mapping[str, Shape], views: Mapping[str, int], staged: Mapping[str, _Staged]) -> _Call:
        ports = self._ports()
        sizes = {name: ports[name].bytes(shapes[name]) for name in staged}
        up = [(b.device.address, b.pinned.address, sizes[n]) for n, b in staged.items() if n in self._engine.inputs]
        down = [(b.pinned.address, b.device.address, sizes[n]) for n, b in staged.items() if n in self._engine.outputs]
        addresses = {name: staged[name].device.address if name in staged else views[name] for name in ports}
        return _Call({n: shapes[n] for n in ports}, addresses, tuple(up), tuple(down))

    def _launch(self, call: _Call) -> None:
        self._unwaited = True
        captured = self._graphs.get(call.key)
        if captured is not None:
            captured.graph.launch()
            self.statistics.replayed += 1
            return
        if not self._graphs.due(call.key):
            self._bind(self._context, call)
            self._enqueue(self._context, call)
            return
        try:
            # A graph has the context's memory and state inside, so that it gets a context that nothing else uses.
            context = self._engine.context(self._activations)
            self._bind(context, call)
        except EngineError as error:
            self._refuse(call, error)
            self._bind(self._context, call)
            self._enqueue(self._context, call)
            return
        self._enqueue(context, call)  # the request itself; TensorRT does here what must not be captured
        self._capture(context, call)

    def _bind(self, context: Context, call: _Call) -> None:
        context.output_shapes({name: call.shapes[name] for name in self._engine.inputs}, list(self._engine.outputs))
        context.bind(call.addresses)

    def _enqueue(self, context: Context, call: _Call) -> None:
        for copy in call.uploads:
            self.stream.copy(*copy)
        context.enqueue(self.stream.handle)
        for copy in call.downloads:
            self.stream.copy(*copy)

    def _capture(self, context: Context, call: _Call) -> None:
        self.stream.synchronize()
        try:
            if not context.capturable(self.stream.handle):
                raise EngineError("TensorRT says that a run of this engine cannot be captured.")
            graph = self.stream.capture(lambda: self._enqueue(context, call))
        except (CudaError, EngineError) as error:
            if isinstance(error, CudaError) and error.sticky:
                raise
            context.close()
            self._refuse(call, error)
            return
        self.statistics.captured += 1
        evicted = self._graphs.put(call.key, _Captured(graph, context))
        if evicted is not None:
            self.statistics.evicted += 1
            evicted.close()

    def _refuse(self, call: _Call, error: DynError) -> None:
        """Requests of this key go on without a graph, and the statistics say why."""
        reason = " ".join(filter(None, (error.what, error.why)))
        self._graphs.refuse(call.key, reason)
        self.statistics.refused[reason] += 1

    def _drop_graphs(self) -> None:
        for captured in self._graphs.clear():
            captured.close()

    def _wait(self) -> None:
        if self._unwaited:
            self.stream.synchronize()
            self._unwaited = False
