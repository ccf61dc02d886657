"""CastPrecision: what becomes low, what stays float32, and that the result is valid and right."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.graph import apply
from dyndeploy.graph.attach_bodies import AttachBodies
from dyndeploy.graph.cast_precision import CastPrecision

LOW = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


class Mixed(nn.Module):
    """Ordinary layers, an op of FP32_OPS, an epsilon that float16 cannot hold, and a Resize."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x)))
        y = F.interpolate(y, scale_factor=2.0, mode="nearest")
        y = y / torch.exp(-y).clamp_min(1e-9)
        return y, y.mean((2, 3)) > 0


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("low_io", [False, True])
def test_the_graph_is_low_and_its_edges_are_as_asked(precision, low_io, lowered):
    model = lowered(Mixed().eval(), torch.randn(2, 3, 6, 5))
    names = ([v.name for v in model.graph.inputs], [v.name for v in model.graph.outputs])
    inner = {v.name for n in model.graph for v in n.outputs} - set(names[1])
    cast = CastPrecision(precision, io=precision if low_io else "fp32")
    cast(model)
    edge = LOW[precision] if low_io else ir.DataType.FLOAT
    assert model.graph.inputs[0].dtype == edge
    assert model.graph.outputs[0].dtype == edge
    assert model.graph.outputs[1].dtype == ir.DataType.BOOL
    assert ([v.name for v in model.graph.inputs], [v.name for v in model.graph.outputs]) == names
    assert inner <= {v.name for n in model.graph for v in n.outputs}
    conv = next(n for n in model.graph if n.op_type == "Conv")
    assert {v.dtype for v in (*conv.inputs, *conv.outputs)} == {LOW[precision]}
    exp = next(n for n in model.graph if n.op_type == "Exp")
    assert {v.dtype for v in (*exp.inputs, *exp.outputs)} == {ir.DataType.FLOAT}
    assert any("(Exp): range" in line for line in cast.kept)
    assert any("becomes 0" in line for line in cast.kept) == (precision == "fp16"), "bfloat16 holds 1e-9"
    model.ir_version = 10
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_float16_runs_and_stays_close(lowered, run):
    module = Mixed().eval()
    model = lowered(module, torch.randn(2, 3, 6, 5))
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 5)).astype("f")
    before = run(model, {"x": x})[0]
    CastPrecision("fp16")(model)
    after = run(model, {"x": x})[0]
    assert after.dtype == np.float32
    assert np.linalg.norm(after - before) < 2e-3 * np.linalg.norm(before)
    assert not np.array_equal(after, before)


def test_what_is_asked_for_stays(lowered):
    model = lowered(Mixed().eval(), torch.randn(2, 3, 6, 5))
    cast = CastPrecision("fp16", keep=["Conv"])
    cast(model)
    conv = next(n for n in model.graph if n.op_type == "Conv")
    assert {v.dtype for v in (*conv.inputs, *conv.outputs)} == {ir.DataType.FLOAT}
    assert f"{conv.name} (Conv): asked for" in cast.kept


def test_a_weight_that_overflows_stays(lowered):
    module = nn.Conv2d(3, 4, 1)
    module.weight.data[0, 0] = 1e6
    model = lowered(module, torch.randn(2, 3, 2, 2))
    cast = CastPrecision("fp16")
    cast(model)
    assert ["overflows" in line for line in cast.kept] == [True]


def test_bad_requests(lowered):
    model = lowered(Mixed().eval(), torch.randn(2, 3, 6, 5))
    with pytest.raises(DynError, match="keep_fp32 names Softmax"):
        apply(model, [CastPrecision("fp16", keep=["Softmax"])])
    from dyndeploy.nn import ModulatedDeformConv2d

    model = lowered(ModulatedDeformConv2d(3, 4, 3), torch.randn(2, 3, 6, 5))
    AttachBodies()(model)
    with pytest.raises(DynError, match="before the function bodies"):
        apply(model, [CastPrecision("fp16")])


def test_a_subgraph_is_refused():
    text = """<ir_version: 10, opset_import: ["": 22]>
    g (bool c, float[2] x) => (float[2] y) {
      y = If (c) <then_branch = t () => (float[2] a) { a = Neg(x) }, else_branch = e () => (float[2] b) { b = Abs(x) }>
    }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    with pytest.raises(DynError, match="subgraph"):
        apply(model, [CastPrecision("fp16")])


def test_constants_made_in_nodes_and_shared_initializers():
    text = """<ir_version: 10, opset_import: ["": 22]>
    g (float[2] x, int64[1] n) => (float[2] y, float[m] z) <float[2] w = {1.0, 70000.0}> {
      half = Constant <value_float = 0.5> ()
      filled = ConstantOfShape <value = float[1] {0.25}> (n)
      zeros = ConstantOfShape (n)
      made = Cast <to = 1> (n)
      a = Mul(x, half)
      b = Max(a, made)
      big = Mul(b, w)
      y = Add(big, b)
      z = Add(filled, zeros)
    }"""
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    CastPrecision("fp16")(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    y, z = onnxruntime.InferenceSession(proto.SerializeToString()).run(
        None, {"x": np.array([2.0, 4.0], "f"), "n": np.array([3])}
    )
    np.testing.assert_array_equal(y, np.array([6.0, 210003.0], "f"))
    np.testing.assert_array_equal(z, np.full(3, 0.25, "f"))


def test_bfloat16_weights_are_rounded_once(lowered):
    module = nn.Conv2d(3, 4, 1)
    model = lowered(module, torch.randn(2, 3, 2, 2))
    CastPrecision("bf16")(model)
    conv = next(n for n in model.graph if n.op_type == "Conv")
    expected = module.weight.detach().numpy().astype(ml_dtypes.bfloat16)
    assert np.array_equal(conv.inputs[1].const_value.numpy(), expected)
