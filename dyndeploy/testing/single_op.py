"""ONNX models of one custom op, with its function body: the smallest thing that a runtime can be tried with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir

from dyndeploy.ops._onnx import OPSET, bodies
from dyndeploy.ops._spec import DOMAIN, PLUGIN_ATTRIBUTES, VERSION, OpSpec

_ELEMENTS = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
}


def single_op_model(
    spec: OpSpec,
    attributes: Mapping[str, Any],
    dtype: str = "float32",
    *,
    shapes: Sequence[Sequence[int | str]] | None = None,
    gridsample: bool = False,
) -> onnx.ModelProto:
    """A checked ONNX model of one node of `spec`, with its body.

    Args:
        spec: the operator.
        attributes: ONNX name -> value; what is left out takes the spec's default.
        dtype: "float32", "float16" or "bfloat16".
        shapes: shapes of the inputs; all dims are symbolic when left out.
        gridsample: take the body of ModulatedDeformConv2d that needs no DeformConv.

    Returns:
        A model whose inputs are called as in the spec and whose output is "Y".

    Raises:
        onnx.checker.ValidationError: the model is not valid ONNX.

    Example:
        >>> from dyndeploy.ops._spec import spec_of
        >>> model = single_op_model(spec_of("drconv"), dict(kernel_shape=[3, 3], regions=4))
        >>> [i.name for i in model.graph.input]
        ['X', 'filters', 'guide', 'B']
    """
    make, element = onnx.helper, _ELEMENTS[dtype]
    values = {**spec.defaults(), **attributes}
    written: dict[str, Any] = {k: list(v) if isinstance(v, Sequence) else v for k, v in values.items()}
    node = make.make_node(
        str(spec.name),
        [t.name for t in spec.inputs],
        [spec.output.name],
        name=f"{spec.key}_0",
        domain=DOMAIN,
        **written,
        **PLUGIN_ATTRIBUTES,
    )
    symbolic = [[f"{t.name}_{axis}" for axis in range(len(t.shape))] for t in spec.inputs]
    graph = make.make_graph(
        [node],
        spec.key,
        [make.make_tensor_value_info(t.name, element, s) for t, s in zip(spec.inputs, shapes or symbolic)],
        [make.make_tensor_value_info(spec.output.name, element, [f"Y_{i}" for i in range(len(spec.output.shape))])],
    )
    body = bodies([spec.key], gridsample=gridsample)[str(spec.name)]
    model = make.make_model(
        graph,
        opset_imports=[make.make_opsetid("", OPSET), make.make_opsetid(DOMAIN, VERSION)],
        functions=[ir.serde.serialize_function(body)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model
