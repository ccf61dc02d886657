"""Every node of ours by itself, on the inputs that it gets in the model: compiled kernel against function body."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import onnx
import torch

from dyndeploy.bundle import Arrays
from dyndeploy.graph.probe import with_outputs
from dyndeploy.native import disabled
from dyndeploy.ops._spec import PLUGIN_ATTRIBUTES, OpSpec, spec_of
from dyndeploy.ops._torch import torch_op
from dyndeploy.runtimes import open_session
from dyndeploy.runtimes.program import tensor_of
from dyndeploy.testing.numeric import Array, compare, judge
from dyndeploy.verdict.inner import Anatomy
from dyndeploy.verdict.reading import BODIES, KERNELS
from dyndeploy.verdict.result import OperatorResult

#: Nodes whose inputs are held at a time.
_CHUNK = 4


def compare_operators(anatomy: Anatomy, inputs: Arrays, dtype: str) -> tuple[OperatorResult, ...]:
    """Run every node of ours alone, by its kernel and by its body.

    Errors of one layer do not reach the next here, as they do in a whole model: each node gets what the model's bodies
    compute for it.

    Args:
        anatomy: the model.
        inputs: of the model.
        dtype: in which it computes.

    Returns:
        One result per node, in the order of the model; empty for a model without any.

    Raises:
        UnavailableError: one of the two ways does not run in this dtype.
        DynError: a node fails.
    """
    dynamic = {site.node for site in anatomy.sites if site.dynamic}
    nodes = [node for node in anatomy.model.graph.node if node.name in dynamic]
    constants = {tensor.name: tensor for tensor in anatomy.model.graph.initializer}
    results: list[OperatorResult] = []
    for start in range(0, len(nodes), _CHUNK):
        chunk = nodes[start : start + _CHUNK]
        seen = _read(anatomy.model, inputs, [v for node in chunk for v in node.input if v not in constants])
        results += [_compared(anatomy.model, node, constants, seen, dtype) for node in chunk]
    return tuple(results)


def _read(model: onnx.ModelProto, inputs: Arrays, values: Sequence[str]) -> Arrays:
    """Inner values of the model, its inputs among them."""
    wanted = list(dict.fromkeys(values))
    with open_session(with_outputs(model, [v for v in wanted if v not in inputs]), BODIES) as session:
        seen = session.run(inputs)
    return {v: inputs[v] if v in inputs else seen[v] for v in wanted}


def _compared(
    model: onnx.ModelProto, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], seen: Arrays, dtype: str
) -> OperatorResult:
    spec = spec_of(node.op_type)
    fed = {value: seen[value] for value in node.input if value in seen}
    alone = _alone(model, node, constants, fed)
    with ExitStack() as stack:
        sessions = [stack.enter_context(open_session(alone, runtime)) for runtime in (KERNELS, BODIES)]
        kernel, body = (session.run(fed)[node.output[0]] for session in sessions)
    operands = [seen[v] if v in seen else onnx.numpy_helper.to_array(constants[v]) for v in node.input]
    reference, own = (_reference(spec, node, operands, d) for d in ("float64", dtype))
    error, yardstick = compare(kernel, reference), compare(own, reference)
    return OperatorResult(
        node=node.name,
        op_type=node.op_type,
        kernel=error,
        body=compare(body, reference),
        yardstick=yardstick,
        judgement=judge(error, yardstick, dtype, False),
    )


def _alone(
    model: onnx.ModelProto, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], fed: Arrays
) -> bytes:
    """A model of one node and its body; what is constant in the whole is so here."""
    element = {v: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for v, array in fed.items()}
    elements = [*element.values(), *(constants[v].data_type for v in node.input if v in constants)]
    graph = onnx.helper.make_graph(
        [node],
        node.name,
        [onnx.helper.make_tensor_value_info(v, element[v], array.shape) for v, array in fed.items()],
        [onnx.helper.make_tensor_value_info(node.output[0], elements[0], None)],
        [constants[v] for v in dict.fromkeys(node.input) if v in constants],
    )
    functions = [f for f in model.functions if (f.domain, f.name) == (node.domain, node.op_type)]
    alone = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, functions=functions, ir_version=model.ir_version
    )
    serialized: bytes = alone.SerializeToString()
    return serialized


def _reference(spec: OpSpec, node: onnx.NodeProto, operands: Sequence[Array], dtype: str) -> Array:
    """The op's reference in plain torch."""
    given = dict(_attributes(node))
    values = [bool(given[a.name]) if a.is_switch else given[a.name] for a in spec.attributes]
    tensors = [tensor_of(array).to(getattr(torch, dtype)) for array in operands]
    with disabled(), torch.no_grad():
        result: Array = torch_op(spec)(*tensors, *values).double().numpy()
    return result


def _attributes(node: onnx.NodeProto) -> Iterator[tuple[str, object]]:
    for attribute in node.attribute:
        if attribute.name not in PLUGIN_ATTRIBUTES:
            yield attribute.name, onnx.helper.get_attribute_value(attribute)
