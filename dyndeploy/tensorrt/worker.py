"""Builds one engine in a process of its own: the vendor's library may end the process that it is in.

Reads a `Job` as JSON from standard input and writes events, a JSON object a line, to standard output:

    {"event": "stage", "name": ...}                what begins
    {"event": "progress", "phases": [[name, done, total], ...]}   the vendor's phases, the outermost first
    {"event": "log", "severity": ..., "message": ...}             what the vendor says, without its verbose lines
    {"event": "failed", "stage": ..., "why": ..., "errors": [...], "registered": [...]}
    {"event": "done", "layers": [...], "registered": [...], "tensors": [...], "formats": {...}, "seconds": ...}

The last one is "failed" or "done", or is missing where the process came to an end. What the vendor's library prints by
itself goes to standard error.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from dyndeploy.errors import DynError
from dyndeploy.tensorrt import vendor
from dyndeploy.tensorrt.vendor import Target, Vendor

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Job:
    """What to build; everything is given, nothing is decided here.

    Attributes:
        target: whose package builds.
        model: an ONNX file.
        engine: the file to write.
        profile: input -> (min, opt, max) shapes, of inputs with dims that vary.
        library: the plugin library, or None to build without plugins.
        embed: put the library into the engine.
        capabilities: names of the vendor's ComputeCapability to build for; none for the GPU that is here.
        workspace: most bytes of scratch memory that a layer may ask for; None is the vendor's own limit.
        optimization_level: 0 (quick to build) to 5; None is the vendor's own.
        tf32: TensorRT's own layers may round float32 factors to TF32.
        timing_cache: the file to read timings from and to keep them in; None where nothing is timed.
        log: a file for everything that the vendor says.
    """

    target: Target
    model: str
    engine: str
    profile: Mapping[str, Shapes] = field(default_factory=dict)
    library: str | None = None
    embed: bool = False
    capabilities: tuple[str, ...] = ()
    workspace: int | None = None
    optimization_level: int | None = None
    tf32: bool = False
    timing_cache: str | None = None
    log: str | None = None

    def to_json(self) -> str:
        """For `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """What `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "target": Target(**values["target"])})


class FailedError(Exception):
    """The build came to an end that is not a crash; `details` go into the event."""

    def __init__(self, stage: str, why: str = "", **details: Any) -> None:
        super().__init__(stage)
        self.details = {"stage": stage, "why": why, **details}


class Events:
    """The way back to the parent, and the log."""

    def __init__(self, stream: IO[str], log: str | None) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self._log = open(log, "a", buffering=1, encoding="utf-8") if log else None  # noqa: SIM115  # until the end
        self._last_progress = 0.0

    def close(self) -> None:
        """Close the log."""
        if self._log:
            self._log.close()

    def send(self, event: str, **details: Any) -> None:
        """One line."""
        with self._lock:  # the vendor logs from threads of its own
            self._stream.write(json.dumps({"event": event, **details}) + "\n")
            self._stream.flush()

    def log(self, severity: str, message: str) -> None:
        """A line of the vendor's log: to the file, and to the parent unless it is a verbose one."""
        if self._log:
            self._log.write(f"{severity}: {message}\n")
        if severity != "VERBOSE":
            self.send("log", severity=severity, message=message)

    def progress(self, phases: list[list[Any]], *, always: bool) -> None:
        """Phases, at most ten times a second unless one of them is new."""
        now = time.monotonic()
        if always or now - self._last_progress > 0.1:
            self._last_progress = now
            self.send("progress", phases=phases)


def main() -> None:
    """Build what standard input asks for."""
    # What the vendor prints must not come between the events.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _die_with_parent()
    job = Job.from_json(sys.stdin.read())
    events = Events(stream, job.log)
    try:
        events.send("done", **build(job, events))
        status = 0
    except FailedError as failure:
        events.send("failed", **failure.details)
        status = 1
    except DynError as error:
        events.send("failed", stage="prepare", why=error.why, what=error.what, fix=error.fix)
        status = 1
    except Exception as error:  # of the vendor's bindings, and unforeseen ones: the parent reports them
        events.send("failed", stage="exception", why=f"{type(error).__name__}: {error}")
        status = 1
    events.close()
    os._exit(status)  # the engine is written: a library that fails in its destructors has nothing left to spoil


def _die_with_parent() -> None:
    """Be killed when the parent is, on Linux; elsewhere a build goes on to its end."""
    import ctypes

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def build(job: Job, events: Events) -> dict[str, Any]:
    """Parse, build, write; return what "done" carries.

    Raises:
        FailedError: the vendor refuses, or the file cannot be written.
        DynError: the package or the plugin library cannot be loaded.
    """
    start = time.monotonic()
    events.send("stage", name=f"loading {job.target.package}")
    loaded = vendor.load(job.target)
    trt = loaded.module
    logger, layers_seen = _logger(trt, events)
    if job.target.needs_gpu:  # TensorRT's own plugins, RoiAlign's for one; TensorRT for RTX has its few from the start
        trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    if job.library:
        loaded.load_plugins(Path(job.library))
    events.send("stage", name="parsing the graph")
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(job.model).read_bytes()):
        raise FailedError(
            "parse",
            errors=[_parser_error(parser.get_error(i)) for i in range(parser.num_errors)],
            registered=_registered(builder),
        )
    layers, registered = [_layer(network.get_layer(i)) for i in range(network.num_layers)], _registered(builder)
    config = _config(loaded, builder, job, events)
    linear = 1 << int(trt.TensorFormat.LINEAR)
    tensors = []
    for mode, count, get in (
        ("input", network.num_inputs, network.get_input),
        ("output", network.num_outputs, network.get_output),
    ):
        for index in range(count):
            tensor = get(index)
            tensor.allowed_formats = linear
            tensors.append([mode, tensor.name, tensor.dtype.name, list(tensor.shape)])
    events.send("stage", name="building the engine")
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise FailedError("build")
    events.send("stage", name="writing the engine")
    try:
        with open(job.engine, "wb") as file:
            file.write(memoryview(engine))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise FailedError("write", str(error), bytes=engine.nbytes) from None
    if job.timing_cache:
        _keep_timings(config, Path(job.timing_cache), events)
    return {
        "layers": layers,
        "registered": registered,
        "tensors": tensors,
        "formats": formats("\n".join(layers_seen)),
        "seconds": time.monotonic() - start,
    }


def _logger(trt: Any, events: Events) -> tuple[Any, list[str]]:
    """A logger, and the list into which it puts what the vendor says of the finished engine's layers."""
    layers: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            if message.startswith("Layers:"):
                layers.append(message)
            events.log(severity.name, message)

    return Logger(), layers


def _monitor(trt: Any, events: Events) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.phases: dict[str, list[Any]] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = [phase_name, 0, num_steps]
            events.progress(list(self.phases.values()), always=len(self.phases) <= 2)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.phases:
                self.phases[phase_name][1] = step + 1
            events.progress(list(self.phases.values()), always=False)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

    return Monitor()


def _network_flags(trt: Any) -> int:
    """TensorRT 10 asks for strong typing; later ones, and TensorRT for RTX, know nothing else."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _config(loaded: Vendor, builder: Any, job: Job, events: Events) -> Any:
    trt = loaded.module
    config = builder.create_builder_config()
    config.progress_monitor = _monitor(trt, events)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # tells the formats of the finished layers
    (config.set_flag if job.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    user_allocation = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if user_allocation is not None:  # TensorRT for RTX: else a session cannot capture a run into a CUDA graph
        config.set_flag(user_allocation)
    if job.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace)
    if job.optimization_level is not None:
        config.builder_optimization_level = job.optimization_level
    if job.capabilities:
        config.num_compute_capabilities = len(job.capabilities)
        for index, name in enumerate(job.capabilities):
            if not config.set_compute_capability(getattr(trt.ComputeCapability, name), index):
                raise FailedError("config", f"{loaded.target.title} does not take the compute capability {name}.")
    if job.embed:
        config.plugins_to_serialize = [job.library]
    if job.profile:
        profile = builder.create_optimization_profile()
        for name, (low, opt, high) in job.profile.items():
            profile.set_shape(name, low, opt, high)
        if config.add_optimization_profile(profile) < 0:
            raise FailedError("profile", f"The profile {dict(job.profile)} is not taken.")
    if job.timing_cache:
        _use_timings(config, Path(job.timing_cache), events)
    return config


def _use_timings(config: Any, path: Path, events: Events) -> None:
    """Start from the timings of earlier builds; a file that the vendor cannot read is started anew, and it is said."""
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        events.log("WARNING", f"The timing cache {path} is not of this runtime and GPU; it is started anew.")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)


def _keep_timings(config: Any, path: Path, events: Events) -> None:
    """Add this build's timings to the file, to which other builds may have added theirs meanwhile."""
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            cache = config.get_timing_cache()
            theirs = config.create_timing_cache(path.read_bytes()) if path.is_file() else None
            if theirs is not None:
                cache.combine(theirs, False)
            scratch = path.with_suffix(f".{os.getpid()}")
            scratch.write_bytes(memoryview(cache.serialize()))
            os.replace(scratch, path)
    except OSError as error:
        events.log("WARNING", f"The timings could not be kept in {path}: {error}")


def _registered(builder: Any) -> list[list[str]]:
    return [[c.name, c.version, c.namespace] for c in vendor.creators(builder.get_plugin_registry())]


def _layer(layer: Any) -> list[str]:
    output = layer.get_output(0)
    return [layer.type.name, layer.name, str(getattr(layer, "metadata", "")), output.dtype.name if output else ""]


def _parser_error(error: Any) -> dict[str, Any]:
    return {
        "description": str(error.desc()),
        "node": str(error.node_name()),
        "op": str(error.node_operator()),
        "inside": [str(name) for name in error.local_function_stack()],
    }


_LAYER = re.compile(r"^Name: .*?, LayerType: (\w+), .*?Format: \((\w+)\).*\[ONNX Layer: ([^\]|]+?)\]", re.MULTILINE)


def formats(text: str) -> dict[str, str]:
    """ONNX node -> format of the first input of its plugin, from what the vendor says of the finished layers.

    Example:
        >>> formats(
        ...     "Layers:\\nName: bend_myl0_1, LayerType: custom_layer, Inputs: [ { Name: x, Dimensions: [-1,16,8,8], "
        ...     "Datatype: Float, Format: (Linear) Row major linear format }], Metadata: [ONNX Layer: bend]"
        ... )
        {'bend': 'Linear'}
    """
    return {node: name for kind, name, node in _LAYER.findall(text) if kind in ("custom_layer", "PluginV3")}


if __name__ == "__main__":
    main()
