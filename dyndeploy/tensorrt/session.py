"""The session of both vendors: requests that fit go to a lane, and what fails there says which one it was."""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from dyndeploy import cuda
from dyndeploy.bundle import Arrays, Bundle
from dyndeploy.cuda import CudaError, View
from dyndeploy.errors import DynError, MissingPackageError
from dyndeploy.runtimes.base import BaseSession, UnavailableError
from dyndeploy.tensorrt import fit, vendor
from dyndeploy.tensorrt.arrays import check_view
from dyndeploy.tensorrt.cache import kernel_cache
from dyndeploy.tensorrt.engine import Engine, EngineError
from dyndeploy.tensorrt.graphs import Statistics
from dyndeploy.tensorrt.lane import Lane
from dyndeploy.tensorrt.record import RECORD, EngineRecord, engine_folder, find
from dyndeploy.tensors import TensorSpec, check_arrays, seeded_arrays


class EngineSession(BaseSession):
    """Runs the engine of a bundle on a GPU.

    Requests may come from several threads: as many as there are lanes (`contexts`) run at once, others wait. A request
    that fails leaves the session usable, unless CUDA lost the GPU for this process: then it is dead and says so.

    Attributes:
        runtime: the target of its engines.
        record: what the bundle knows of the engine.
    """

    def __init__(
        self, bundle: Bundle, record: EngineRecord, engine: Engine, device: cuda.Device, contexts: int, graphs: int
    ) -> None:
        dtypes = {t.name: t.dtype for t in record.tensors}
        inputs, outputs = (
            [spec.model_copy(update={"dtype": dtypes[spec.name]}) for spec in side]
            for side in (bundle.manifest.inputs, bundle.manifest.outputs)
        )
        super().__init__(inputs, outputs, record.dims)
        self.record = record
        self._wider = bundle.manifest.dims if bundle.manifest.dims != record.dims else None
        self._all_sizes = fit.rebuild(bundle, record, dims=False)
        self._engine, self._device = engine, device
        self._numbers = itertools.count(1)
        self._state = threading.Condition()
        self._requests = self._failed = 0
        self._dead: str | None = None
        self._lanes: list[Lane] = []
        try:
            for _ in range(contexts):
                self._lanes.append(Lane(engine, device, graphs))
        except BaseException:
            for lane in self._lanes:
                lane.close()
            raise
        self._free = list(self._lanes)

    @classmethod
    def open_engine(cls, source: object, device: int, contexts: int, graphs: int) -> EngineSession:
        """Open the engine of a bundle; the arguments are those of the runtimes' `open`."""
        for name, value, least in (("device", device, 0), ("contexts", contexts, 1), ("graphs", graphs, 0)):
            if not isinstance(value, int) or value < least:
                raise DynError(f"{name}={value!r}.", fix=f"{name} is an integer from {least} on")
        target = vendor.target_of(cls.runtime)
        if not isinstance(source, Bundle):
            raise DynError(
                f"The runtime {cls.runtime!r} cannot open an ONNX file.",
                why=f"{target.title} runs engines, and these are built from bundles.",
                fix=f"dyndeploy build BUNDLE --target {cls.runtime}, and give the bundle's folder",
            )
        package = _package(target)
        record = _record(source, cls.runtime)
        fit.check_runtime(source, record, package)
        _check_tensors(source, record)
        content = fit.read_engine(source, record)
        plugins = None
        if record.plugin_sha256 is not None and not record.plugins_embedded:
            plugins = fit.plugin_library(source, record)
        gpu = cuda.open_device(device, extra=target.extra)
        remark = fit.check_gpu(source, record, package, gpu)
        if remark:
            warnings.warn(remark, stacklevel=4)
        if plugins is not None:
            package.load_plugins(plugins)
        again = fit.rebuild(source, record)
        engine = Engine.load(
            package,
            content,
            gpu,
            host_code=record.plugins_embedded,
            rebuild=again,
            kernels=kernel_cache(record.runtime, gpu.name, record.sha256),
        )
        try:
            _check_ports(source, record, engine)
            return cls(source, record, engine, gpu, contexts, graphs)
        except BaseException:
            engine.close()
            raise

    def run_device(
        self, arrays: Mapping[str, Any], *, outputs: Mapping[str, Any] | None = None, stream: Any = None
    ) -> dict[str, Any]:
        """See `DeviceSession.run_device`."""
        self._check_open()
        handle = None if stream is None else _handle(stream)
        given = dict(outputs or {})
        _check_names(given, self.outputs)
        if not isinstance(arrays, Mapping):
            self._check(arrays)  # says so
        with self._request(arrays) as lane:
            if handle is not None:
                lane.stream.wait_for(handle)
            inputs = {n: a if isinstance(a, np.ndarray) else self._view("Input", n, a, lane) for n, a in arrays.items()}
            self._check(inputs)
            views = {n: self._view("Output", n, a, lane) for n, a in given.items()}
            self._check_outputs(views, lane.output_shapes({n: tuple(a.shape) for n, a in inputs.items()}))
            made = lane.run_device(inputs, views, handle)
        return {s.name: given[s.name] if s.name in given else made[s.name] for s in self.outputs}

    def warm_up(self, sizes: Sequence[Mapping[str, int]]) -> None:
        """Run made-up requests on every lane until graphs for these sizes are captured: no caller waits for that then.

        Args:
            sizes: size of every dim, per kind of request.

        Raises:
            DynError: as `run`.
        """
        for at in sizes:
            missing = self.dims.keys() - at.keys()
            if missing:
                raise DynError(f"warm_up has no size for {', '.join(sorted(missing))}.")
            arrays = seeded_arrays(self.inputs, at, 0)
            self._check(arrays)
            for lane in self._lanes:
                for _ in range(2):  # the second sight is captured
                    with self._request(arrays, lane):
                        lane.run(arrays)

    @property
    def statistics(self) -> Statistics:
        """What became of the requests so far."""
        total = Statistics(requests=self._requests, failed=self._failed)
        for lane in self._lanes:
            total.add(lane.statistics)
        return total

    def _check(self, arrays: Mapping[str, Any]) -> None:
        try:
            super()._check(arrays)
        except DynError as error:
            if self._wider is None:
                raise
            check_arrays(arrays, self.inputs, self._wider)
            why = "The bundle has this size, and the engine was built for fewer."
            raise DynError(error.what, why=why, fix=self._all_sizes) from None

    def _run(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        with self._request(arrays) as lane:
            return lane.run(arrays)

    @contextmanager
    def _request(self, arrays: Mapping[str, Any], on: Lane | None = None) -> Iterator[Lane]:
        """A lane (or this one) for one request; what fails on it is told with the request's number and shapes."""
        lane = self._take(on)
        number = next(self._numbers)
        counts = True
        try:
            self._device.activate()
            yield lane
        except (CudaError, EngineError) as error:
            shapes = ", ".join(f"{name} {list(getattr(array, 'shape', ()))}" for name, array in arrays.items())
            with self._state:
                self._failed += 1
            raise self._failure(lane, f"Request {number} ({shapes})", error) from error
        except DynError:
            counts = False  # it did not fit, and nothing was run
            raise
        finally:
            with self._state:
                self._requests += counts
                self._free.append(lane)
                self._state.notify_all()

    def _failure(self, lane: Lane, named: str, error: DynError) -> DynError:
        """What to raise; the lane is usable again, or the session is dead."""
        lost: DynError | None = error if isinstance(error, CudaError) and error.sticky else None
        if lost is None:
            try:
                lane.reset()
            except DynError as after:
                lost = after
        reason = _words(error)
        if lost is None:
            return DynError(f"{named} failed.", why=reason, fix="The session can be used again.")
        if lost is not error:
            reason += f" And then: {_words(lost)}"
        with self._state:
            self._dead = f"{named} failed: {reason}"
            self._state.notify_all()
        return DynError(f"{named} failed, and the {self.runtime} session is dead.", why=reason, fix=_NEW_PROCESS)

    def _check_open(self) -> None:
        if self._dead is not None:
            raise DynError(f"The {self.runtime} session is dead.", why=self._dead, fix=_NEW_PROCESS)
        if self._closed:
            raise DynError(f"The {self.runtime} session is closed.", fix="Open another one with open_session().")

    def _take(self, lane: Lane | None) -> Lane:
        with self._state:
            self._check_open()
            while not self._free if lane is None else lane not in self._free:
                self._state.wait()
                self._check_open()
            taken = lane or self._free[-1]  # the one that was used last: its buffers are in the caches
            self._free.remove(taken)
            return taken

    def _view(self, kind: str, name: str, array: Any, lane: Lane) -> View:
        try:
            found = self._device.view(array, lane.stream)
        except CudaError:
            raise
        except Exception as error:  # of the array's library
            raise DynError(
                f"{kind} {name} is a {type(array).__name__} that cannot be taken as an array on the GPU.",
                why=str(error),
                fix="An array on the GPU with DLPack or __cuda_array_interface__; or, as an input, a NumPy array.",
            ) from error
        check_view(f"{kind} {name}", found, self._device.index)
        return found

    def _check_outputs(self, views: Mapping[str, View], shapes: Mapping[str, tuple[int, ...]]) -> None:
        for spec in self.outputs:
            view = views.get(spec.name)
            if view is None:
                continue
            if view.dtype != spec.numpy_dtype or tuple(view.shape) != shapes[spec.name]:
                raise DynError(
                    f"Output {spec.name} is given as {view.dtype} {list(view.shape)}, and is {spec.dtype} "
                    f"{list(shapes[spec.name])} for these inputs."
                )
            if view.readonly:
                raise DynError(f"Output {spec.name} is given as an array that is read-only.")

    def _release(self) -> None:
        with self._state:
            self._state.notify_all()  # who waits for a lane is told that there will be none
            while len(self._free) < len(self._lanes):
                self._state.wait()  # for those that run
        with suppress(CudaError):
            self._device.activate()
        for lane in self._lanes:
            lane.close()
        self._engine.close()


_NEW_PROCESS = "Open a session in a new process: in this one CUDA runs nothing more on this GPU."


def _words(error: DynError) -> str:
    return " ".join(filter(None, (error.what, error.why)))


def _package(target: vendor.Target) -> vendor.Vendor:
    try:
        return vendor.load(target)
    except MissingPackageError:
        raise
    except DynError as error:  # too old, or broken: nothing is wrong with the bundle
        raise UnavailableError(error.what, why=error.why, fix=error.fix) from error


def _record(bundle: Bundle, target: str) -> EngineRecord:
    try:
        return find(bundle, target)
    except DynError as error:
        if (engine_folder(bundle, target) / RECORD).is_file():
            raise
        raise UnavailableError(error.what, why=error.why, fix=error.fix) from None


def _handle(stream: Any) -> int:
    """The address of a stream of any library."""
    if isinstance(stream, int):
        return stream
    for attribute in ("cuda_stream", "ptr", "handle"):  # PyTorch, CuPy, PyCUDA and Numba
        value = getattr(stream, attribute, None)
        if value is not None:
            return int(getattr(value, "value", value) or 0)
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    raise DynError(
        f"stream is a {type(stream).__name__}.", fix="the address of a CUDA stream, or a library's object of one"
    )


def _check_names(outputs: Mapping[str, Any], specs: Sequence[TensorSpec]) -> None:
    unknown = outputs.keys() - {s.name for s in specs}
    if unknown:
        raise DynError(f"There is no output {', '.join(sorted(unknown))}.", fix="; ".join(map(str, specs)))


def _check_tensors(bundle: Bundle, record: EngineRecord) -> None:
    """Refuse a record whose tensors are not those of the bundle."""
    for side, ours, theirs in (
        ("inputs", bundle.manifest.inputs, record.inputs),
        ("outputs", bundle.manifest.outputs, record.outputs),
    ):
        if {s.name for s in ours} != {t.name for t in theirs}:
            raise DynError(
                f"The {record.target} engine of {bundle.path} is not of this bundle: its {side} are "
                f"{', '.join(t.name for t in theirs) or 'none'}.",
                why=f"The bundle's are {', '.join(s.name for s in ours)}.",
                fix=fit.rebuild(bundle, record),
            )


def _check_ports(bundle: Bundle, record: EngineRecord, engine: Engine) -> None:
    """Refuse an engine whose tensors are not those of its record."""
    found = {n: p.dtype.name for n, p in (engine.inputs | engine.outputs).items()}
    expected = {t.name: t.dtype for t in record.tensors}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise DynError(
                f"The {record.target} engine of {bundle.path} is not the one of its record.",
                why=f"{name} is {found.get(name, 'not there')} in it, {expected.get(name, 'not there')} in the record.",
                fix=fit.rebuild(bundle, record),
            )
