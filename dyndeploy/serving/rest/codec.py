"""Bodies of inference requests and responses: JSON, and raw tensors behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from dyndeploy._remembered import Remembered
from dyndeploy.bundle import Arrays, Manifest
from dyndeploy.serving.errors import RequestError
from dyndeploy.serving.protocol.datatypes import datatype_of
from dyndeploy.serving.protocol.metadata import MODEL_VERSION
from dyndeploy.serving.protocol.tensors import (
    Declared,
    check_declared,
    declare,
    raw_array,
    refuse_extensions,
    seconds_of,
    wanted_outputs,
)
from dyndeploy.tensors import TensorSpec, bytes_of

_Array = np.ndarray[Any, Any]
#: What so many different heads of requests say is remembered, and of heads up to this size: clients repeat theirs.
_HEADS, _LARGEST_HEAD = 64, 4096


@dataclass
class Layout:
    """What the JSON of a request says beside the numbers.

    Attributes:
        id: the client's name for the request; "" without one.
        tensors: the inputs, each with its binary_data_size or None.
        sizes: of the model's dims.
        outputs: name -> whether it is wanted as raw data, in the order wanted.
        timeout_s: its time limit, in seconds.
        reply: shapes of the outputs, and the JSON of the last response that had them.
    """

    id: str
    tensors: list[tuple[Declared, object]]
    sizes: dict[str, int]
    outputs: dict[str, bool]
    timeout_s: float | None
    reply: tuple[list[tuple[int, ...]], bytes] | None = None


@dataclass(frozen=True)
class Decoded:
    """A request for inference.

    Attributes:
        layout: what its JSON says.
        inputs: arrays that fit the model; views of the body where they can be.
    """

    layout: Layout
    inputs: Arrays


class Codec:
    """Reads the requests for one model, and writes its responses.

    Args:
        name: of the model.
        manifest: of its bundle.
        datatypes: of the outputs, as the protocol calls them.
    """

    def __init__(self, name: str, manifest: Manifest, datatypes: Mapping[str, str]) -> None:
        self._name, self._manifest, self._datatypes = name, manifest, datatypes
        self._layouts: Remembered[bytes, Layout] = Remembered(_HEADS)

    def decode(self, body: bytes | bytearray, start: int, json_length: int | None) -> Decoded:
        """Read a body.

        Args:
            body: the bytes, from `start` on.
            start: where it begins.
            json_length: bytes of JSON, behind which raw tensors lie; None where all of it is JSON.

        Raises:
            DynError: it is not a request that fits the model.
        """
        end = len(body) if json_length is None else start + json_length
        if end > len(body):
            raise RequestError(
                f"Inference-Header-Content-Length is {json_length}, and the body has {len(body) - start} bytes."
            )
        data: list[object] = []
        head = bytes(memoryview(body)[start:end]) if json_length is not None and json_length <= _LARGEST_HEAD else None
        layout = self._layouts.get(head) if head is not None else None
        if layout is None:
            content = _json_object(memoryview(body)[start:end])
            layout = self._layout(content)
            data = [tensor.get("data") for tensor in content["inputs"]]
            if head is not None and all(size is not None for _, size in layout.tensors):
                self._layouts[head] = layout
        arrays: Arrays = {}
        at = end
        for index, (tensor, size) in enumerate(layout.tensors):
            if size is None:
                arrays[tensor.name] = _from_json(data[index], tensor)
            else:
                arrays[tensor.name] = _from_raw(body, at, size, tensor)
                at += tensor.nbytes
        if at != len(body):
            raise RequestError(f"{len(body) - at} bytes follow the last tensor.", fix="Check the sizes of the parts.")
        return Decoded(layout, arrays)

    def _layout(self, content: Mapping[str, Any]) -> Layout:
        manifest = self._manifest
        parameters = _parameters(content, "the request")
        name = content.get("id", "")
        if not isinstance(name, str) or len(name) > 1024:
            raise RequestError("The id is not a string of at most 1024 characters.")
        tensors = _objects(content, "inputs")
        declared = [declare(t.get("name"), t.get("datatype"), t.get("shape")) for t in tensors]
        sizes = check_declared(declared, manifest.inputs, manifest.dims)
        raw = [_parameters(tensor, one.name).get("binary_data_size") for tensor, one in zip(tensors, declared)]
        outputs = _wanted(content, parameters, manifest.outputs)
        return Layout(name, list(zip(declared, raw)), sizes, outputs, seconds_of(parameters.get("timeout")))

    def encode(self, request: Decoded, outputs: Mapping[str, _Array]) -> tuple[list[bytes | memoryview], int | None]:
        """The body of a response.

        Args:
            request: what was asked for.
            outputs: what the model gave.

        Returns:
            (parts, json_length): the parts of the body, and the length of the JSON where raw tensors follow it.
        """
        layout = request.layout
        wanted = [outputs[name] for name in layout.outputs]
        shapes = [array.shape for array in wanted]
        if layout.reply is not None and layout.reply[0] == shapes:
            head = layout.reply[1]
        else:
            described = [
                self._describe(name, array, binary) for (name, binary), array in zip(layout.outputs.items(), wanted)
            ]
            content: dict[str, Any] = {"model_name": self._name, "model_version": MODEL_VERSION}
            if layout.id:
                content["id"] = layout.id
            content["outputs"] = described
            head = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
            if all(layout.outputs.values()):  # there are no numbers in it
                layout.reply = shapes, head
        parts: list[bytes | memoryview] = [head]
        for array, binary in zip(wanted, layout.outputs.values()):
            if binary and array.nbytes:
                parts.append(bytes_of(array))
        return parts, len(head) if any(layout.outputs.values()) else None

    def _describe(self, name: str, array: _Array, binary: bool) -> dict[str, Any]:
        tensor: dict[str, Any] = {"name": name, "datatype": self._datatypes[name], "shape": list(array.shape)}
        if binary:
            tensor["parameters"] = {"binary_data_size": array.nbytes}
        else:
            tensor["data"] = _to_json(array)
        return tensor


def _json_object(text: memoryview) -> dict[str, Any]:
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError("The body is not JSON.", why=f"{error}.") from None
    if not isinstance(content, dict):
        raise RequestError("The body is not a JSON object.", fix='{"inputs": [{"name": …, "shape": …, …}]}')
    return content


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
    return raw_array(body, at, tensor)


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


def _to_json(array: _Array) -> _Array:
    """Flat, and in a dtype that JSON's writer knows."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.astype(np.float32) if flat.dtype.name in ("bfloat16", "float16") else flat
