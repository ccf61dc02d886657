"""Guided depth upsampling: shapes, its start, that it learns, and its export."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.models import create_model
from dyndeploy.nn import DDFUp
from dyndeploy.pipeline.check import check
from dyndeploy.pipeline.export import export

SMALL = {"channels": 8, "guide_features": 4}


def inputs(scale, n=2, h=3, w=4):
    return torch.rand(n, 1, h, w), torch.rand(n, 3, scale * h, scale * w)


def learned(model):
    """With weights that make every layer do something."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


@pytest.mark.parametrize(("scale", "steps"), [(2, 1), (4, 2), (8, 3), (16, 4)])
def test_a_chain_of_doublings_that_starts_as_bilinear(scale, steps):
    network = create_model("ddf_joint_upsampler", scale=scale, **SMALL)
    assert sum(isinstance(m, DDFUp) and m.scale == 2 for m in network.modules()) == steps
    depth, guide = inputs(scale)
    torch.testing.assert_close(network(depth, guide), F.interpolate(depth, scale_factor=scale, mode="bilinear"))


def test_every_step_is_guided_at_its_own_resolution():
    """Written out: the mean of 4x4 pixels, of 2x2 pixels, and the pixels themselves."""
    network = learned(create_model("ddf_joint_upsampler", scale=8, **SMALL)).double()
    depth, guide = (t.double() for t in inputs(8))
    x, features = network.depth_branch(depth), network.guide_branch(guide)
    for step, size in enumerate((4, 2, 1)):
        part = features[:, 4 * step : 4 * step + 4]
        n, c, h, w = part.shape
        mean = part.reshape(n, c, h // size, size, w // size, size).mean((3, 5))
        x = network.mixers[step](network.upsamplers[step](x, mean)).relu()
    expected = network.head(x) + F.interpolate(depth, scale_factor=8, mode="bilinear")
    torch.testing.assert_close(network(depth, guide), expected)


def test_the_guide_matters():
    network = learned(create_model("ddf_joint_upsampler", scale=4, **SMALL))
    depth, guide = inputs(4)
    assert not torch.allclose(network(depth, guide), network(depth, guide.flip(3)))


def test_other_maps_than_depth():
    network = create_model("ddf_joint_upsampler", scale=2, in_channels=2, guide_channels=1, combine="add", **SMALL)
    y = learned(network)(torch.rand(1, 2, 3, 4), torch.rand(1, 1, 6, 8))
    assert y.shape == (1, 2, 6, 8)


def test_everything_learns():
    network = learned(create_model("ddf_joint_upsampler", scale=4, **SMALL))
    network(*inputs(4, h=6, w=6)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.any(), name


def scenes(count, scale, size=6):
    """A near and a far half with an edge somewhere; the picture shows the edge, the low resolution blurs it."""
    edge = torch.randint(scale, scale * size - scale, (count, 1, 1, 1))
    depth = (torch.arange(scale * size) >= edge).float().expand(-1, 1, scale * size, -1)
    colour = torch.rand(count, 3, 1, 1)
    return F.avg_pool2d(depth, scale), colour + depth * (1 - 2 * colour), depth


def test_learns_to_follow_the_edges_of_the_picture():
    network = create_model("ddf_joint_upsampler", scale=2, **SMALL)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(60):
        low, picture, depth = scenes(4, 2)
        loss = F.mse_loss(network(low, picture), depth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    low, picture, depth = scenes(16, 2)
    with torch.no_grad():
        before = F.mse_loss(F.interpolate(low, scale_factor=2, mode="bilinear"), depth)
        after = F.mse_loss(network(low, picture), depth)
    assert after < before / 2


def test_a_bundle_passes_its_check(tmp_path):
    bundle = export(
        learned(create_model("ddf_joint_upsampler", scale=4, **SMALL)),
        inputs(4),
        tmp_path / "upsampler",
        inputs={"depth": ["batch", 1, "height", "width"], "guide": ["batch", 3, "4*height", "4*width"]},
        dims={"batch": (1, 2, 3), "height": (1, 3, 6), "width": (2, 4, 5)},
        ranges={"depth": (0.0, 10.0), "guide": (0.0, 1.0)},
    )
    assert [op.folder for op in bundle.manifest.ops] == ["ddf"] * 2
    assert str(bundle.manifest.outputs[0]) == "output: float32 [batch, 1, 4*height, 4*width]"
    assert check(bundle, runtimes=["torch", "onnxruntime"]).ok


def made(**options):
    return lambda: create_model("ddf_joint_upsampler", **SMALL, **options)


def run(depth, guide):
    return lambda: create_model("ddf_joint_upsampler", **SMALL)(torch.zeros(depth), torch.zeros(guide))


BAD = {
    "scale": (made(scale=6), "scale=6 is no power of two.*2, 4, 8 or 16"),
    "no scale": (made(scale=1), "scale=1 is no power of two"),
    "negative scale": (made(scale=-4), "scale=-4 is no power of two"),
    "channels": (lambda: create_model("ddf_joint_upsampler", channels=0), "channels=0 is not positive"),
    "size": (run((1, 1, 3, 4), (1, 3, 12, 15)), "guide is 12x15 and the map 3x4, with scale=4.*a guide of 12x16"),
    "batch": (run((1, 1, 3, 4), (2, 3, 12, 16)), "1 maps and 2 guides"),
    "depth": (run((1, 3, 3, 4), (1, 3, 12, 16)), r"map has shape \[1, 3, 3, 4\], expected \[N, 1, H, W\]"),
    "guide": (run((1, 1, 3, 4), (1, 1, 12, 16)), r"guide has shape \[1, 1, 12, 16\], expected \[N, 3, H, W\]"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(call, message):
    with pytest.raises(DynError, match=f"(?s)^.*{message}"):
        call()


def test_it_is_a_module_of_plain_names():
    names = {name.split(".")[0] for name, _ in create_model("ddf_joint_upsampler").named_parameters()}
    assert names == {"depth_branch", "guide_branch", "upsamplers", "mixers", "head"}
    assert isinstance(create_model("ddf_joint_upsampler"), nn.Module)
