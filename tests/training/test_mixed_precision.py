"""Every layer trains under autocast, from its ordinary weights and from those where its gradient is a special case."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dyndeploy.demo.network import DigitsNet
from dyndeploy.nn import DDF, DDFUp, DGConv2d, DRConv2d, ModulatedDeformConv2d, SCConv2d
from dyndeploy.training import PruningSchedule, SparsityLoss, ThresholdSchedule, parameter_groups

CONTEXTS = {
    "float32": nullcontext,
    "bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float16": lambda: torch.autocast("cpu", dtype=torch.float16),
}
each_dtype = pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)


def constant(*parameters, value=0.0):
    for parameter in parameters:
        nn.init.constant_(parameter, value)


def zero_filters(layer):
    """Both filters are 0: FilterNorm divides by a standard deviation of 0."""
    for branch in (layer.spatial_branch, layer.channel_branch[2]):
        constant(branch.weight, branch.bias)


def constant_filters(layer):
    """The branches give nine times 0.1, of which the mean is not 0.1 in float32."""
    zero_filters(layer)
    constant(layer.spatial_branch.bias, layer.channel_branch[2].bias, value=0.1)


def at_the_border(layer):
    """Half of all samples lie outside the map, some on its very edge, some on pixels."""
    nn.init.uniform_(layer.predictor.bias, -6, 6)
    layer.predictor.bias[:6] = torch.tensor([-1.0, 0.0, -1.0, 6.0, 5.0, 1.0])


def far_away(layer):
    constant(layer.predictor.bias, value=1e4)


def equal_logits(layer):
    constant(layer.guide_conv.weight)


def no_saliency(layer):
    """All saliencies are 0 behind their ReLU: every channel is a tie."""
    constant(layer.saliency.expand.weight)
    constant(layer.saliency.expand.bias, value=-1.0)


def equal_saliencies(layer):
    constant(layer.saliency.expand.weight)


def as_made(_layer):
    pass


LAYERS = {
    "dcnv2": (lambda: ModulatedDeformConv2d(8, 8, 3, padding=1), as_made),
    "dcnv2 at the border": (lambda: ModulatedDeformConv2d(8, 8, 3, padding=1), at_the_border),
    "dcnv2 far away": (lambda: ModulatedDeformConv2d(8, 8, 3, padding=1), far_away),
    "dcnv1": (lambda: ModulatedDeformConv2d(8, 8, 3, padding=1, modulated=False), at_the_border),
    "ddf": (lambda: DDF(8), as_made),
    "ddf of zeros": (lambda: DDF(8), zero_filters),
    "ddf of constants": (lambda: DDF(8), constant_filters),
    "ddf sum of constants": (lambda: DDF(8, combine="add"), constant_filters),
    "ddf-up of constants": (lambda: DDFUp(8), constant_filters),
    "drconv": (lambda: DRConv2d(8, 8, 3, padding=1), as_made),
    "drconv with ties": (lambda: DRConv2d(8, 8, 3, padding=1), equal_logits),
    "drconv-paper": (lambda: DRConv2d(8, 8, 3, padding=1, generator="paper"), as_made),
    "dgc": (lambda: DGConv2d(8, 8, 3, padding=1), as_made),
    "dgc without saliency": (lambda: DGConv2d(8, 8, 3, padding=1), no_saliency),
    "dgc with ties": (lambda: DGConv2d(8, 8, 3, padding=1), equal_saliencies),
    "dgc network-wise": (lambda: DGConv2d(8, 8, 3, padding=1, network_wise=True), no_saliency),
    "scconv": (lambda: SCConv2d(8), as_made),
}
each_layer = pytest.mark.parametrize(("make", "spoil"), LAYERS.values(), ids=LAYERS)


class Tiny(nn.Module):
    """A stem, the layer in a residual, a classifier."""

    def __init__(self, layer):
        super().__init__()
        self.stem, self.layer, self.classify = nn.Conv2d(3, 8, 3, padding=1), layer, nn.Linear(8, 4)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        h = self.stem(x)
        y = F.adaptive_avg_pool2d(self.norm(self.layer(h)), h.shape[2:])
        return self.classify((h + y).relu().mean((2, 3)))


def all_finite(tensors):
    return all(t.isfinite().all() for t in tensors)


def train(model, x, target, context, steps=4):
    """A few steps with all that dyndeploy.training has for the model; every loss, gradient and weight is finite."""
    optimizer = torch.optim.SGD(parameter_groups(model, lr=0.05), momentum=0.9)
    layers = [m for m in model.modules() if isinstance(m, DGConv2d)]
    sparsity = SparsityLoss(model) if layers else None
    schedule = (ThresholdSchedule if layers[0].network_wise else PruningSchedule)(model, steps) if layers else None
    losses = []
    for _ in range(steps):
        with context():
            loss = F.cross_entropy(model(x), target) + (sparsity() if sparsity else 0)
        optimizer.zero_grad()
        loss.backward()
        assert all_finite(p.grad for p in model.parameters() if p.grad is not None)
        optimizer.step()
        if schedule:
            schedule.step()
        losses.append(loss.item())
    assert all_finite([torch.tensor(losses), *model.state_dict().values()])
    return losses


@each_dtype
@each_layer
def test_a_tiny_network_trains(make, spoil, context):
    model = Tiny(make())
    with torch.no_grad():
        spoil(model.layer)
    before = model.stem.weight.clone()
    train(model, torch.randn(4, 3, 6, 6), torch.arange(4), context)
    assert not torch.equal(model.stem.weight, before)


@each_dtype
def test_a_constant_filter_comes_to_life(context):
    """The formula's gradient is 1e10 times as large: the first step would be the last that moves the weights."""
    layer = DDF(8)
    with torch.no_grad():
        constant(layer.spatial_branch.weight)
        constant(layer.spatial_branch.bias, value=0.1)
    model, x, target = Tiny(layer), torch.randn(4, 3, 6, 6), torch.arange(4)
    with context():
        assert not layer(model.stem(x)).any()
    train(model, x, target, context, steps=1)
    with context():
        assert layer(model.stem(x)).abs().mean() > 1e-2
    first = layer.spatial_branch.weight.detach().clone()
    assert 0 < first.abs().max() < 1
    train(model, x, target, context, steps=1)
    assert not torch.equal(layer.spatial_branch.weight, first)


@each_dtype
def test_the_digits_network_trains(context):
    model = DigitsNet(width=8)
    losses = train(model, torch.rand(8, 1, 32, 32), torch.arange(8), context)
    assert losses[-1] < losses[0]
