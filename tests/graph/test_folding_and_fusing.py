"""FoldConstants, FoldBatchNorm, FuseRelu: the graph gets smaller, the function stays."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from dyndeploy.graph import apply
from dyndeploy.graph._rewrite import REFERENCE, SOURCE, custom_nodes
from dyndeploy.graph.fold_batch_norm import FoldBatchNorm
from dyndeploy.graph.fold_constants import FoldConstants
from dyndeploy.graph.fuse_relu import FuseRelu
from dyndeploy.nn import DDF, DDFUp, DGConv2d, DRConv2d, ModulatedDeformConv2d


def randomize(module: nn.Module) -> nn.Module:
    """Weights, and BatchNorm statistics, that no rewrite can ignore."""
    torch.manual_seed(3)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.running_mean)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    for parameter in module.parameters():
        if parameter.abs().sum() == 0:
            nn.init.normal_(parameter, std=0.2)
    return module.eval()


class Followed(nn.Module):
    """A layer, BatchNorm, ReLU."""

    def __init__(self, layer: nn.Module, channels: int) -> None:
        super().__init__()
        self.layer, self.norm = layer, nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(self.norm(self.layer(x)))


LAYERS = {
    "dcnv2": lambda: ModulatedDeformConv2d(8, 12, 3, padding=1, groups=2),
    "dcnv1": lambda: ModulatedDeformConv2d(8, 12, 3, padding=1, modulated=False, bias=False),
    "dgc": lambda: DGConv2d(8, 12, 3, padding=1, heads=2, keep=0.5),
    "drconv-mix": lambda: DRConv2d(8, 12, 3, padding=1, regions=4),
    "drconv-mix-1x1": lambda: DRConv2d(8, 12, 1, bias=False),
    "drconv-paper": lambda: DRConv2d(8, 12, 3, padding=1, regions=4, generator="paper"),
}


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("name", LAYERS)
def test_norm_and_relu_disappear_into_the_op(name, lowered, run):
    model = lowered(randomize(Followed(LAYERS[name](), 12)), torch.randn(2, 8, 7, 9))
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 8, 7, 9)).astype("f")}
    before = run(model, feeds)[0]
    relus = ops(model).count("Relu")
    assert "BatchNormalization" in ops(model)

    apply(model, [FoldConstants(), FoldBatchNorm(), FuseRelu()])
    norms = ops(model).count("BatchNormalization")
    assert norms == (1 if name == "dgc" else 0), "only the pre-activation norm of DGC stays"
    assert ops(model).count("Relu") == relus - 1
    (node, _) = custom_nodes(model)[0]
    assert node.attributes["relu"].value == 1
    assert node.outputs[0].is_graph_output()
    assert node.metadata_props[REFERENCE] == "relu" if name != "dgc" else True
    assert node.metadata_props[SOURCE] != node.metadata_props[REFERENCE]
    np.testing.assert_allclose(run(model, feeds)[0], before, rtol=2e-4, atol=2e-5 * np.abs(before).max())


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_whose_shape_is_read_takes_the_norm_too(bias, run):
    """As in SCNet, whose gates ask a convolution's output for its size; the exporter leaves such a pair alone."""
    rng = np.random.default_rng(0)
    constants = {"W": rng.standard_normal((4, 3, 3, 3)), "b": rng.standard_normal(4)}
    constants |= {name: rng.uniform(0.5, 2, 4) for name in ("gamma", "beta", "mean", "variance")}
    graph = onnx.parser.parse_graph(f"""
        g (float[n, 3, h, w] x) => (float[n, 4, u, v] y, int64[4] size) {{
          conv = Conv <strides = [2, 2]> ({"x, W, b" if bias else "x, W"})
          size = Shape (conv)
          y = BatchNormalization (conv, gamma, beta, mean, variance)
        }}""")
    graph.initializer.extend(onnx.numpy_helper.from_array(a.astype("f"), name) for name, a in constants.items())
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)])
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    feeds = {"x": rng.standard_normal((2, 3, 9, 12)).astype("f")}
    before = run(model, feeds)

    apply(model, [FoldBatchNorm()])
    assert ops(model) == ["Conv", "Shape"]
    after = run(model, feeds)
    np.testing.assert_allclose(after[0], before[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after[1], before[1])


@pytest.mark.parametrize("layer", [lambda: DDF(8, heads=2), lambda: DDFUp(8)])
def test_ddf_takes_the_scale_and_leaves_the_shift(layer, lowered, run):
    model = lowered(randomize(Followed(layer(), 8)), torch.randn(2, 8, 6, 6))
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 8, 6, 6)).astype("f")}
    before = run(model, feeds)[0]
    apply(model, [FoldConstants(), FoldBatchNorm(), FuseRelu()])
    assert "BatchNormalization" not in ops(model)
    (node, _) = custom_nodes(model)[0]
    assert node.attributes["relu"].value == 0, "the shift stands between the op and its ReLU"
    assert REFERENCE not in node.metadata_props
    np.testing.assert_allclose(run(model, feeds)[0], before, rtol=2e-4, atol=2e-5 * np.abs(before).max())


def test_ddf_add_is_left_alone(lowered):
    model = lowered(randomize(Followed(DDF(8, combine="add"), 8)), torch.randn(2, 8, 6, 6))
    FoldBatchNorm()(model)
    assert "BatchNormalization" in ops(model)


class Shared(nn.Module):
    """The layer's output is used twice: nothing may be fused into the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = ModulatedDeformConv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.layer(x)
        return torch.relu(self.norm(y)) + torch.relu(y)


def test_an_output_with_two_users_is_left_alone(lowered):
    model = lowered(randomize(Shared()), torch.randn(2, 4, 5, 5))
    count = len(ops(model))
    apply(model, [FoldConstants(), FoldBatchNorm(), FuseRelu()])
    assert "BatchNormalization" in ops(model)
    assert ops(model).count("Relu") == 2
    assert len(ops(model)) <= count


class Twins(nn.Module):
    """Two layers with equal weights: the exporter stores one initializer for both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (
            Followed(ModulatedDeformConv2d(4, 4, 3, padding=1), 4),
            ModulatedDeformConv2d(4, 4, 3, padding=1),
        )

    def forward(self, x):
        return self.a(x), self.b(x)


def test_folding_never_changes_a_shared_initializer(lowered, run):
    twins = randomize(Twins())
    twins.b.load_state_dict(twins.a.layer.state_dict())
    model = lowered(twins, torch.randn(2, 4, 5, 5))
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 4, 5, 5)).astype("f")}
    before = run(model, feeds)
    apply(model, [FoldConstants(), FoldBatchNorm(), FuseRelu()])
    for new, old in zip(run(model, feeds), before):
        np.testing.assert_allclose(new, old, rtol=2e-4, atol=1e-5)


def test_constants_fold_but_large_ones_stay(lowered):
    class Made(nn.Module):
        def forward(self, x):
            return x + torch.ones(4).repeat(2)[:4].reshape(1, 4, 1, 1), torch.zeros(1, 1).expand(2000, 2000) + x.sum()

    model = lowered(Made(), torch.randn(2, 4, 3, 3))
    FoldConstants()(model)
    kinds = ops(model)
    assert "Reshape" not in kinds
    assert "Tile" not in kinds
    assert "Expand" in kinds, "a 16 MB constant is not worth storing"
