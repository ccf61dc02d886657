"""DecoupledDynamicFilter in ONNX: schema, translation, and the body of standard ops."""

from __future__ import annotations

import onnx_ir as ir

from dyndeploy.ops._onnx import Body, register_schema, translation
from dyndeploy.ops._spec import spec_of

SPEC = spec_of("ddf")
SCHEMA = register_schema(SPEC)
translate = translation(SPEC)


def body() -> ir.Function:
    """Gather the windows, weigh them with both filters, sum over the taps, shuffle the sub-pixels.

    Everything is float32 in any dtype of X: the standard deviation of a half-precision filter can be smaller
    than the smallest half. R = scale*scale sub-pixels, P = Ho*Wo.
    """
    b = Body(SPEC)
    x = b.inputs[0]
    x32, raw_channel, raw_spatial, gain = (b.Cast(v, to=ir.DataType.FLOAT) for v in b.inputs)
    batch, channels = b.size(x, 0), b.size(x, 1)
    heads, scale = b.attribute_1d("heads"), b.attribute_1d("scale")
    per_head = b.Div(channels, heads)
    branches = b.Mul(scale, scale)
    taps = b.ReduceProd(b.attribute("kernel_shape"), keepdims=1)
    windows, out = b.unfold(x32)
    windows = b.Reshape(windows, b.dims(batch, 1, heads, per_head, taps, -1))

    channel = b.Reshape(raw_channel, b.dims(batch, branches, heads, per_head, taps, 1))
    spatial = b.Reshape(raw_spatial, b.dims(batch, branches, heads, 1, taps, -1))
    gain = b.Reshape(gain, b.dims(branches, heads, per_head, taps, 1))
    channel = b.Mul(_filter_norm(b, channel, taps), gain)
    spatial = b.Mul(_filter_norm(b, spatial, taps), b.attribute("spatial_gain"))

    # D = channel * factor + term is the product or the sum; the switch acts on small tensors.
    add = b.switch("combine")
    factor = b.Where(add, b.Constant(value_float=1.0), spatial)
    term = b.Where(add, spatial, b.Constant(value_float=0.0))
    weights = b.Add(b.Mul(channel, factor), term)  # [N, R, heads, C/heads, K, P]
    y = b.ReduceSum(b.Mul(weights, windows), b.ints(4), keepdims=0)

    y = b.Reshape(y, b.dims(batch, scale, scale, channels, out))
    y = b.Transpose(y, perm=[0, 3, 4, 1, 5, 2])  # [N, C, Ho, s, Wo, s]
    y = b.Reshape(y, b.dims(batch, channels, b.Mul(out, scale)))
    return b.function(b.CastLike(b.relu(y), x))


def _filter_norm(b: Body, filters: ir.Value, taps: ir.Value) -> ir.Value:
    """(D - mean) / (unbiased std + 1e-10) over axis 4 if the attribute filter_norm is 1."""
    axis = b.ints(4)
    shifted = b.Sub(filters, b.Gather(filters, b.ints(0), axis=4))  # a constant filter becomes exactly 0
    centred = b.Sub(shifted, b.ReduceMean(shifted, axis, keepdims=1))
    degrees = b.Cast(b.Sub(taps, b.ints(1)), to=ir.DataType.FLOAT)
    std = b.Sqrt(b.Div(b.ReduceSumSquare(centred, axis, keepdims=1), degrees))
    normed = b.Div(centred, b.Add(std, b.Constant(value_float=1e-10)))
    result: ir.Value = b.Where(b.switch("filter_norm"), normed, filters)
    return result
