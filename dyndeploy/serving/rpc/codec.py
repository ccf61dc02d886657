"""Inference requests and responses as gRPC messages: raw tensors, or typed contents.

protobuf copies raw tensors when it reads a message, when it hands them out, and when it writes one. So the raw tensors
at the end of a request are left out of what it reads, and those of a response are written behind what it writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

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
from dyndeploy.serving.rpc.messages import ModelInferRequest, ModelInferResponse
from dyndeploy.tensors import Dim, TensorSpec, bytes_of

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
# Tags of protobuf's wire format: number of the field, and that its length follows.
_RAW_INPUT, _RAW_OUTPUT, _INFER_RESPONSE = bytes([7 << 3 | 2]), bytes([6 << 3 | 2]), bytes([2 << 3 | 2])
#: So many requests that differ in more than the numbers are remembered, by their size and this many first bytes.
_FRAMES, _KEY = 64, 64


@dataclass(frozen=True)
class Frame:
    """What requests that differ only in the numbers of their raw tensors have in common.

    Attributes:
        message: a ModelInferRequest without raw tensors.
        head: its bytes.
        raw: where in a request's bytes each raw tensor begins, and its size.
        marks: where what is between them lies, and the bytes there.
    """

    message: Any
    head: bytes
    raw: list[tuple[int, int]]
    marks: list[tuple[int, bytes]]

    def fits(self, data: bytes) -> bool:
        """Whether a request of the same size has all this too."""
        return data.startswith(self.head) and all(data.startswith(mark, at) for at, mark in self.marks)


class Frames:
    """Reads requests, and remembers what they have in common."""

    def __init__(self) -> None:
        self._known: Remembered[tuple[int, bytes], Frame] = Remembered(_FRAMES)

    def read(self, data: bytes) -> tuple[Frame, bytes]:
        """The frame of a request.

        Args:
            data: a serialised ModelInferRequest.

        Returns:
            (frame, data): the bytes to which the frame applies; those given, but for a client that writes the fields
            in another order than all known ones do, or knows more of them.

        Raises:
            RequestError: it is none.
        """
        key = len(data), data[:_KEY]
        frame = self._known.get(key)
        if frame is not None and frame.fits(data):
            return frame, data
        try:
            message = ModelInferRequest.FromString(data)
        except DecodeError as error:
            raise RequestError("The message cannot be read.", why=f"{error}.") from None
        frame = _frame(message, data)
        if frame is None:
            message.DiscardUnknownFields()
            data = message.SerializeToString()
            frame = _frame(message, data)
            assert frame is not None, "the last field by number is written last"
        elif frame.raw:
            self._known[key] = frame
        return frame, data


def _frame(message: Any, data: bytes) -> Frame | None:
    """The frame of a message and its bytes, or None where its raw tensors do not lie at their end."""
    raw, marks, end = [], [], len(data)
    for tensor in reversed(message.raw_input_contents):
        mark = _RAW_INPUT + _varint(len(tensor))
        raw.append((end - len(tensor), len(tensor)))
        end -= len(tensor) + len(mark)
        marks.append((end, mark))
    if not raw:
        return Frame(message, data, [], [])
    if end < 0:
        return None
    try:
        rest = ModelInferRequest.FromString(data[:end])
    except DecodeError:
        return None
    frame = Frame(rest, data[:end], raw[::-1], marks[::-1])
    return frame if frame.fits(data) and not rest.raw_input_contents else None


@dataclass
class Layout:
    """What a frame asks of one model.

    Attributes:
        tensors: the inputs, as announced.
        sizes: of the model's dims.
        outputs: names of the outputs wanted.
        timeout_s: its time limit, in seconds.
        final_flag: whether a stream's answer says that it is the last one for the request.
        reply: shapes of the outputs, and the bytes before the raw tensors of the last response that had them.
    """

    tensors: list[Declared]
    sizes: dict[str, int]
    outputs: list[str]
    timeout_s: float | None
    final_flag: bool
    reply: tuple[list[tuple[int, ...]], bytes] | None = None


@dataclass(frozen=True)
class Decoded:
    """A request for inference.

    Attributes:
        frame: its message.
        layout: what it asks for.
        inputs: arrays that fit the model; views of the request's bytes where they can be.
    """

    frame: Frame
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
        self._layouts: Remembered[int, tuple[Frame, Layout]] = Remembered(_FRAMES)

    def decode(self, frame: Frame, data: bytes) -> Decoded:
        """Read a request.

        Args:
            frame: of `Frames.read`.
            data: its bytes.

        Raises:
            DynError: it is not a request that fits the model.
        """
        known = self._layouts.get(id(frame))
        if known is not None:  # the frame is kept with it, so that no other one has its id
            layout = known[1]
        else:
            layout = _layout(frame, self._manifest.inputs, self._manifest.outputs, self._manifest.dims)
            if frame.raw:
                self._layouts[id(frame)] = frame, layout
        arrays: Arrays = {}
        if frame.raw:
            for tensor, (at, size) in zip(layout.tensors, frame.raw):
                arrays[tensor.name] = _from_raw(data, at, size, tensor)
        else:
            for given, tensor in zip(frame.message.inputs, layout.tensors):
                arrays[tensor.name] = _from_contents(given, tensor)
        return Decoded(frame, layout, arrays)

    def encode(self, request: Decoded, outputs: Mapping[str, _Array]) -> bytes:
        """A serialised ModelInferResponse, its tensors raw.

        Args:
            request: what was asked for.
            outputs: what the model gave.
        """
        layout = request.layout
        wanted = [outputs[name] for name in layout.outputs]
        shapes = [array.shape for array in wanted]
        if layout.reply is None or layout.reply[0] != shapes:
            response = ModelInferResponse(
                model_name=self._name, model_version=MODEL_VERSION, id=request.frame.message.id
            )
            for name, shape in zip(layout.outputs, shapes):
                response.outputs.add(name=name, datatype=self._datatypes[name], shape=shape)
            if layout.final_flag:
                response.parameters["triton_final_response"].bool_param = True
            layout.reply = shapes, response.SerializeToString()
        parts: list[Any] = [layout.reply[1]]
        for array in wanted:
            parts += (_RAW_OUTPUT, _varint(array.nbytes))
            if array.nbytes:
                parts.append(bytes_of(array))
        return b"".join(parts)


def in_stream(response: bytes) -> bytes:
    """A serialised ModelStreamInferResponse around a serialised ModelInferResponse."""
    return b"".join((_INFER_RESPONSE, _varint(len(response)), response))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _layout(
    frame: Frame, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], dims: Mapping[str, Dim]
) -> Layout:
    request = frame.message
    parameters = _parameters(request.parameters)
    declared = []
    for tensor in request.inputs:
        _parameters(tensor.parameters)
        declared.append(declare(tensor.name, tensor.datatype, list(tensor.shape)))
    sizes = check_declared(declared, inputs, dims)
    if frame.raw and len(frame.raw) != len(declared):
        raise RequestError(f"There are {len(declared)} inputs and {len(frame.raw)} raw_input_contents.")
    for tensor in request.inputs:
        if frame.raw and tensor.HasField("contents"):
            raise RequestError(f"{tensor.name} has contents, and the request has raw_input_contents.")
    names = []
    for output in request.outputs:
        _parameters(output.parameters)
        names.append(output.name)
    return Layout(
        declared,
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


def _from_raw(data: bytes, at: int, size: int, tensor: Declared) -> _Array:
    if size != tensor.nbytes:
        raise RequestError(f"{tensor.name} has {size} bytes; its shape and datatype make {tensor.nbytes}.")
    return raw_array(data, at, tensor)


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
