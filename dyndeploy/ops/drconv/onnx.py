"""DynamicRegionAwareConv2d in ONNX: schema, translation, and a body of standard ops."""

from __future__ import annotations

import onnx_ir as ir

from dyndeploy.ops._onnx import Body, register_schema, translation
from dyndeploy.ops._spec import spec_of

SPEC = spec_of("drconv")
SCHEMA = register_schema(SPEC)
translate = translation(SPEC)


def body() -> ir.Function:
    """Unfold, one MatMul for all regions, and a pick per pixel.

    It computes every region everywhere: m times the multiplications of a plain convolution.
    """
    b = Body(SPEC)
    return b.function(convolve(b, *b.inputs))


def convolve(b: Body, x: ir.Value, filters: ir.Value, guide: ir.Value, bias: ir.Value) -> ir.Value:
    """The convolution with filters [N, m*O, C*K], however they were made."""
    batch, regions = b.size(x, 0), b.attribute_1d("regions")
    windows, out = b.unfold(x)
    columns = b.Reshape(windows, b.dims(batch, b.size(filters, 2), -1))
    responses = b.MatMul(filters, columns)  # [N, m*O, Ho*Wo]
    pixels = b.size(responses, 2)
    channels = b.Div(b.size(filters, 1), regions)
    responses = b.Reshape(responses, b.dims(batch, regions, channels, pixels))

    region = b.Reshape(region_of(b, guide), b.dims(batch, 1, 1, pixels))
    region = b.Expand(region, b.dims(batch, 1, channels, pixels))
    y = b.Reshape(b.GatherElements(responses, region, axis=1), b.dims(batch, channels, out))
    return b.relu(b.Add(y, b.Unsqueeze(bias, b.ints(1, 2))))


def choice() -> ir.Function:
    """The region of every pixel, as the body takes it."""
    b = Body(SPEC)
    _, _, guide, _ = b.inputs
    return b.choice(region_of(b, guide), ir.DataType.INT64)


def region_of(b: Body, guide: ir.Value) -> ir.Value:
    """The region of every output pixel, [N, Ho, Wo]; the first of equal logits wins."""
    region: ir.Value = b.ArgMax(guide, axis=1, keepdims=0, select_last_index=0)
    return region
