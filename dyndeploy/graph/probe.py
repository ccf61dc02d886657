"""A copy of a model that also gives out inner values, and what its nodes decide."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import onnx
import onnx_ir as ir

from dyndeploy.errors import DynError
from dyndeploy.ops._onnx import choice_of
from dyndeploy.ops._spec import DOMAIN, PLUGIN_ATTRIBUTES, spec_of


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


def with_choices(model: onnx.ModelProto, nodes: Mapping[str, str]) -> onnx.ModelProto:
    """The model with the decisions of some of its nodes as values of the main graph, and nothing else changed.

    A decision is computed a second time, from the value that the node decides by and by the nodes of its function
    body, so that a runtime decides both times on the same bits. The value that it gives out may be another one:
    ONNX Runtime computes half types in float32 and rounds a value only where somebody reads it.

    Args:
        model: a model with nodes of our domain. It is not modified.
        nodes: name of a node -> name of the new value: regions (int64) [N, Ho, Wo] of a region-aware convolution,
            kept channels (bool) [N, heads, C] of a group convolution.

    Raises:
        DynError: one of the nodes is none of ours.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    functions: dict[str, ir.Function] = {}
    for node in [n for n in probe.graph.node if n.name in nodes]:
        spec = spec_of(node.op_type)
        function = functions.setdefault(node.op_type, choice_of(spec))
        value = node.input[[t.name for t in spec.inputs].index(str(spec.choice))]
        decided = onnx.helper.make_node(function.name, [value], [nodes[node.name]], domain=DOMAIN)
        decided.attribute.extend(a for a in node.attribute if a.name not in PLUGIN_ATTRIBUTES)  # it has no plugin
        probe.graph.node.append(decided)
        dtype = function.outputs[0].dtype
        assert dtype is not None
        probe.graph.value_info.append(onnx.helper.make_tensor_value_info(nodes[node.name], int(dtype), None))
    probe.functions.extend(ir.serde.serialize_function(function) for function in functions.values())
    return probe


def _types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """Value name -> dtype and shape, of what the graph describes."""
    described = [*graph.value_info, *graph.input, *graph.output]
    types = {info.name: info.type for info in described if info.type.tensor_type.elem_type}
    for tensor in graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    return types
