"""What a node is made of, as a digest: goldens cannot reach every weight, a digest does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import onnx
from onnx import numpy_helper


def fingerprints(model: onnx.ModelProto) -> dict[str, str]:
    """Name -> digest of every node of the graph, and of every function body ("dyndeploy::Name").

    A digest covers op type, attributes and the values of the initializers that a node reads; not how it is wired, nor
    what tensors are called or how they are stored.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    result = {node.name: _digest(_parts(node, constants)) for node in model.graph.node}
    for function in model.functions:
        parts = (part for node in function.node for part in _parts(node, {}))
        result[f"{function.domain}::{function.name}"] = _digest(parts)
    return result


def _parts(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Iterator[bytes]:
    yield f"{node.domain}::{node.op_type}".encode()
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        yield attribute.SerializeToString(deterministic=True)
    for position, name in enumerate(node.input):
        if name in constants:
            array = numpy_helper.to_array(constants[name])
            yield f"{position} {array.dtype} {array.shape}".encode()
            yield array.tobytes()


def _digest(parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return f"sha256:{digest.hexdigest()}"
