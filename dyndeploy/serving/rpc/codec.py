"""Inference requests and responses as gRPC messages: raw tensors, or typed contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dyndeploy.bundle import Arrays
from dyndeploy.serving.errors import RequestError
from dyndeploy.serving.protocol.datatypes import datatype_of
from dyndeploy.serving.protocol.metadata import MODEL_VERSION
from dyndeploy.serving.protocol.tensors import (
    Declared,
    check_declared,
    declare,
    refuse_extensions,
    seconds_of,
    wanted_outputs,
)
from dyndeploy.serving.rpc.messages import ModelInferResponse
from dyndeploy.tensors import Dim, TensorSpec

_Array = np.ndarray[Any, Any]
# The field of InferTensorContents for each datatype; FP16 and BF16 have none.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


@dataclass(frozen=True)
class Decoded:
    """A request for inference.

    Attributes:
        inputs: arrays that fit the model; views of the message where they can be.
        sizes: of its dims.
        outputs: names of the outputs wanted.
        timeout_s: its time limit, in seconds.
        final_flag: whether a stream's answer says that it is the last one for the request.
    """

    inputs: Arrays
    sizes: dict[str, int]
    outputs: list[str]
    timeout_s: float | None
    final_flag: bool


def decode(
    request: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], dims: Mapping[str, Dim]
) -> Decoded:
    """Read a ModelInferRequest.

    Args:
        request: the message.
        inputs, outputs, dims: of the model.

    Raises:
        DynError: it is not a request that fits the model.
    """
    parameters = _parameters(request.parameters)
    declared = []
    for tensor in request.inputs:
        _parameters(tensor.parameters)
        declared.append(declare(tensor.name, tensor.datatype, list(tensor.shape)))
    sizes = check_declared(declared, inputs, dims)
    arrays: Arrays = {}
    raw = request.raw_input_contents
    if raw and len(raw) != len(declared):
        raise RequestError(f"There are {len(declared)} inputs and {len(raw)} raw_input_contents.")
    for index, (tensor, one) in enumerate(zip(request.inputs, declared)):
        if not raw:
            arrays[one.name] = _from_contents(tensor, one)
            continue
        if tensor.HasField("contents"):
            raise RequestError(f"{one.name} has contents, and the request has raw_input_contents.")
        arrays[one.name] = _from_raw(raw[index], one)
    names = []
    for output in request.outputs:
        _parameters(output.parameters)
        names.append(output.name)
    return Decoded(
        arrays,
        sizes,
        wanted_outputs(names, outputs),
        seconds_of(parameters.get("timeout")),
        parameters.get("triton_enable_empty_final_response") is True,
    )


def _parameters(parameters: Any) -> dict[str, Any]:
    if not parameters:
        return {}
    values = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is not None:
            values[name] = getattr(value, choice)
    refuse_extensions(values)
    return values


def _from_raw(data: bytes, tensor: Declared) -> _Array:
    if len(data) != tensor.nbytes:
        raise RequestError(f"{tensor.name} has {len(data)} bytes; its shape and datatype make {tensor.nbytes}.")
    if tensor.dtype == np.bool_:
        array = np.frombuffer(data, np.uint8)
        if tensor.count and array.max() > 1:
            raise RequestError(f"{tensor.name} is BOOL, and has bytes other than 0 and 1.")
        return array.view(np.bool_).reshape(tensor.shape)
    array = np.frombuffer(data, tensor.dtype)
    return (array if array.flags.aligned else array.copy()).reshape(tensor.shape)


def _from_contents(message: Any, tensor: Declared) -> _Array:
    datatype = datatype_of(tensor.dtype.name)
    field = _CONTENTS.get(datatype)
    if field is None:
        raise RequestError(f"{tensor.name} is {datatype}, which has no typed contents.", fix="Use raw_input_contents.")
    values = getattr(message.contents, field)
    if len(values) != tensor.count:
        raise RequestError(f"{tensor.name} has {len(values)} values in {field}; its shape makes {tensor.count}.")
    if tensor.dtype.kind in "iu" and tensor.dtype.itemsize < 4 and tensor.count:
        wide = np.array(values, np.int64)
        info = np.iinfo(tensor.dtype)
        if wide.min() < info.min or wide.max() > info.max:
            raise RequestError(f"{tensor.name} has numbers beyond {datatype}.")
        return wide.astype(tensor.dtype).reshape(tensor.shape)
    return np.array(values, tensor.dtype).reshape(tensor.shape)


def encode(
    name: str, identity: str, request: Decoded, outputs: Mapping[str, _Array], datatypes: Mapping[str, str]
) -> Any:
    """A ModelInferResponse, its tensors raw.

    Args:
        name: of the model.
        identity: the request's id.
        request: what was asked for.
        outputs: what the model gave.
        datatypes: of the outputs, as the protocol calls them.
    """
    response = ModelInferResponse(model_name=name, model_version=MODEL_VERSION, id=identity)
    for output in request.outputs:
        array = outputs[output]
        response.outputs.add(name=output, datatype=datatypes[output], shape=array.shape)
        response.raw_output_contents.append(array.tobytes())
    if request.final_flag:
        response.parameters["triton_final_response"].bool_param = True
    return response
