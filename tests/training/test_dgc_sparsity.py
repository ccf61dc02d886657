"""SparsityLoss against the sum that the official training adds to its loss."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.nn import DGConv2d
from dyndeploy.training import SparsityLoss


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(DGConv2d(8, 12, 3, heads=2, keep=0.5), DGConv2d(12, 8, 1, heads=4))


@pytest.fixture
def x():
    return torch.randn(3, 8, 6, 6, generator=torch.Generator().manual_seed(1))


def official(model, x):
    """Every head's own two fully connected layers, the mean of each mask, all added."""
    total = 0
    for layer in model:
        h = F.relu(F.batch_norm(x, None, None, layer.bn.weight, layer.bn.bias, training=True))
        pooled = F.adaptive_avg_pool2d(h, 1).flatten(1)
        parts = (layer.saliency.squeeze.weight, layer.saliency.expand.weight, layer.saliency.expand.bias)
        for first, second, bias in zip(*(p.chunk(layer.heads) for p in parts)):
            mask = F.relu(F.linear(F.relu(F.linear(pooled, first)), second.flatten(1), bias))
            total = total + mask.mean()
        x = layer(x)
    return total


def test_is_the_official_sum_and_so_is_its_gradient(model, x):
    sparsity = SparsityLoss(model, weight=1e-2)
    model(x)
    loss = sparsity()
    sparsity.remove()
    expected = 1e-2 * official(model, x)
    torch.testing.assert_close(loss, expected)
    parameters = [p for name, p in model.named_parameters() if "saliency" in name]
    gradients, theirs = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    assert any(g.any() for g in gradients)
    torch.testing.assert_close(gradients, theirs)


def test_dropped_channels_shrink_too(model, x):
    layer = model[0]
    layer.inactive = 8
    sparsity = SparsityLoss(layer)
    layer(x)
    sparsity().backward()
    assert layer.saliency.expand.bias.grad.count_nonzero() > 8


def test_several_forwards_add_up(model, x):
    sparsity = SparsityLoss(model)
    model(x)
    one = sparsity()
    model(x)
    model(x)
    torch.testing.assert_close(sparsity(), 2 * one)


def test_without_a_forward_is_an_error(model, x):
    sparsity = SparsityLoss(model)
    model(x)
    sparsity()
    with pytest.raises(DynError, match=r"no forward since the last call(?s:.*)model.train\(\)"):
        sparsity()


def test_evaluation_and_copies_do_not_count(model, x):
    sparsity = SparsityLoss(model)
    with torch.no_grad():
        model(x)
    model.eval()(x)
    model.train()
    copy.deepcopy(model)(x)
    with pytest.raises(DynError, match="no forward"):
        sparsity()


def test_a_batch_that_is_given_up(model, x):
    sparsity = SparsityLoss(model)
    model(x)
    sparsity.reset()
    model(x)
    assert sparsity().item() == pytest.approx(1e-5 * official(model, x).item())


def test_hooks_go_with_the_block(model, x):
    with SparsityLoss(model) as sparsity:
        model(x)
    assert all(not layer.saliency._forward_hooks for layer in model)
    with pytest.raises(DynError, match="no forward"):
        sparsity()


def test_graphs_are_not_kept(model):
    sparsity = SparsityLoss(model)
    x = torch.randn(3, 8, 6, 6, requires_grad=True)
    model(x)
    loss, leaf = sparsity(), weakref.ref(x)
    del x
    assert leaf() is not None  # the graph of the loss holds it
    del loss
    gc.collect()
    assert leaf() is None


def test_autocast_sums_in_float32(model, x):
    sparsity = SparsityLoss(model, weight=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
    half = sparsity()
    assert half.dtype == torch.float32
    model(x)
    torch.testing.assert_close(half, sparsity(), rtol=1e-2, atol=0)
    model.double()(x.double())
    assert sparsity().dtype == torch.float64


def test_bad_arguments():
    with pytest.raises(DynError, match="Linear has no DGConv2d"):
        SparsityLoss(nn.Linear(1, 1))
    with pytest.raises(DynError, match="weight=-1 is negative"):
        SparsityLoss(DGConv2d(8, 8, 1), weight=-1)
