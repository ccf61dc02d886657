"""How an operator becomes ONNX: schema and translation from the OpSpec, and a builder for function bodies."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.defs import OpSchema

from dyndeploy.ops._spec import DOMAIN, PLUGIN_ATTRIBUTES, VERSION, OpSpec, spec_of

#: The opset of exported models and of the bodies: the first with DeformConv in bfloat16.
OPSET = 22

_ATTRIBUTE_TYPES = {
    "int": ir.AttributeType.INT,
    "float": ir.AttributeType.FLOAT,
    "ints": ir.AttributeType.INTS,
}
_ONNX_DTYPES = {"float32": "float", "float16": "float16", "bfloat16": "bfloat16"}


def register_schema(spec: OpSpec) -> OpSchema:
    """Register the op with onnx, so that its checker and its shape inference know it. Registering twice is harmless."""
    assert spec.name
    if onnx.defs.has(spec.name, DOMAIN):
        return onnx.defs.get_schema(spec.name, VERSION, DOMAIN)
    kinds = {"int": OpSchema.AttrType.INT, "float": OpSchema.AttrType.FLOAT, "ints": OpSchema.AttrType.INTS}
    schema = OpSchema(
        spec.name,
        DOMAIN,
        VERSION,
        doc=spec.title,
        inputs=[OpSchema.FormalParameter(t.name, "T", t.doc) for t in spec.inputs],
        outputs=[OpSchema.FormalParameter(spec.output.name, "T")],
        type_constraints=[("T", [f"tensor({_ONNX_DTYPES[d]})" for d in spec.dtypes], "")],
        attributes=[
            *(OpSchema.Attribute(a.name, kinds[a.type], a.doc, required=True) for a in spec.attributes),
            *(OpSchema.Attribute(n, OpSchema.AttrType.STRING, "", required=True) for n in PLUGIN_ATTRIBUTES),
        ],
    )
    schema.set_type_and_shape_inference_function(lambda context: _infer(spec, context))
    onnx.defs.register_schema(schema)
    return schema


def _infer(spec: OpSpec, context: onnx.shape_inference.InferenceContext) -> None:
    """Shape inference: the OpSpec's rule where the dims it needs are known, the rank where they are not."""
    element = context.get_input_type(0)
    result = onnx.TypeProto()
    result.tensor_type.elem_type = element.tensor_type.elem_type
    shapes: list[list[Any]] = []
    for index in range(context.get_num_inputs()):
        dims = context.get_input_type(index).tensor_type.shape.dim
        shapes.append([d.dim_value if d.HasField("dim_value") else None for d in dims])
    attributes = {}
    for a in spec.attributes:
        proto = context.get_attribute(a.name)
        if proto is not None:
            attributes[a.name] = onnx.helper.get_attribute_value(proto)
    for size in _known_output(spec, shapes, attributes):
        dim = result.tensor_type.shape.dim.add()
        if size is not None:
            dim.dim_value = size
    context.set_output_type(0, result)


class _Unknown:
    """A dim that is not known: arithmetic with it is unknown, and it contradicts nothing."""

    def _unknown(self, _other: object = None) -> _Unknown:
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __floordiv__ = __rfloordiv__ = _unknown

    def __mod__(self, _other: object) -> int:
        return 0

    __rmod__ = __mod__

    def __lt__(self, _other: object) -> bool:
        return False

    __gt__ = __ne__ = __lt__

    def __eq__(self, _other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def _known_output(spec: OpSpec, shapes: list[list[Any]], attributes: dict[str, Any]) -> list[int | None]:
    if any(len(s) != len(t.shape) for s, t in zip(shapes, spec.inputs)) or len(attributes) != len(spec.attributes):
        return [None] * len(spec.output.shape)
    filled = [[_Unknown() if d is None else d for d in s] for s in shapes]
    inferred = spec.output_shape(filled, attributes)
    return [d if isinstance(d, int) else None for d in inferred]


def translation(spec: OpSpec) -> Callable[..., Any]:
    """The torch.onnx translation function: the torch op becomes one bare node that writes all its attributes."""
    assert spec.name
    count, name = len(spec.inputs), spec.name

    def translate(*arguments: Any) -> Any:
        from onnxscript.values import Opset  # needed to export only

        attributes: dict[str, Any] = {}
        for a, value in zip(spec.attributes, arguments[count:], strict=True):
            attributes[a.name] = list(value) if a.type == "ints" else float(value) if a.type == "float" else int(value)
        return getattr(Opset(DOMAIN, VERSION), name)(*arguments[:count], **attributes, **PLUGIN_ATTRIBUTES)

    return translate


class Body:
    """Builds a function body: `body.<OnnxOp>(inputs…, attribute=…)` appends a node and returns its output.

    One body serves every node of its op type in a model, so nothing of one node may enter it: attributes come by
    reference (`attribute` as a tensor, `reference` to pass one through), sizes by Shape.

    Example:
        >>> from dyndeploy.ops._spec import spec_of
        >>> body = Body(spec_of("drconv"))
        >>> x, filters, guide, bias = body.inputs
        >>> body.ArgMax(guide, axis=1, keepdims=1).producer().op_type
        'ArgMax'
    """

    def __init__(self, spec: OpSpec) -> None:
        self.spec = spec
        self.inputs = [ir.Value(name=t.name) for t in spec.inputs]
        self._nodes: list[ir.Node] = []

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)

        def append(*inputs: ir.Value | None, outputs: int = 1, **attributes: Any) -> Any:
            attrs = [
                ir.RefAttr(name, str(value.ref_attr_name), value.type)
                if isinstance(value, ir.Attr)
                else ir.convenience.convert_attribute(name, value)
                for name, value in attributes.items()
            ]
            node = ir.Node("", op_type, inputs, attributes=attrs, num_outputs=outputs)
            self._nodes.append(node)
            return node.outputs[0] if outputs == 1 else node.outputs

        return append

    def reference(self, name: str) -> ir.Attr:
        """The op's attribute `name`, to be passed through to an attribute of a node."""
        return ir.RefAttr(name, name, _ATTRIBUTE_TYPES[self.spec.attribute(name).type])

    def attribute(self, name: str) -> ir.Value:
        """The op's attribute `name` as a tensor: [n] int64, or a scalar."""
        reference = self.reference(name)
        constant: ir.Value = self.Constant(**{f"value_{self.spec.attribute(name).type}": reference})
        return constant

    def ints(self, *values: int) -> ir.Value:
        """A constant int64 tensor [n]."""
        return self._literal(np.array(values, np.int64))

    def number(self, value: int) -> ir.Value:
        """A constant int64 scalar."""
        return self._literal(np.array(value, np.int64))

    def _literal(self, array: np.ndarray[Any, Any]) -> ir.Value:
        # As a tensor, not value_ints: ONNX Runtime before 1.25 takes the latter in a body for a scalar.
        constant: ir.Value = self.Constant(value=ir.tensor(array))
        return constant

    def real(self, value: float, like: ir.Value) -> ir.Value:
        """A constant scalar of the dtype of `like`."""
        constant: ir.Value = self.CastLike(self.Constant(value_float=value), like)
        return constant

    def dims(self, *parts: ir.Value | int) -> ir.Value:
        """A shape [n] from scalars, 1-D tensors and ints."""
        joined: ir.Value = self.Concat(*(self.ints(p) if isinstance(p, int) else p for p in parts), axis=0)
        return joined

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """One dim of `value`, as [1]."""
        dim: ir.Value = self.Shape(value, start=axis, end=axis + 1)
        return dim

    def attribute_1d(self, name: str) -> ir.Value:
        """An int attribute as [1], for use in shapes."""
        value: ir.Value = self.Unsqueeze(self.attribute(name), self.ints(0))
        return value

    def switch(self, name: str) -> ir.Value:
        """A 0/1 attribute as a bool scalar, for Where."""
        value: ir.Value = self.Cast(self.attribute(name), to=ir.DataType.BOOL)
        return value

    def relu(self, value: ir.Value) -> ir.Value:
        """max(value, 0) if the attribute `relu` is 1."""
        result: ir.Value = self.Where(self.switch("relu"), self.Relu(value), value)
        return result

    def unfold(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """All windows of x [N, C, H, W] as [N, C, kh, kw, Ho, Wo], and [Ho, Wo] as a tensor.

        Two Gathers, one per axis, at tap * dilation + position * stride: generic in every attribute, and no loop.
        """
        kernel, strides, dilations = (self.attribute(n) for n in ("kernel_shape", "strides", "dilations"))
        one, zeros = self.ints(1), self.ints(0, 0)
        begin, end = self.Split(self.attribute("pads"), num_outputs=2, outputs=2)
        windows = self.Pad(x, self.dims(zeros, begin, zeros, end))
        extent = self.Add(self.Mul(dilations, self.Sub(kernel, one)), one)
        out = self.Add(self.Div(self.Sub(self.Shape(windows, start=2), extent), strides), one)
        zero, step = self.number(0), self.number(1)
        for axis, dim in ((3, 1), (2, 0)):  # columns are copied one by one: first, while there are fewest
            of = [self.Gather(v, self.number(dim)) for v in (kernel, dilations, out, strides)]
            taps = self.Mul(self.Range(zero, of[0], step), of[1])
            positions = self.Mul(self.Range(zero, of[2], step), of[3])
            index = self.Add(self.Unsqueeze(taps, self.ints(1)), self.Unsqueeze(positions, self.ints(0)))
            windows = self.Gather(windows, index, axis=axis)
        return self.Transpose(windows, perm=[0, 1, 2, 4, 3, 5]), out

    def function(self, output: ir.Value) -> ir.Function:
        """The finished body."""
        output.name = self.spec.output.name
        return self._function(str(self.spec.name), self.inputs, output)

    def choice(self, output: ir.Value, dtype: ir.DataType) -> ir.Function:
        """The finished body of the op's decision alone: a function of its own, of the input that decides."""
        output.name, output.dtype = "choice", dtype
        return self._function(f"{self.spec.name}Choice", [v for v in self.inputs if v.name == self.spec.choice], output)

    def _function(self, name: str, inputs: Sequence[ir.Value], output: ir.Value) -> ir.Function:
        graph = ir.Graph(inputs, [output], nodes=self._nodes, opset_imports={"": OPSET}, name=name)
        attributes = [ir.Attr(a.name, _ATTRIBUTE_TYPES[a.type], None) for a in self.spec.attributes]
        return ir.Function(DOMAIN, name, graph=graph, attributes=attributes)


def bodies(keys: Sequence[str], *, gridsample: bool = False) -> dict[str, ir.Function]:
    """ONNX op type -> function body, of some operators.

    Args:
        keys: of the operators: "dcnv2", "drconv_mix".
        gridsample: take the body of ModulatedDeformConv2d that needs no DeformConv kernel.
    """
    result: dict[str, ir.Function] = {}
    for key in keys:
        module = _module(spec_of(key))
        function = module.gridsample_body() if gridsample and hasattr(module, "gridsample_body") else module.body()
        result[function.name] = function
    return result


def choice_of(spec: OpSpec) -> ir.Function:
    """What a node of this operator decides, by the nodes of its body: a function of `spec.choice` alone.

    Its output is what `dyndeploy.runtimes.program` can impose: regions (int64) [N, Ho, Wo], or kept channels (bool)
    [N, heads, C].
    """
    function: ir.Function = _module(spec).choice()
    return function


def _module(spec: OpSpec) -> ModuleType:
    """The operator's onnx.py; it imports this file, and so it is imported when first needed."""
    return importlib.import_module(spec.module("onnx"))
