"""Every parameter in one group, with the rate and the decay that the papers give it."""

import pytest
import torch
from torch import nn

from dyndeploy.demo.network import DigitsNet
from dyndeploy.errors import DynError
from dyndeploy.nn import DDF, ModulatedDeformConv2d, ModulatedDeformRoIPool
from dyndeploy.training import parameter_groups


def of(groups):
    """Parameter name -> (lr, weight_decay)."""
    return {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}


def test_every_parameter_is_in_exactly_one_group():
    model = DigitsNet(width=8)
    groups = parameter_groups(model, 0.1)
    assert [group["name"] for group in groups] == ["weights", "weights_no_decay", "predictors", "predictors_no_decay"]
    grouped = [(name, p) for group in groups for name, p in zip(group["names"], group["params"], strict=True)]
    assert len(grouped) == len(dict(grouped)) == len(list(model.parameters()))
    assert all(dict(model.named_parameters())[name] is p for name, p in grouped)


def test_predictors_are_slow_and_vectors_do_not_decay():
    model = nn.Sequential(ModulatedDeformConv2d(8, 8, 3), nn.BatchNorm2d(8), DDF(8), nn.Linear(8, 2))
    rates = of(parameter_groups(model, 0.1, weight_decay=0.01, predictor_lr_multiplier=0.25))
    assert rates["0.weight"] == rates["2.spatial_branch.weight"] == rates["3.weight"] == (0.1, 0.01)
    assert rates["0.predictor.weight"] == (0.025, 0.01)
    assert rates["0.predictor.bias"] == (0.025, 0)
    for name in ("0.bias", "1.weight", "1.bias", "2.channel_gain", "2.channel_branch.0.bias", "3.bias"):
        assert rates[name] == (0.1, 0)


def test_the_layers_of_a_pooling_predictor_learn_at_the_full_rate():
    model = ModulatedDeformRoIPool(4, 3, hidden_channels=8)
    assert {lr for lr, _ in of(parameter_groups(model, 0.1)).values()} == {0.1}


def test_everything_decays_where_the_official_code_says_so():
    groups = parameter_groups(DigitsNet(width=8), 0.1, no_weight_decay=lambda name, parameter: False)
    assert [(group["name"], group["weight_decay"]) for group in groups] == [("weights", 1e-4), ("predictors", 1e-4)]


def test_the_rule_sees_names_and_parameters():
    rates = of(parameter_groups(DDF(8), 0.1, no_weight_decay=lambda name, p: name == "channel_gain" or p.shape[0] == 9))
    assert {name for name, (_, decay) in rates.items() if decay == 0} == {
        "channel_gain",
        "spatial_branch.weight",
        "spatial_branch.bias",
    }


def test_frozen_parameters_are_left_out_and_shared_ones_are_there_once():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    first.bias.requires_grad_(False)
    assert set(of(parameter_groups(nn.Sequential(first, second), 0.1))) == {"0.weight", "1.bias"}


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_optimizers_and_schedulers_take_them(optimizer):
    model = nn.Sequential(ModulatedDeformConv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    made = optimizer(parameter_groups(model, 0.1), lr=7.0, weight_decay=7.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(made, T_max=2)
    before = [p.clone() for p in model.parameters()]
    model(torch.randn(2, 4, 6, 6)).square().sum().backward()
    made.step()
    scheduler.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert of(made.param_groups)["0.weight"] == (pytest.approx(0.05), 1e-4)
    assert of(made.param_groups)["0.predictor.weight"] == (pytest.approx(0.005), 1e-4)
    again = optimizer(parameter_groups(model, 0.1))
    again.load_state_dict(made.state_dict())
    assert of(again.param_groups) == of(made.param_groups)


@pytest.mark.parametrize("options", [{"lr": -1}, {"weight_decay": -1}, {"predictor_lr_multiplier": -1}])
def test_negative_numbers(options):
    with pytest.raises(DynError, match=f"{next(iter(options))}=-1"):
        parameter_groups(nn.Linear(1, 1), **{"lr": 0.1, **options})


def test_nothing_to_train():
    with pytest.raises(DynError, match="Linear has no parameter to train"):
        parameter_groups(nn.Linear(1, 1).requires_grad_(False), 0.1)
