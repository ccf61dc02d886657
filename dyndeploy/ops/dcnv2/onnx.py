"""ModulatedDeformConv2d in ONNX: schema, translation, and two bodies of standard ops."""

from __future__ import annotations

import onnx_ir as ir

from dyndeploy.ops._onnx import Body, register_schema, translation
from dyndeploy.ops._spec import spec_of

SPEC = spec_of("dcnv2")
SCHEMA = register_schema(SPEC)
translate = translation(SPEC)


def body() -> ir.Function:
    """The standard DeformConv: ONNX Runtime >= 1.25, TensorRT (but not TensorRT for RTX, which has no importer)."""
    b = Body(SPEC)
    x, offset_mask, weight, bias = b.inputs
    offset, mask = _split(b, offset_mask)
    y = b.DeformConv(
        x,
        weight,
        offset,
        bias,
        mask,
        strides=b.reference("strides"),
        pads=b.reference("pads"),
        dilations=b.reference("dilations"),
        group=b.reference("group"),
        offset_group=b.reference("offset_group"),
    )
    return b.function(b.relu(y))


def gridsample_body() -> ir.Function:
    """One GridSample over all taps, then a grouped 1x1 convolution: for runtimes without DeformConv.

    GridSample divides by size - 1 with align_corners=1; the map is padded by one pixel on each side, which leaves the
    border rule as it is (what lies outside is 0) and keeps the division defined for maps of one row or column.
    """
    b = Body(SPEC)
    x, offset_mask, weight, bias = b.inputs
    offset, mask = _split(b, offset_mask)
    batch, channels = b.size(x, 0), b.size(x, 1)
    groups = b.attribute_1d("offset_group")
    kernel = b.Shape(weight, start=2)
    out = b.Shape(offset_mask, start=2)
    ho, wo = b.size(offset_mask, 2), b.size(offset_mask, 3)

    # Sampling positions [N*G, K*Ho, Wo, 2] in pixels of the padded map, computed in float32 in any dtype of x.
    kh, kw = b.Split(kernel, num_outputs=2, outputs=2)
    taps = b.ReduceProd(kernel, keepdims=1)
    rows, columns = (_tap_grid(b, axis, kh, kw) for axis in (0, 1))
    offset = b.Cast(b.Reshape(offset, b.dims(-1, taps, 2, ho, wo)), to=ir.DataType.FLOAT)
    oy, ox = b.Split(offset, num_outputs=2, axis=2, outputs=2)
    positions = []
    for axis, (o, tap) in enumerate(((oy, rows), (ox, columns))):
        base = _output_grid(b, axis, b.Gather(out, b.number(axis)))
        o = b.Squeeze(o, b.ints(2))  # [N*G, K, Ho, Wo]
        base = b.Unsqueeze(base, b.ints(1)) if axis == 0 else base
        absolute = b.Add(b.Add(o, tap), base)
        size = b.Cast(b.size(x, 2 + axis), to=ir.DataType.FLOAT)
        # padded position = absolute + 1 in a map of size + 2, normalised by 2 / (size + 1)
        two, one = b.Constant(value_float=2.0), b.Constant(value_float=1.0)
        positions.append(b.Sub(b.Div(b.Mul(b.Add(absolute, one), two), b.Add(size, one)), one))
    y_grid, x_grid = (b.Unsqueeze(p, b.ints(4)) for p in positions)
    grid = b.Reshape(b.Concat(x_grid, y_grid, axis=4), b.dims(b.Mul(batch, groups), -1, wo, 2))

    padded = b.Pad(x, b.ints(0, 0, 1, 1, 0, 0, 1, 1))
    padded = b.Reshape(
        b.Cast(padded, to=ir.DataType.FLOAT),
        b.dims(b.Mul(batch, groups), b.Div(channels, groups), b.Shape(padded, start=2)),
    )
    sampled = b.GridSample(padded, grid, mode="linear", padding_mode="zeros", align_corners=1)
    sampled = b.Reshape(sampled, b.dims(batch, groups, b.Div(channels, groups), taps, b.Mul(ho, wo)))
    mask = b.Cast(b.Reshape(mask, b.dims(batch, groups, 1, taps, b.Mul(ho, wo))), to=ir.DataType.FLOAT)
    columns_ = b.CastLike(b.Mul(sampled, mask), x)
    columns_ = b.Reshape(columns_, b.dims(batch, b.Mul(channels, taps), ho, wo))
    flat_weight = b.Reshape(weight, b.dims(b.size(weight, 0), b.Mul(b.size(weight, 1), taps), 1, 1))
    y = b.Conv(columns_, flat_weight, bias, group=b.reference("group"))
    return b.function(b.relu(y))


def _split(b: Body, offset_mask: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Offsets [N, 2*G*K, Ho, Wo] and activated masks [N, G*K, Ho, Wo]."""
    first, second, mask = b.Split(offset_mask, axis=1, num_outputs=3, outputs=3)
    mask = b.Where(b.switch("sigmoid"), b.Sigmoid(mask), mask)
    mask = b.Mul(mask, b.CastLike(b.attribute("mask_scale"), mask))
    return b.Concat(first, second, axis=1), mask


def _tap_grid(b: Body, axis: int, kh: ir.Value, kw: ir.Value) -> ir.Value:
    """dilation * row (axis 0) or column (axis 1) of every tap, [K, 1, 1] float32."""
    size = b.Squeeze((kh, kw)[axis], b.ints(0))
    line = b.Mul(b.Range(b.number(0), size, b.number(1)), b.Gather(b.attribute("dilations"), b.number(axis)))
    line = b.Unsqueeze(line, b.ints(1 - axis))
    grid: ir.Value = b.Cast(b.Reshape(b.Expand(line, b.dims(kh, kw)), b.ints(-1, 1, 1)), to=ir.DataType.FLOAT)
    return grid


def _output_grid(b: Body, axis: int, size: ir.Value) -> ir.Value:
    """stride * position - pad along one output axis, [size] float32."""
    line = b.Mul(b.Range(b.number(0), size, b.number(1)), b.Gather(b.attribute("strides"), b.number(axis)))
    line = b.Sub(line, b.Gather(b.attribute("pads"), b.number(axis)))
    grid: ir.Value = b.Cast(line, to=ir.DataType.FLOAT)
    return grid
