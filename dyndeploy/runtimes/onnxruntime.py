"""ONNX Runtime on the CPU and on CUDA."""

from __future__ import annotations

import ctypes
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnxruntime

from dyndeploy.bundle import Bundle
from dyndeploy.errors import DynError
from dyndeploy.native import library_path
from dyndeploy.runtimes.base import Arrays, BaseSession, UnavailableError
from dyndeploy.tensors import Dim, TensorSpec

if TYPE_CHECKING:
    from dyndeploy.runtimes import Source

_DTYPES = {
    **{f"tensor({d})": d for d in ("float16", "bfloat16", "bool")},
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
_NO_KERNEL = re.compile(r"Could not find an implementation for (\w+)(?:\(\d+\))? node with name '([^']*)'")
_FATAL_ONLY = 4
_DEFORM_CONV_SINCE = (1, 25)


class OnnxRuntimeSession(BaseSession):
    """A model in ONNX Runtime's CPU execution provider, our ops on their compiled kernels."""

    runtime = "onnxruntime"

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        dims: Mapping[str, Dim] | None = None,
    ) -> None:
        super().__init__(inputs, outputs, dims)
        self._session: onnxruntime.InferenceSession | None = session
        self._bfloat16 = any(spec.dtype == "bfloat16" for spec in (*inputs, *outputs))

    @classmethod
    def open(cls, source: Source, *, threads: int | None = None) -> OnnxRuntimeSession:
        """Open a bundle, a .onnx file or its bytes.

        Args:
            source: what to run. Names, dtypes and dims are those of the manifest, or of the file: there a
                symbolic dim may have any size, and one without a name is called after its tensor and axis.
            threads: threads of one operator; by default as many as there are cores.

        Raises:
            UnavailableError: ONNX Runtime has no kernel for a node.
            DynError: the model cannot be read, or the library of kernels is not part of this installation.
        """
        return cls._open(source, threads, ["CPUExecutionProvider"], library_path("onnxruntime"))

    @classmethod
    def _open(
        cls, source: Source, threads: int | None, providers: list[Any], kernels: Path | None = None
    ) -> OnnxRuntimeSession:
        session = _load(source, threads, providers, kernels)
        if isinstance(source, Bundle):
            manifest = source.manifest
            return cls(session, manifest.inputs, manifest.outputs, manifest.dims)
        return cls(session, _specs(session.get_inputs()), _specs(session.get_outputs()))

    def _run(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        assert self._session is not None
        names = [spec.name for spec in self.outputs]
        try:
            if self._bfloat16:  # numpy has no such dtype, so these go by address
                feeds = {name: _ort_value(array) for name, array in arrays.items()}
                values = [_array(v) for v in self._session.run_with_ort_values(names, feeds)]
            else:
                values = self._session.run(names, dict(arrays))
        except Exception as error:  # its exceptions have no common base
            raise DynError(f"{self.runtime} failed to run the model.", why=str(error)) from error
        return dict(zip(names, values, strict=True))

    def _release(self) -> None:
        self._session = None


class OnnxRuntimeBodiesSession(OnnxRuntimeSession):
    """A model in ONNX Runtime's CPU execution provider, our ops by their function bodies of standard ops."""

    runtime = "onnxruntime-bodies"

    @classmethod
    def open(cls, source: Source, *, threads: int | None = None) -> OnnxRuntimeSession:
        """Open a bundle, a .onnx file or its bytes; as for "onnxruntime"."""
        return cls._open(source, threads, ["CPUExecutionProvider"])


class OnnxRuntimeCudaSession(OnnxRuntimeSession):
    """A model in ONNX Runtime's CUDA execution provider; never silently on the CPU."""

    runtime = "onnxruntime-cuda"

    @classmethod
    def open(
        cls, source: Source, *, threads: int | None = None, device: int = 0, tf32: bool = False
    ) -> OnnxRuntimeSession:
        """Open a bundle, a .onnx file or its bytes on a GPU.

        Args:
            source, threads: as for "onnxruntime".
            device: index of the GPU.
            tf32: let float32 matrix products round their factors to 10 bits. ONNX Runtime's own default is
                True; then float32 has the error of float16.

        Raises:
            UnavailableError: this ONNX Runtime has no CUDA provider, it does not start, or it lacks a kernel.
            DynError: the model cannot be read.
        """
        provider = "CUDAExecutionProvider"
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise UnavailableError(
                f"onnxruntime {onnxruntime.__version__} is built without CUDA.",
                why=f"Its providers are {', '.join(available)}.",
                fix='pip uninstall -y onnxruntime && pip install "dyndeploy[onnxruntime-gpu]"',
            )
        opened = cls._open(source, threads, [(provider, {"device_id": str(device), "use_tf32": str(int(tf32))})])
        assert opened._session is not None
        if provider not in opened._session.get_providers():
            opened.close()
            raise UnavailableError(
                "ONNX Runtime's CUDA provider does not start, and it fell back to the CPU.",
                why="There is no GPU or driver, or CUDA and cuDNN are not those that it was built for.",
                fix='nvidia-smi; pip install "onnxruntime-gpu[cuda,cudnn]"',
            )
        return opened


def widened_nodes(model: bytes, arrays: Mapping[str, np.ndarray[Any, Any]]) -> set[str]:
    """The nodes that the CPU provider runs in float32 in a float16 model, as its profile of a run tells.

    It has next to no kernels in float16, and widens whole stretches of a graph. A kernel of ours in such a stretch gets
    values that were never rounded to float16, another one does.

    Args:
        model: a serialized model.
        arrays: its inputs.
    """
    options = _options(None, library_path("onnxruntime"))
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "run")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        session.run(None, dict(arrays))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = {e["name"]: e["args"].get("input_type_shape") for e in events if e.get("cat") == "Node"}
    kernels = {name.removesuffix("_kernel_time"): types for name, types in ran.items() if types}
    return {name for name, types in kernels.items() if "float" in types[0]}


def _options(threads: int | None, kernels: Path | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    if kernels is not None:
        options.register_custom_ops_library(str(kernels))
    options.log_severity_level = _FATAL_ONLY  # what goes wrong is raised, and said once
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _load(
    source: Source, threads: int | None, providers: list[Any], kernels: Path | None
) -> onnxruntime.InferenceSession:
    options = _options(threads, kernels)
    model: str | bytes = source if isinstance(source, bytes) else str(_path(source))
    label = "The model" if isinstance(model, bytes) else model
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # its exceptions have no common base
        found = _NO_KERNEL.search(str(error))
        if found:
            raise UnavailableError(
                f"onnxruntime {onnxruntime.__version__} has no {_name(providers[0])} kernel for {found[1]} "
                f"(node {found[2]!r}) in its dtype.",
                fix=_fix_for(found[1]),
            ) from error
        raise DynError(f"{label} cannot be loaded by onnxruntime {onnxruntime.__version__}.", why=str(error)) from error
    session.disable_fallback()  # else a failing run is repeated on the CPU
    return session


def _fix_for(op_type: str) -> str:
    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if op_type == "DeformConv" and version < _DEFORM_CONV_SINCE:
        return "Export with body='gridsample', or install onnxruntime >= 1.25 (Python >= 3.11)."
    return "Export with precision='fp32' or 'fp16', or run the model in another runtime."


def _path(source: Bundle | Path) -> Path:
    return source.onnx_path if isinstance(source, Bundle) else source


def _name(provider: str | tuple[str, Any]) -> str:
    name = provider if isinstance(provider, str) else provider[0]
    return name.removesuffix("ExecutionProvider")


def _specs(arguments: Sequence[Any]) -> list[TensorSpec]:
    """Specs of a bare file, from what ONNX Runtime says of its inputs or outputs."""
    specs = []
    for argument in arguments:
        if argument.type not in _DTYPES:
            raise DynError(f"{argument.name} is {argument.type}, which no session can take or give.")
        shape = [d if isinstance(d, (int, str)) and d else f"{argument.name}_{i}" for i, d in enumerate(argument.shape)]
        specs.append(TensorSpec(name=argument.name, dtype=_DTYPES[argument.type], shape=tuple(shape)))
    return specs


def _ort_value(array: np.ndarray[Any, Any]) -> onnxruntime.OrtValue:
    array = np.ascontiguousarray(array)
    if array.dtype == ml_dtypes.bfloat16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _array(value: onnxruntime.OrtValue) -> np.ndarray[Any, Any]:
    if value.element_type() != _BFLOAT16:
        array: np.ndarray[Any, Any] = value.numpy()
        return array
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, ml_dtypes.bfloat16).reshape(value.shape()).copy()
