"""A TensorRT whose engines are JSON. The network computes y = 2 x + 1 and, as a second output, the rows' sums.

It is as strict as TensorRT is said to be: a run that is captured must not be the first one after new shapes, and a
graph whose context was used for something else since gives nonsense.
"""

import enum
import json
import types

import numpy as np

KEY = ("Fake", "1", "fake")


def engine(inputs, outputs=("y",), *, dtype="FLOAT", needs_plugin=False, embedded=False, **faults):
    """The content of an engine: inputs are name -> (shape, min, opt, max)."""
    return json.dumps(
        {"magic": "fake", "inputs": inputs, "outputs": list(outputs), "dtype": dtype}
        | {"needs_plugin": needs_plugin, "embedded": embedded, "faults": faults}
    ).encode()


def module(device, *, rtx=False, version="11.4.0.106"):
    """A module like `tensorrt`, or like `tensorrt_rtx`, that runs on a fake device."""
    made = types.ModuleType("fake_tensorrt")
    made.__version__ = version
    made.device = device
    made.runtimes, made.loaded = [], []

    class ILogger:
        class Severity(enum.IntEnum):
            INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    names = {"DataType": "FLOAT HALF BF16 INT8 INT32 INT64 BOOL UINT8 FP8", "TensorIOMode": "NONE INPUT OUTPUT"}
    names |= {"TensorLocation": "DEVICE HOST", "TensorFormat": "LINEAR CHW2 HWC8"}
    names |= {"ExecutionContextAllocationStrategy": "STATIC ON_PROFILE_CHANGE USER_MANAGED"}
    if rtx:
        names |= {"ComputeCapability": "NONE CURRENT SM75 SM80 SM86 SM89 SM120 SM121"}
        names |= {"DynamicShapesKernelSpecializationStrategy": "LAZY EAGER NONE"}
        names |= {"EngineValidity": "VALID SUBOPTIMAL INVALID"}
        made.EngineInvalidityDiagnostics = enum.IntEnum(
            "EngineInvalidityDiagnostics", {"VERSION_MISMATCH": 1, "OLD_CUDA_DRIVER": 4, "MALFORMED_ENGINE": 32}
        )
    for name, members in names.items():
        setattr(made, name, enum.Enum(name, members.split(), start=0))
    made.ILogger = ILogger
    made.registry = Registry()
    made.get_plugin_registry = lambda: made.registry

    def runtime(logger):
        made.runtimes.append(Runtime(made, logger, rtx))
        return made.runtimes[-1]

    made.Runtime = runtime
    return made


class Registry:
    """Takes any file as the library of plugins."""

    def __init__(self):
        self.libraries, self.refuses = [], False
        self.all_creators_recursive = []

    def load_library(self, path):
        if self.refuses:
            return None
        self.libraries.append(path)
        return object()

    def get_creator(self, name, version, namespace):
        return object() if self.libraries else None


class Runtime:
    def __init__(self, module, logger, rtx):
        self.module, self.logger, self.engine_host_code_allowed = module, logger, False
        self.crashes = getattr(module, "old_driver", False)
        if self.crashes:
            words = "createInferRuntime: API Usage Error (CUDA initialization failure with error: 35)"
            logger.log(module.ILogger.Severity.ERROR, words)
        if rtx:
            self.get_engine_validity = self._validity

    def _validity(self, content):
        kinds = self.module.EngineValidity
        bits = getattr(self.module, "invalid", 0)
        return (kinds.INVALID if bits else kinds.VALID), bits

    def deserialize_cuda_engine(self, content):
        assert not self.crashes
        if self.module.device.fate.meets("deserialize"):
            self.logger.log(self.module.ILogger.Severity.ERROR, "Error Code 1: as the test says")
            return None
        try:
            described = json.loads(content)
            if described.get("magic") != "fake":
                raise ValueError("magic")
        except ValueError:
            self.logger.log(self.module.ILogger.Severity.ERROR, "header.magicTag == kEXPECTED_MAGIC_TAG failed.")
            return None
        has_plugin = self.engine_host_code_allowed if described["embedded"] else bool(self.module.registry.libraries)
        if described["needs_plugin"] and not has_plugin:
            self.logger.log(self.module.ILogger.Severity.ERROR, "IPluginCreatorInterface not found in Plugin Registry")
            return None
        if "driver" in described["faults"]:
            self.logger.log(
                self.module.ILogger.Severity.ERROR,
                "cudaError 35: CUDA driver version is insufficient for CUDA runtime version",
            )
            return None
        self.module.loaded.append(content)
        return Engine(self.module, described, self.logger)


class Cache:
    def __init__(self):
        self.content = b"compiled"

    def serialize(self):
        return self.content

    def deserialize(self, content):
        self.content = content + b" again"
        return True


class Config:
    def __init__(self):
        self.strategy = self.cache = self.dynamic_shapes_kernel_specialization_strategy = None

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        return Cache()

    def get_runtime_cache(self):
        return self.cache

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class Engine:
    device_memory_size_v2 = 1000

    def __init__(self, module, described, logger):
        self.module, self.described, self.logger = module, described, logger
        self.faults = described["faults"]
        self.dtype = {"FLOAT": np.dtype("float32"), "INT32": np.dtype("int32")}.get(
            described["dtype"], np.dtype("int8")
        )
        self.names = [*described["inputs"], *described["outputs"]]
        self.num_io_tensors = len(self.names)
        self.contexts = 0

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return self.module.TensorIOMode["INPUT" if name in self.described["inputs"] else "OUTPUT"]

    def get_tensor_location(self, name):
        return self.module.TensorLocation["HOST" if self.faults.get("host") == name else "DEVICE"]

    def get_tensor_format(self, name):
        return self.module.TensorFormat["HWC8" if self.faults.get("format") == name else "LINEAR"]

    def get_tensor_format_desc(self, name):
        return "channels last, 8 to a vector"

    def get_tensor_dtype(self, name):
        return self.module.DataType[self.described["dtype"]]

    def get_tensor_shape(self, name):
        inputs = self.described["inputs"]
        return tuple(inputs[name][0]) if name in inputs else output_shape(name, tuple(next(iter(inputs.values()))[0]))

    def get_tensor_profile_shape(self, name, profile):
        return self.described["inputs"][name][1:]

    def create_runtime_config(self):
        return Config()

    def create_execution_context(self, how):
        if self.module.device.fate.meets("create context"):
            self.logger.log(self.module.ILogger.Severity.ERROR, "no memory for a context")
            return None
        strategy = how.strategy if isinstance(how, Config) else how
        assert strategy is self.module.ExecutionContextAllocationStrategy.USER_MANAGED
        self.contexts += 1
        return Context(self)


def output_shape(name, shape):
    return shape if name == "y" else shape[:1]


class Context:
    def __init__(self, engine):
        self.engine, self.fate = engine, engine.module.device.fate
        self.shapes, self.addresses, self.memory = {}, {}, None
        self.version, self.flushed, self.broken = 0, None, False

    def _refuses(self, name, message):
        if not self.fate.meets(name):
            return False
        self._log(message)
        return True

    def _log(self, message):
        self.engine.logger.log(self.engine.module.ILogger.Severity.ERROR, message)

    def set_device_memory(self, address, size):
        assert size >= self.engine.device_memory_size_v2
        self.memory = address

    def set_input_shape(self, name, shape):
        if self._refuses("set shape", f"no shape for {name}"):
            return False
        shape = tuple(shape)
        _, low, _, high = self.engine.described["inputs"][name]
        if any(not a <= s <= b for a, s, b in zip(low, shape, high)):
            self._log(f"{name} {list(shape)} is outside of the profile")
            return False
        if self.shapes.get(name) != shape:
            self.shapes[name] = shape
            self.version += 1
        return True

    def infer_shapes(self):
        return [n for n in self.engine.described["inputs"] if n not in self.shapes]

    def get_tensor_shape(self, name):
        if self.engine.faults.get("depends") == name:
            return (-1,)
        return self.shapes[name] if name in self.shapes else output_shape(name, next(iter(self.shapes.values())))

    def set_tensor_address(self, name, address):
        if address % 256 or self._refuses("set address", f"no address for {name}"):
            return False
        if self.addresses.get(name) != address:
            self.addresses[name] = address
            self.version += 1
        return True

    def execute_async_v3(self, handle):
        stream = self.engine.module.device.streams[handle]
        if self.broken or self._refuses("enqueue", "Error Code 7: enqueue as the test says"):
            self.broken = True  # for good, which TensorRT does not say and does not exclude
            return False
        if stream.recording is not None and (self.flushed != self.version or "capture" in self.engine.faults):
            self._log("this run cannot be captured")
            return False
        self.flushed = version = self.version
        recorded = stream.recording is not None
        shapes, addresses, device = dict(self.shapes), dict(self.addresses), self.engine.module.device

        def work():
            dtype = self.engine.dtype
            device.values(self.memory, (1000,), np.dtype("uint8"))[:] = version % 251
            values = [device.values(addresses[n], shapes[n], dtype) for n in self.engine.described["inputs"]]
            y = sum(values) * dtype.type(2) + dtype.type(1)
            if recorded and self.version != version:
                y = y * 0  # whoever uses a graph's context for something else gets nonsense
            for name in self.engine.described["outputs"]:
                result = y if name == "y" else y.reshape(y.shape[0], -1).sum(axis=1)
                device.values(addresses[name], result.shape, dtype)[...] = result

        stream.push(work)
        return True
