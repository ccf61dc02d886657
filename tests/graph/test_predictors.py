"""FusePredictor and WidenPredictor, on models that call torchvision's op; the op's schema stands in for torchvision."""

import numpy as np
import pytest
import torch
from torch import nn

from dyndeploy.graph._rewrite import custom_nodes
from dyndeploy.graph.fold_constants import FoldConstants
from dyndeploy.graph.fuse_predictor import FusePredictor
from dyndeploy.graph.widen_predictor import WidenPredictor
from dyndeploy.nn import ModulatedDeformConv2d


class Model(nn.Module):
    """The ways in which users feed torchvision.ops.deform_conv2d."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.predictor = nn.Conv2d(4, 18 if style == "no mask" else 27, 3, 2, 1)
        self.weight, self.bias = nn.Parameter(torch.randn(6, 4, 3, 3)), nn.Parameter(torch.randn(6))

    def forward(self, x):
        p = self.predictor(x)
        mask = torch.zeros(x.shape[0], 1)
        if self.style == "no mask":
            offset = p
        elif self.style == "chunk":
            first, second, mask = p.chunk(3, dim=1)
            offset, mask = torch.cat([first, second], dim=1), 2 * torch.sigmoid(mask)
        elif self.style == "slice":
            offset, mask = p[:, :18], torch.sigmoid(p[:, 18:])
        elif self.style == "swapped":  # masks first: not our layout, must stay as it is
            offset, mask = p[:, 9:], torch.sigmoid(p[:, :9])
        elif self.style == "raw":  # no sigmoid
            offset, mask = p[:, :18], p[:, 18:]
        return torch.ops.torchvision.deform_conv2d(
            x, self.weight, offset, mask, self.bias, 2, 2, 1, 1, 1, 1, 1, 1, self.style != "no mask"
        )


FUSED = {"chunk": (1, 2.0), "slice": (1, 1.0), "swapped": (0, 1.0), "raw": (0, 1.0), "no mask": (0, 1.0)}


@pytest.mark.parametrize("style", FUSED)
def test_the_op_reads_the_predictor_itself(style, torchvision_op, lowered, run):
    torch.manual_seed(0)
    module = Model(style)
    x = torch.randn(3, 4, 11, 12)
    model = lowered(module, x)
    before = run(model, {"x": x.numpy()})[0]
    for a_pass in (FoldConstants(), FusePredictor(), WidenPredictor()):
        a_pass(model)
    (node, _), sigmoid = custom_nodes(model)[0], FUSED[style]
    assert (node.attributes["sigmoid"].value, node.attributes["mask_scale"].value) == sigmoid
    if style in ("chunk", "slice", "no mask"):
        assert [n.op_type for n in model.graph] == ["Conv", "ModulatedDeformConv2d"]
    else:
        assert "Concat" in [n.op_type for n in model.graph]
    np.testing.assert_allclose(run(model, {"x": x.numpy()})[0], before, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(before, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset_groups", [1, 2])
def test_a_layer_without_masks_ends_in_one_convolution(offset_groups, lowered, run):
    layer = ModulatedDeformConv2d(4, 6, 3, 2, 1, offset_groups=offset_groups, modulated=False)
    nn.init.normal_(layer.predictor.weight, std=0.3)
    x = torch.randn(3, 4, 11, 12)
    model = lowered(layer, x)
    for a_pass in (FoldConstants(), FusePredictor(), WidenPredictor()):
        a_pass(model)
    assert [n.op_type for n in model.graph] == ["Conv", "ModulatedDeformConv2d"]
    np.testing.assert_allclose(run(model, {"x": x.numpy()})[0], layer(x).detach().numpy(), rtol=1e-4, atol=1e-5)
