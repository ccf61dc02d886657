"""What the passes share: constants in and out of a graph, and a node that takes over its only consumer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from dyndeploy.errors import DynError
from dyndeploy.ops._spec import DOMAIN, OpSpec, spec_of

#: Node metadata: the node of model.pt2 that computes the value of this node's output.
REFERENCE = "dyndeploy.reference"
#: Node metadata of a custom op: the node of model.pt2 that is the op itself.
SOURCE = "dyndeploy.source"

Array = np.ndarray[Any, Any]


def custom_spec(node: ir.Node | None) -> OpSpec | None:
    """The OpSpec of a custom op node, None for any other node."""
    return spec_of(node.op_type) if node is not None and node.domain == DOMAIN else None


def custom_nodes(model: ir.Model) -> list[tuple[ir.Node, OpSpec]]:
    """The custom op nodes of a model, in graph order, with their specs."""
    return [(node, spec) for node in model.graph if (spec := custom_spec(node))]


def input_of(node: ir.Node, spec: OpSpec, tensor: str) -> ir.Value:
    """The value that feeds input `tensor` of a custom op node."""
    value = node.inputs[[t.name for t in spec.inputs].index(tensor)]
    assert value is not None, "custom ops have a fixed arity"
    return value


def set_input(node: ir.Node, spec: OpSpec, tensor: str, value: ir.Value) -> None:
    """Feed input `tensor` of a custom op node with another value."""
    node.replace_input_with([t.name for t in spec.inputs].index(tensor), value)


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The value of an attribute, or `default` when the node does not write it."""
    attr = node.attributes.get(name)
    return default if attr is None else attr.value


def constant(value: ir.Value | None) -> Array | None:
    """The array of an initializer or Constant node, None for anything computed or fed."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def add_constant(graph: ir.Graph, array: Array, stem: str) -> ir.Value:
    """A new initializer with a name of its own. Initializers are never changed: exporters share equal ones."""
    name, count = stem, 0
    while name in graph.initializers:
        count += 1
        name = f"{stem}_{count}"
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The single node that uses `value`; None when there are more, or when it is an output of the graph."""
    consumers = [use.node for use in value.uses()]
    return consumers[0] if len(consumers) == 1 and not value.is_graph_output() else None


def only_reader(value: ir.Value) -> ir.Node | None:
    """As `only_consumer`, where Shape nodes do not count.

    The exporter takes a size from whichever value has it first, the output of a convolution say. What follows may
    still be fused into that convolution, as long as the shape stays.
    """
    readers = [use.node for use in value.uses() if use.node.op_type != "Shape" or use.node.domain]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def absorb(node: ir.Node, consumer: ir.Node) -> None:
    """Remove `consumer`, the only reader of the node's output: the node now computes (and is called) what it did."""
    mine, theirs = node.outputs[0], consumer.outputs[0]
    name, graph = theirs.name, node.graph
    assert graph is not None
    ir.convenience.replace_all_uses_with(theirs, mine, replace_graph_outputs=True)
    graph.remove(consumer, safe=True)
    mine.name = name
    if REFERENCE in consumer.metadata_props:
        node.metadata_props[REFERENCE] = consumer.metadata_props[REFERENCE]
    else:
        node.metadata_props.pop(REFERENCE, None)


def require_no_bodies(model: ir.Model, what: str) -> None:
    """Raise DynError when function bodies are attached already: a pass over the main graph would leave them behind."""
    if model.functions:
        raise DynError(f"{what} runs before the function bodies are attached, but the model has some already.")
