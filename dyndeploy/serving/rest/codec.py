"""Bodies of inference requests and responses: JSON, and raw tensors behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

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
from dyndeploy.tensors import Dim, TensorSpec

_Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Decoded:
    """A request for inference.

    Attributes:
        id: the client's name for it; "" without one.
        inputs: arrays that fit the model; views of the body where they can be.
        sizes: of its dims.
        outputs: name -> whether it is wanted as raw data, in the order wanted.
        timeout_s: its time limit, in seconds.
    """

    id: str
    inputs: Arrays
    sizes: dict[str, int]
    outputs: dict[str, bool]
    timeout_s: float | None


def decode(
    body: bytes | bytearray,
    start: int,
    json_length: int | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    dims: Mapping[str, Dim],
) -> Decoded:
    """Read a body.

    Args:
        body: the bytes, from `start` on.
        start: where it begins.
        json_length: bytes of JSON, behind which raw tensors lie; None where all of it is JSON.
        inputs, outputs, dims: of the model.

    Raises:
        DynError: it is not a request that fits the model.
    """
    end = len(body) if json_length is None else start + json_length
    if end > len(body):
        raise RequestError(
            f"Inference-Header-Content-Length is {json_length}, and the body has {len(body) - start} bytes."
        )
    try:
        content = orjson.loads(memoryview(body)[start:end])
    except orjson.JSONDecodeError as error:
        raise RequestError("The body is not JSON.", why=f"{error}.") from None
    if not isinstance(content, dict):
        raise RequestError("The body is not a JSON object.", fix='{"inputs": [{"name": …, "shape": …, …}]}')
    parameters = _parameters(content, "the request")
    name = content.get("id", "")
    if not isinstance(name, str) or len(name) > 1024:
        raise RequestError("The id is not a string of at most 1024 characters.")
    tensors = _objects(content, "inputs")
    declared = [declare(t.get("name"), t.get("datatype"), t.get("shape")) for t in tensors]
    sizes = check_declared(declared, inputs, dims)
    arrays: Arrays = {}
    at = end
    for tensor, one in zip(tensors, declared):
        size = _parameters(tensor, one.name).get("binary_data_size")
        if size is None:
            arrays[one.name] = _from_json(tensor.get("data"), one)
        else:
            arrays[one.name] = _from_raw(body, at, size, one)
            at += one.nbytes
    if at != len(body):
        raise RequestError(f"{len(body) - at} bytes follow the last tensor.", fix="Check the sizes of the parts.")
    return Decoded(name, arrays, sizes, _wanted(content, parameters, outputs), seconds_of(parameters.get("timeout")))


def _objects(content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = content.get(key)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise RequestError(f"The request has no list {key!r} of objects.")
    return value


def _parameters(content: Mapping[str, Any], of: str) -> Mapping[str, Any]:
    parameters = content.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(f"The parameters of {of} are not an object.")
    refuse_extensions(parameters)
    return parameters


def _wanted(content: Mapping[str, Any], parameters: Mapping[str, Any], specs: Sequence[TensorSpec]) -> dict[str, bool]:
    everywhere = _flag(parameters, "binary_data_output") or False
    if content.get("outputs") is None:
        return {spec.name: everywhere for spec in specs}
    asked = _objects(content, "outputs")
    names = wanted_outputs([entry.get("name") for entry in asked], specs)
    if not asked:
        return dict.fromkeys(names, everywhere)
    flags = [_flag(_parameters(entry, name), "binary_data") for entry, name in zip(asked, names)]
    return {name: everywhere if flag is None else flag for name, flag in zip(names, flags)}


def _flag(parameters: Mapping[str, Any], name: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise RequestError(f"{name} is {str(value)[:40]!r}, not true or false.")
    return value


def _from_raw(body: bytes | bytearray, at: int, size: object, tensor: Declared) -> _Array:
    if size != tensor.nbytes or isinstance(size, bool):
        raise RequestError(
            f"{tensor.name} has binary_data_size {str(size)[:40]}; its shape and datatype make {tensor.nbytes}."
        )
    if at + tensor.nbytes > len(body):
        raise RequestError(f"The body ends within the data of {tensor.name}.")
    array: _Array
    if tensor.dtype == np.bool_:
        array = np.frombuffer(body, np.uint8, tensor.count, at)
        if tensor.count and array.max() > 1:
            raise RequestError(f"{tensor.name} is BOOL, and has bytes other than 0 and 1.")
        return array.view(np.bool_).reshape(tensor.shape)
    array = np.frombuffer(body, tensor.dtype, tensor.count, at)
    if not array.flags.aligned:  # a kernel may count on it
        array = array.copy()
    return array.reshape(tensor.shape)


def _from_json(data: object, tensor: Declared) -> _Array:
    if not isinstance(data, list):
        raise RequestError(f"{tensor.name} has neither a list 'data' nor binary_data_size.")
    try:
        array = np.asarray(data)
        if tensor.dtype == np.uint64 and array.dtype == np.float64:
            # NumPy has no dtype for small numbers beside those beyond int64, and takes floats.
            exact = np.asarray(data, object)
            if all(type(number) is int and 0 <= number < 2**64 for number in exact.flat):
                array = exact.astype(np.uint64)
    except (ValueError, OverflowError):  # ragged, or nested without end
        raise RequestError(f"The data of {tensor.name} is not a list of numbers, nor a regular nest of them.") from None
    if array.size != tensor.count or (array.ndim > 1 and array.shape != tensor.shape):
        raise RequestError(
            f"The data of {tensor.name} has shape {list(array.shape)}, which is not {list(tensor.shape)}.",
            fix="Nest it as the shape says, or write it flat.",
        )
    return _converted(array, tensor).reshape(tensor.shape)


def _converted(array: _Array, tensor: Declared) -> _Array:
    """The numbers in the tensor's dtype; nothing but rounding to it changes them."""
    wanted = tensor.dtype
    if array.size == 0:
        return np.empty(array.shape, wanted)
    if wanted == np.bool_:
        fits = array.dtype == np.bool_
    elif wanted.kind in "iu":
        fits = array.dtype.kind in "iu"
        if fits:
            info = np.iinfo(wanted)
            if int(array.min()) < info.min or int(array.max()) > info.max:
                raise RequestError(f"{tensor.name} has numbers beyond {datatype_of(wanted.name)}.")
    else:
        fits = array.dtype.kind in "iuf"
    if not fits:
        raise RequestError(f"The data of {tensor.name} is not of the kind {datatype_of(wanted.name)}.")
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array.astype(wanted))
    if wanted.kind not in "biu" and not np.isfinite(converted).all():  # JSON's numbers are finite
        raise RequestError(f"{tensor.name} has numbers beyond {datatype_of(wanted.name)}.")
    return converted


def encode(
    name: str, request: Decoded, outputs: Mapping[str, _Array], datatypes: Mapping[str, str]
) -> tuple[list[bytes | memoryview], int | None]:
    """The body of a response.

    Args:
        name: of the model.
        request: what was asked for.
        outputs: what the model gave.
        datatypes: of the outputs, as the protocol calls them.

    Returns:
        (parts, json_length): the parts of the body, and the length of the JSON where raw tensors follow it.
    """
    described: list[dict[str, Any]] = []
    raw: list[bytes | memoryview] = []
    for output, binary in request.outputs.items():
        array = outputs[output]
        tensor: dict[str, Any] = {
            "name": output,
            "datatype": datatypes[output],
            "shape": list(array.shape),
        }
        if binary:
            tensor["parameters"] = {"binary_data_size": array.nbytes}
            if array.nbytes:
                raw.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        else:
            tensor["data"] = _to_json(array)
        described.append(tensor)
    content: dict[str, Any] = {"model_name": name, "model_version": MODEL_VERSION}
    if request.id:
        content["id"] = request.id
    content["outputs"] = described
    head = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return [head, *raw], len(head) if any(request.outputs.values()) else None


def _to_json(array: _Array) -> _Array:
    """Flat, and in a dtype that JSON's writer knows."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.astype(np.float32) if flat.dtype.name in ("bfloat16", "float16") else flat
