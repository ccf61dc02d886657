"""`enliven`: afterwards nothing in a fresh network is idle."""

import pytest
import torch

from dyndeploy.models.dcnv2 import resnet50_dcnv2
from dyndeploy.models.ddf import ddf_resnet50
from dyndeploy.nn import DDF, ModulatedDeformConv2d
from dyndeploy.testing.weights import enliven

SMALL = {"width": 20, "layers": (1, 1, 1, 1), "num_classes": 5}


@pytest.mark.parametrize(("network", "layer"), [(resnet50_dcnv2, ModulatedDeformConv2d), (ddf_resnet50, DDF)])
def test_every_parameter_matters(network, layer):
    torch.manual_seed(0)
    model, x = enliven(network(**SMALL), torch.randn(2, 3, 64, 64)), torch.randn(2, 3, 64, 64)
    assert not model.training
    y = model(x)
    assert 0.01 < y.std() < 100, "activations keep their size"
    y.square().sum().backward()
    assert [name for name, p in model.named_parameters() if not p.grad.any()] == []
    assert any(isinstance(m, layer) for m in model.modules())


def test_deterministic_and_without_side_effects():
    def made():
        torch.manual_seed(1)
        return resnet50_dcnv2(**SMALL)

    x = torch.randn(2, 3, 64, 64)
    first, second = enliven(made(), x), made()
    state = torch.random.get_rng_state()
    enliven(second, x)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    assert {m.momentum for m in second.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}
