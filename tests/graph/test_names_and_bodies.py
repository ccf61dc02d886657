"""NameDims and AttachBodies, and what lower() notes on the nodes."""

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from dyndeploy.errors import DynError
from dyndeploy.graph import apply
from dyndeploy.graph._rewrite import REFERENCE, SOURCE, custom_nodes
from dyndeploy.graph.attach_bodies import AttachBodies
from dyndeploy.graph.name_dims import NameDims
from dyndeploy.nn import DRConv2d, ModulatedDeformConv2d
from dyndeploy.tracing.lower import lower
from dyndeploy.tracing.trace import trace


class Two(nn.Module):
    """Two deformable layers and a region-aware one."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(ModulatedDeformConv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.again, self.last = ModulatedDeformConv2d(4, 4, 3, 1, 1), DRConv2d(4, 5, 1)

    def forward(self, x):
        return self.last(self.again(self.stage(x)))


def test_dims_bear_the_users_names():
    traced = trace(
        Two(),
        torch.randn(1, 3, 16, 16),
        inputs={"x": ["batch", 3, "height", "width"]},
        dims={"batch": (1, 2, 3), "height": (8, 16, 64, 8), "width": (8, 16, 32)},
    )
    model = lower(traced.program, ["x"], ["y"])
    assert any(isinstance(d, ir.SymbolicDim) for d in model.graph.inputs[0].shape)
    NameDims(traced.symbols)(model)
    assert str(model.graph.inputs[0].shape) == "[batch,3,height,width]"
    text = "".join(str(v.shape) for node in model.graph for v in node.outputs)
    for symbol in traced.symbols:
        assert symbol not in text
    assert "width" in text


def test_one_body_serves_all_nodes_of_a_type(lowered):
    model = lowered(Two(), torch.randn(2, 3, 8, 8))
    assert [node.op_type for node, _ in custom_nodes(model)] == ["ModulatedDeformConv2d"] * 2 + [
        "MixedRegionAwareConv2d"
    ]
    apply(model, [AttachBodies()])
    assert sorted(f.name for f in model.functions.values()) == ["MixedRegionAwareConv2d", "ModulatedDeformConv2d"]
    assert model.opset_imports["dyndeploy"] == 1
    with pytest.raises(DynError, match="has some already"):
        apply(model, [AttachBodies()])


def test_the_gridsample_body_holds_no_deform_conv(lowered):
    model = lowered(Two(), torch.randn(2, 3, 8, 8))
    AttachBodies(gridsample=True)(model)
    used = {node.op_type for function in model.functions.values() for node in function}
    assert "GridSample" in used
    assert "DeformConv" not in used


def test_nodes_know_the_program_and_nothing_of_this_machine(lowered):
    model = lowered(Two().eval(), torch.randn(2, 3, 8, 8))
    nodes = custom_nodes(model)
    assert [node.name for node, _ in nodes] == ["stage.0", "again", "last"]
    assert [node.metadata_props[SOURCE] for node, _ in nodes] == [
        "modulated_deform_conv2d",
        "modulated_deform_conv2d_1",
        "mixed_region_aware_conv2d",
    ]
    norm = next(n for n in model.graph if n.op_type == "BatchNormalization")
    assert norm.metadata_props[REFERENCE] == "batch_norm"
    proto = ir.to_proto(model)
    assert b".py" not in proto.SerializeToString()
    assert not proto.metadata_props
    for node in proto.graph.node:
        assert {p.key for p in node.metadata_props} <= {REFERENCE, SOURCE}
    onnx.checker.check_model(proto)
