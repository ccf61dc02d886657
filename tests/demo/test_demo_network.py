import pytest
import torch

from dyndeploy import nn as dyn
from dyndeploy.demo.network import DigitsNet, dynamic_layers


def test_all_five_operators_are_used():
    layers = dynamic_layers(DigitsNet())
    assert layers == ("SCConv2d", "ModulatedDeformConv2d", "DDF", "DRConv2d", "DGConv2d")
    folders = {getattr(dyn, name).__module__.split(".")[-2] for name in layers}
    assert folders == {"dcnv2", "ddf", "drconv", "dgc", "scconv"}


def test_it_is_small():
    assert sum(p.numel() for p in DigitsNet().parameters()) < 150_000


@pytest.mark.parametrize(("classes", "width", "batch"), [(10, 16, 3), (4, 8, 1)])
def test_shapes(classes, width, batch):
    torch.manual_seed(0)
    logits = DigitsNet(classes, width).eval()(torch.rand(batch, 1, 32, 32))
    assert logits.shape == (batch, classes)
    assert logits.isfinite().all()


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = DigitsNet(width=8)
    network(torch.rand(4, 1, 32, 32)).square().sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    dead = [name for name, g in gradients.items() if g is None or not g.isfinite().all() or not g.any()]
    assert dead == []


def test_images_of_a_batch_do_not_influence_each_other():
    torch.manual_seed(0)
    network, images = DigitsNet(width=8).eval(), torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images)[1:2], network(images[1:2]), atol=1e-5, rtol=1e-5)
