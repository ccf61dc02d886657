"""A copy of a model that also gives out inner values."""

from __future__ import annotations

import os
from collections.abc import Iterable

import onnx

from dyndeploy.errors import DynError


def with_outputs(model: onnx.ModelProto | str | os.PathLike[str], values: Iterable[str]) -> bytes:
    """The serialized model with more outputs, and nothing else changed.

    Args:
        model: a model, or the path of one. It is not modified.
        values: names of values of the main graph. Their dtype stays as it is; a value that is an output
            already, or is named twice, is added once. An input or initializer may be named, too.

    Raises:
        DynError: the graph has no such value, or nothing says what dtype it has.

    Example:
        >>> from dyndeploy.ops._spec import spec_of
        >>> from dyndeploy.testing.single_op import single_op_model
        >>> model = single_op_model(spec_of("drconv"), dict(kernel_shape=[3, 3]))
        >>> [o.name for o in onnx.load_from_string(with_outputs(model, ["guide", "Y"])).graph.output]
        ['Y', 'guide']
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model if isinstance(model, onnx.ModelProto) else onnx.load(os.fspath(model)))
    graph = probe.graph
    present = {output.name for output in graph.output}
    wanted = [name for name in dict.fromkeys(values) if name not in present]
    types = _types(graph)
    if any(name not in types for name in wanted):
        types = _types(onnx.shape_inference.infer_shapes(probe).graph) | types
    for name in wanted:
        if name not in types:
            known = any(name in node.output for node in graph.node)
            raise DynError(
                f"The dtype of {name} is not known." if known else f"The graph has no value {name!r}.",
                fix="Export the model again." if known else None,
            )
        graph.output.add(name=name).type.CopyFrom(types[name])
    described = [info for info in graph.value_info if info.name not in wanted]
    del graph.value_info[:]
    graph.value_info.extend(described)
    serialized: bytes = probe.SerializeToString()
    return serialized


def _types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """Value name -> dtype and shape, of what the graph describes."""
    described = [*graph.value_info, *graph.input, *graph.output]
    types = {info.name: info.type for info in described if info.type.tensor_type.elem_type}
    for tensor in graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    return types
