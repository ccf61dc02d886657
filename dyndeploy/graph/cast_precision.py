"""CastPrecision."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from dyndeploy.errors import DynError
from dyndeploy.graph._rewrite import add_constant, constant, custom_spec, require_no_bodies

#: Ops whose results leave the range of float16, or lose all their digits in it, on ordinary activations.
FP32_OPS = frozenset({"CumSum", "Exp", "Log", "Pow", "Range", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare"})

_LOW = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_FLOAT = ir.DataType.FLOAT


class CastPrecision(ir.passes.InPlacePass):
    """Turn a float32 graph into a float16 or bfloat16 one. Precision is a property of the graph, not a flag.

    1. Inputs and outputs keep float32, with a Cast behind and before, unless `io` is the low precision too.
    2. Every float32 tensor becomes low, except the inputs and outputs of nodes that are kept in float32:
       ops of FP32_OPS, nodes whose name or op type is in `keep`, nodes with a constant that the low precision cannot
       hold (overflow, or a scalar that becomes 0: an epsilon), and tensors that ONNX allows in float32 only (Resize's
       scales).
    3. Casts are inserted once per value, right behind its producer.

    Args:
        precision: "fp16" or "bf16".
        io: the precision of the graph's inputs and outputs.
        keep: node names or op types that stay in float32.

    After the pass `kept` lists the nodes that stayed in float32, with the reason.

    Requires: types are known; no function bodies are attached; no control flow.
    Ensures: inputs, outputs and values keep their names.
    """

    def __init__(
        self,
        precision: Literal["fp16", "bf16"],
        *,
        io: Literal["fp32", "fp16", "bf16"] = "fp32",
        keep: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.low = _LOW[precision]
        self.precision = precision
        self.low_io = io != "fp32"
        self.keep = frozenset(keep)
        self.kept: list[str] = []

    def requires(self, model: ir.Model) -> None:
        """See the class."""
        require_no_bodies(model, "CastPrecision")
        names = {n.name for n in model.graph} | {n.op_type for n in model.graph}
        unknown = sorted(self.keep - names)
        if unknown:
            raise DynError(f"keep_fp32 names {', '.join(unknown)}, which the graph does not have.")
        for node in model.graph:
            if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
                raise DynError(
                    f"Node {node.name} ({node.op_type}) has a subgraph; precision={self.precision!r} cannot cast it.",
                    fix="Export with precision='fp32', or write the model without control flow.",
                )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Cast the graph."""
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        graph = model.graph
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._opset = model.opset_imports[""]
        nodes = tuple(graph)
        floats = {v for node in nodes for v in node.outputs if v.dtype == _FLOAT}
        inputs = [v for v in graph.inputs if v.dtype == _FLOAT]
        outputs = [v for v in graph.outputs if v.dtype == _FLOAT]
        initializers = {v for v in graph.initializers.values() if v.dtype == _FLOAT}

        if self.low_io:
            for fed in inputs:
                fed.type = ir.TensorType(self.low)
        for node in nodes:
            reason = self._reason(node, initializers)
            if reason:
                self.kept.append(f"{node.name} ({node.op_type}): {reason}")
            else:
                self._retype_attributes(node)
            for index, value in enumerate(node.inputs):
                if value is None or not (value in initializers or value in floats or value in inputs):
                    continue
                needed = self.low if not reason and self._allows_low(node, index, "inputs") else _FLOAT
                node.replace_input_with(index, self._as(graph, value, needed))
            for index, made in enumerate(node.outputs):
                if made in floats and not reason and self._allows_low(node, index, "outputs"):
                    made.type = ir.TensorType(self.low)
        wanted = self.low if self.low_io else _FLOAT
        for result in outputs:
            if result.dtype != wanted:
                self._cast_output(graph, graph.outputs.index(result), wanted)
        return ir.passes.PassResult(model, True)

    def _reason(self, node: ir.Node, initializers: Collection[ir.Value]) -> str | None:
        """Why a node stays in float32; None when it does not."""
        touches = [v for v in (*node.inputs, *node.outputs) if v is not None and v.dtype in (_FLOAT, self.low)]
        if not touches:
            return None
        if node.name in self.keep or node.op_type in self.keep:
            return "asked for"
        if not node.domain and node.op_type in FP32_OPS:
            return "range"
        for value in node.inputs:
            array = constant(value) if value in initializers else None
            if array is None:
                continue
            with np.errstate(over="ignore", under="ignore"):
                low = array.astype(self._numpy)
            if (np.isfinite(array) & ~np.isfinite(low.astype(np.float32))).any():
                return f"constant {value.name} overflows"  # type: ignore[union-attr]
            if array.size == 1 and array.any() and not low.astype(np.float32).any():
                return f"constant {value.name} becomes 0"  # type: ignore[union-attr]
        return None

    @property
    def _numpy(self) -> np.dtype[np.generic]:
        return np.dtype(np.float16) if self.low == ir.DataType.FLOAT16 else np.dtype(ml_dtypes.bfloat16)

    def _allows_low(self, node: ir.Node, index: int, side: Literal["inputs", "outputs"]) -> bool:
        if custom_spec(node) is not None:
            return True
        return _allows(node.op_type, node.domain, self._opset, side, index, self.low.name)

    def _retype_attributes(self, node: ir.Node) -> None:
        """Cast(to=float32), and ConstantOfShape, whose default is a float32 zero."""
        to = node.attributes.get("to") or node.attributes.get("dtype")
        if to is not None and to.value == int(_FLOAT):
            node.attributes[to.name] = ir.AttrInt64(to.name, int(self.low))
        tensor = node.attributes.get("value")
        if node.op_type == "ConstantOfShape" and (tensor is None or tensor.value.dtype == _FLOAT):
            array = np.zeros(1) if tensor is None else tensor.value.numpy()
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array.astype(self._numpy)))

    def _as(self, graph: ir.Graph, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """The value in the wanted precision: itself, a converted initializer, or a Cast behind its producer."""
        if value.dtype == wanted:
            return value
        if (value, wanted) not in self._casts:
            array = constant(value)
            if value.is_initializer() and array is not None:
                cast = add_constant(graph, array.astype(self._numpy), f"{value.name}.{self.precision}")
            else:
                node = self._cast_node(value, wanted)
                cast = node.outputs[0]
                producer = value.producer()
                if producer is None:
                    graph.insert_before(graph[0], node)
                else:
                    graph.insert_after(producer, node)
            self._casts[value, wanted] = cast
        return self._casts[value, wanted]

    def _cast_node(self, value: ir.Value, wanted: ir.DataType) -> ir.Node:
        node = ir.node("Cast", [value], {"to": int(wanted)}, name=f"{value.name}.to_{wanted.name.lower()}")
        node.outputs[0].name = f"{value.name}.{wanted.name.lower()}"
        node.outputs[0].shape, node.outputs[0].type = value.shape, ir.TensorType(wanted)
        return node

    def _cast_output(self, graph: ir.Graph, index: int, wanted: ir.DataType) -> None:
        """A graph output keeps its name; the value behind it gets a new one."""
        value = graph.outputs[index]
        name = value.name
        node = self._cast_node(value, wanted)
        graph.append(node)
        graph.outputs[index] = node.outputs[0]
        value.name = f"{name}.{self.precision if wanted == _FLOAT else 'fp32'}"
        node.outputs[0].name = name


@functools.cache
def _allows(op_type: str, domain: str, opset: int, side: str, index: int, dtype: str) -> bool:
    """Whether ONNX's schema allows the dtype there."""
    schema = onnx.defs.get_schema(op_type, opset, domain)
    formals = getattr(schema, side)
    formal = formals[min(index, len(formals) - 1)]
    name = {"FLOAT16": "tensor(float16)", "BFLOAT16": "tensor(bfloat16)"}[dtype]
    for constraint in schema.type_constraints:
        if constraint.type_param_str == formal.type_str:
            return name in constraint.allowed_type_strs
    return bool(formal.type_str == name)
