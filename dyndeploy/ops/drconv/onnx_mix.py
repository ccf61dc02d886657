"""MixedRegionAwareConv2d in ONNX: schema, translation, and a body of standard ops."""

from __future__ import annotations

import onnx_ir as ir

from dyndeploy.ops._onnx import Body, register_schema, translation
from dyndeploy.ops._spec import spec_of
from dyndeploy.ops.drconv.onnx import convolve, region_of

SPEC = spec_of("drconv_mix")
SCHEMA = register_schema(SPEC)
translate = translation(SPEC)


def body() -> ir.Function:
    """One MatMul that mixes the filters of all samples, then the body of DynamicRegionAwareConv2d."""
    b = Body(SPEC)
    x, share, banks, guide, bias = b.inputs
    mixed = b.MatMul(share, b.Reshape(banks, b.dims(b.size(share, 2), -1)))  # [N, m, O*C*K]
    rows = b.Mul(b.attribute_1d("regions"), b.size(bias, 0))
    filters = b.Reshape(mixed, b.dims(b.size(x, 0), rows, b.size(banks, 1)))
    return b.function(convolve(b, x, filters, guide, bias))


def choice() -> ir.Function:
    """The region of every pixel, as the body takes it."""
    b = Body(SPEC)
    _, _, _, guide, _ = b.inputs
    return b.choice(region_of(b, guide), ir.DataType.INT64)
