"""A vendor's package for building, made up: it parses with onnx, and its engines are JSON of what it was told.

The worker imports it by name. FAKE_BUILDER, JSON, changes what it does: {"version": ..., "at": "parse" or "build",
"do": "abort" | "exit" | "kill" | "raise" | "refuse" | "sleep", "say": [lines], "ignore_plugins": [op types],
"pid": file, "seconds": ...}.
"""

import ctypes
import enum
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace


def settings():
    return json.loads(os.environ.get("FAKE_BUILDER", "{}"))


__version__ = settings().get("version", "11.4.0.106")
OWN = (
    "ModulatedDeformConv2d",
    "DecoupledDynamicFilter",
    "DynamicRegionAwareConv2d",
    "MixedRegionAwareConv2d",
    "DynamicGroupConv2d",
)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(enum.IntEnum):
    TF32 = 6


class TensorFormat(enum.IntEnum):
    LINEAR = 0


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.IntEnum):
    DETAILED = 2


class ComputeCapability(enum.IntEnum):
    NONE = 0
    CURRENT = 1
    SM75 = 75
    SM80 = 80
    SM86 = 86
    SM89 = 89
    SM120 = 120


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4


class Logger(ILogger):
    def log(self, severity, message):
        pass


class IProgressMonitor:
    pass


def _now(place, logger):
    told = settings()
    if told.get("at") != place:
        return None
    for line in told.get("say", ()):
        logger.log(ILogger.Severity.ERROR, line)
    what = told.get("do")
    if "pid" in told:
        Path(told["pid"]).write_text(str(os.getpid()))
    if what == "abort":
        print("libfake: terminating", file=sys.stderr, flush=True)
        ctypes.CDLL(None).abort()
    elif what == "exit":
        os._exit(3)
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "raise":
        raise RuntimeError("a binding that was not expected")
    elif what == "sleep":
        time.sleep(told["seconds"])
    return what


def init_libnvinfer_plugins(_logger, _namespace):
    _REGISTRY.initialised = True


class Registry:
    initialised = False

    def __init__(self):
        self.libraries, self.all_creators_recursive = (
            [],
            [SimpleNamespace(name="ROIAlign_TRT", plugin_version="2", plugin_namespace="")],
        )

    def load_library(self, path):
        if not Path(path).is_file() or Path(path).read_bytes().startswith(b"not a library"):
            return None
        self.libraries.append(path)
        self.all_creators_recursive += [
            SimpleNamespace(name=name, plugin_version=version, plugin_namespace="dyndeploy")
            for name in OWN
            for version in ("1", "1-tf32")
        ]
        return object()

    def get_creator(self, name, version, namespace):
        wanted = (name, version, namespace)
        found = (c for c in self.all_creators_recursive if (c.name, c.plugin_version, c.plugin_namespace) == wanted)
        return next(found, None)


_REGISTRY = Registry()


def get_plugin_registry():
    return _REGISTRY


class Config:
    def __init__(self):
        self.told = {"flags": ["TF32"], "plugins": [], "profiles": [], "capabilities": []}
        self.progress_monitor = None
        self.timings = None

    def set_flag(self, flag):
        self.told["flags"] = sorted({*self.told["flags"], flag.name})

    def clear_flag(self, flag):
        self.told["flags"] = [f for f in self.told["flags"] if f != flag.name]

    def set_memory_pool_limit(self, pool, size):
        self.told[pool.name] = size

    def __setattr__(self, name, value):
        if name == "builder_optimization_level":
            self.told["level"] = value
        elif name == "num_compute_capabilities":
            self.told["capabilities"] = [None] * value
        elif name == "plugins_to_serialize":
            self.told["plugins"] = value
        super().__setattr__(name, value)

    def set_compute_capability(self, capability, index):
        self.told["capabilities"][index] = capability.name
        return True

    def add_optimization_profile(self, profile):
        self.told["profiles"].append(profile.shapes)
        return 0

    def create_timing_cache(self, content):
        return TimingCache(content) if not content or content.startswith(b"timings") else None

    def set_timing_cache(self, cache, _ignore):
        self.timings = cache
        return True

    def get_timing_cache(self):
        return self.timings


class TimingCache:
    def __init__(self, content):
        self.entries = set(content.decode().split()[1:])

    def combine(self, other, _ignore):
        self.entries |= other.entries
        return True

    def serialize(self):
        return " ".join(["timings", *sorted(self.entries)]).encode()


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, low, opt, high):
        self.shapes[name] = [low, opt, high]


class Engine(bytes):
    @property
    def nbytes(self):
        return len(self)


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def get_plugin_registry(self):
        return _REGISTRY

    def create_network(self, flags):
        return SimpleNamespace(flags=flags, layers=[], inputs=[], outputs=[])

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 2)
        for step, phase in enumerate(("Optimizing graph", "Timing kernels")):
            monitor.phase_start(phase, "Building engine", 3)
            for inner in range(3):
                monitor.step_complete(phase, inner)
            if step == 1 and _now("build", self.logger) == "refuse":
                return None
            monitor.phase_finish(phase)
            monitor.step_complete("Building engine", step)
        monitor.phase_finish("Building engine")
        told = dict(config.told, initialised=_REGISTRY.initialised)
        told |= dict(
            config.told, strongly_typed=network.flags == 2, formats=[t.allowed_formats for t in network.inputs]
        )
        if config.timings is not None:
            told["timings"] = sorted(config.timings.entries)
            config.timings.entries.add(settings().get("timing", "conv"))
        self.logger.log(
            ILogger.Severity.VERBOSE,
            "Layers:\n"
            + "\n".join(
                f"Name: {layer.name}_0, LayerType: PluginV3, Inputs: [ {{ Name: x, Format: (NHWC) Channel major }}], "
                f"Metadata: {layer.metadata}"
                for layer in network.layers
                if layer.type.name == "PLUGIN_V3"
            ),
        )
        return Engine(json.dumps(told).encode())


class OnnxParser:
    def __init__(self, network, logger):
        self.network, self.logger, self.errors = network, logger, []

    def parse(self, content):
        import onnx

        model = onnx.ModelProto.FromString(content)
        functions = {f.name for f in model.functions}
        dtypes = {1: "FLOAT", 10: "HALF", 16: "BF16"}
        for own, values in ((self.network.inputs, model.graph.input), (self.network.outputs, model.graph.output)):
            for value in values:
                tensor = value.type.tensor_type
                shape = [d.dim_value or -1 for d in tensor.shape.dim]
                dtype = SimpleNamespace(name=dtypes[tensor.elem_type])
                own.append(SimpleNamespace(name=value.name, dtype=dtype, shape=shape))
        _now("parse", self.logger)
        for node in model.graph.node:
            values = {a.name: a.s.decode() for a in node.attribute if a.type == onnx.AttributeProto.STRING}
            wanted = (node.op_type, values.get("plugin_version", "1"), values.get("plugin_namespace", ""))
            ignored = node.op_type in settings().get("ignore_plugins", ())
            if "plugin_namespace" in values and _REGISTRY.get_creator(*wanted) and not ignored:
                self._layer("PLUGIN_V3", node.name, f"[ONNX Layer: {node.name}]")
            elif node.op_type in functions:
                for inner in ("a", "b"):
                    self._layer("CAST", inner, f"[ONNX Layer: {inner} | {node.name} ({node.op_type})]")
            elif node.domain == "" and onnx.defs.has(node.op_type):
                self._layer("ANY", node.name, f"[ONNX Layer: {node.name}]")
            else:
                self.errors.append(node)
        return not self.errors

    def _layer(self, kind, name, metadata):
        output = SimpleNamespace(dtype=SimpleNamespace(name="FLOAT"))
        self.network.layers.append(
            SimpleNamespace(type=SimpleNamespace(name=kind), name=name, metadata=metadata, get_output=lambda _: output)
        )
        self.network.num_layers = len(self.network.layers)
        self.network.get_layer = self.network.layers.__getitem__
        for mode in ("input", "output"):
            tensors = getattr(self.network, f"{mode}s")
            setattr(self.network, f"num_{mode}s", len(tensors))
            setattr(self.network, f"get_{mode}", tensors.__getitem__)

    @property
    def num_errors(self):
        return len(self.errors)

    def get_error(self, index):
        node = self.errors[index]
        return SimpleNamespace(
            desc=lambda: "creator && Plugin not found, are the plugin name, version, and namespace correct?",
            node_name=lambda: node.name,
            node_operator=lambda: node.op_type,
            local_function_stack=list,
        )
