"""DynamicGroupConv2d in ONNX: schema, translation, and a body of standard ops."""

from __future__ import annotations

import onnx_ir as ir

from dyndeploy.ops._onnx import Body, register_schema, translation
from dyndeploy.ops._spec import spec_of

SPEC = spec_of("dgc")
SCHEMA = register_schema(SPEC)
translate = translation(SPEC)


def body() -> ir.Function:
    """A gated copy of x per head, and one grouped convolution.

    Dropped channels are multiplied too, by zero: a plain convolution's arithmetic, and heads times its
    memory.
    """
    b = Body(SPEC)
    x, saliency, weight, bias = b.inputs
    batch, channels, heads = b.size(x, 0), b.size(x, 1), b.attribute_1d("heads")
    s = _by_head(b, saliency)
    gate = b.Where(_dropped(b, s), b.real(0.0, s), s)
    gated = b.Mul(b.Unsqueeze(x, b.ints(1)), b.Unsqueeze(gate, b.ints(3, 4)))
    gated = b.Reshape(gated, b.dims(batch, b.Mul(heads, channels), b.Shape(x, start=2)))
    y = b.Conv(
        gated,
        weight,
        bias,
        strides=b.reference("strides"),
        pads=b.reference("pads"),
        dilations=b.reference("dilations"),
        group=b.reference("heads"),
    )
    return b.function(b.relu(b.Gather(y, _order(b, weight, heads), axis=1)))


def choice() -> ir.Function:
    """The channels that every head keeps, as the body takes them."""
    b = Body(SPEC)
    _, saliency, _, _ = b.inputs
    return b.choice(b.Not(_dropped(b, _by_head(b, saliency))), ir.DataType.BOOL)


def _by_head(b: Body, saliency: ir.Value) -> ir.Value:
    """Saliencies [N, heads, C]."""
    s: ir.Value = b.Reshape(saliency, b.dims(b.size(saliency, 0), b.attribute_1d("heads"), -1))
    return s


def _dropped(b: Body, saliency: ir.Value) -> ir.Value:
    """Which of the saliencies [N, heads, C] are dropped, bool.

    The limit is found and compared in float32 in any dtype of x: `threshold` is a float32, and not every
    runtime has TopK in the half types. A column of -1, below every saliency, makes the limit the
    (inactive+1)-th smallest, which exists, and drops nothing, when inactive is 0.
    """
    inactive, none = b.attribute_1d("inactive"), b.ints(0)
    s = b.Cast(saliency, to=ir.DataType.FLOAT)
    below = b.Expand(b.Constant(value_float=-1.0), b.dims(b.Shape(s, end=2), 1))
    smallest, _ = b.TopK(
        b.Concat(s, below, axis=2),
        b.Add(b.Max(inactive, none), b.ints(1)),
        axis=2,
        largest=0,
        sorted=1,
        outputs=2,
    )
    limit = b.ReduceMax(smallest, b.ints(2), keepdims=1)
    limit = b.Where(b.Less(inactive, none), b.attribute("threshold"), limit)
    dropped: ir.Value = b.LessOrEqual(s, limit)
    return dropped


def _order(b: Body, weight: ir.Value, heads: ir.Value) -> ir.Value:
    """The row of weight that every output channel is, [O]."""
    rows = b.Range(b.number(0), b.Squeeze(b.size(weight, 0), b.ints(0)), b.number(1))
    shuffled = b.Transpose(b.Reshape(rows, b.dims(heads, -1)), perm=[1, 0])
    order: ir.Value = b.Where(b.switch("shuffle"), b.Reshape(shuffled, b.ints(-1)), rows)
    return order
