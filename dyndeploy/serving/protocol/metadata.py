"""What the protocol tells of a server and its models; the same for REST and gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dyndeploy._version import version
from dyndeploy.serving.protocol.datatypes import datatype_of
from dyndeploy.tensors import TensorSpec

if TYPE_CHECKING:
    from dyndeploy.serving.models.model import Model

SERVER = "dyndeploy"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
#: A bundle has no versions of its own: the newest one is served, under this name.
MODEL_VERSION = "1"


def server_metadata() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": SERVER, "version": version(), "extensions": list(EXTENSIONS)}


def model_metadata(model: Model) -> dict[str, Any]:
    """Names, datatypes and shapes; -1 is an extent that varies."""
    manifest = model.bundle.manifest
    return {
        "name": model.name,
        "versions": [MODEL_VERSION],
        "platform": _platform(model),
        "inputs": [_tensor(spec, model) for spec in manifest.inputs],
        "outputs": [_tensor(spec, model) for spec in manifest.outputs],
    }


def model_config(model: Model) -> dict[str, Any]:
    """The model as Triton would be configured for it; what Triton has no field for is among the parameters.

    With a batch, `dims` leave its axis out, as Triton's do.
    """
    manifest, batching = model.bundle.manifest, model.batching
    skipped = 1 if batching.dim else 0
    config: dict[str, Any] = {
        "name": model.name,
        "platform": _platform(model),
        "backend": "onnxruntime" if _platform(model) == "onnxruntime_onnx" else "",
        "max_batch_size": model.largest_batch if batching.dim else 0,
        "input": [_config_tensor(spec, model, skipped) for spec in manifest.inputs],
        "output": [_config_tensor(spec, model, skipped) for spec in manifest.outputs],
        "instance_group": [
            {
                "name": model.name,
                "kind": "KIND_GPU" if "cuda" in model.runtime or "tensorrt" in model.runtime else "KIND_CPU",
                "count": model.instances,
            }
        ],
        "default_model_filename": model.bundle.onnx_path.name,
        "parameters": {name: {"string_value": text} for name, text in _parameters(model).items()},
    }
    if batching.rows > 1:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": batching.delay_us}
    return config


def _parameters(model: Model) -> Mapping[str, str]:
    manifest = model.bundle.manifest
    values = {
        "runtime": model.runtime,
        "precision": manifest.precision,
        "created": manifest.created,
        "digest": manifest.files.get(model.bundle.onnx_path.name, ""),
        "batch_dim": model.batching.dim or "",
        "self_test": model.self_test,
    }
    for name, dim in manifest.dims.items():
        values[f"dim.{name}"] = f"{dim.min}:{dim.opt}:{dim.max}" + (f":{dim.multiple}" if dim.multiple > 1 else "")
    for spec in (*manifest.inputs, *manifest.outputs):
        values[f"shape.{spec.name}"] = ",".join(map(str, spec.shape))
        if spec.range:
            values[f"range.{spec.name}"] = f"{spec.range[0]:g}:{spec.range[1]:g}"
    return values


def _platform(model: Model) -> str:
    return "onnxruntime_onnx" if model.runtime.startswith("onnxruntime") else f"dyndeploy_{model.runtime}"


def _shape(spec: TensorSpec, model: Model) -> list[int]:
    """Extents, -1 where they vary; a dim of one size does not."""
    dims = model.bundle.manifest.dims
    sizes = (dims[d] if isinstance(d, str) and d in dims else d for d in spec.shape)
    return [d if isinstance(d, int) else -1 if isinstance(d, str) or d.min != d.max else d.min for d in sizes]


def _tensor(spec: TensorSpec, model: Model) -> dict[str, Any]:
    return {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": _shape(spec, model)}


def _config_tensor(spec: TensorSpec, model: Model, skipped: int) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": f"TYPE_{datatype_of(spec.dtype)}",
        "dims": _shape(spec, model)[skipped:],
    }
