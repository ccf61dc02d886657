"""PruningSchedule against the official code's rule, and what ThresholdSchedule promises."""

import copy

import pytest
import torch
from torch import nn

from dyndeploy.errors import DynError
from dyndeploy.nn import DGConv2d
from dyndeploy.ops.dgc.reference import kept
from dyndeploy.training import PruningSchedule, ThresholdSchedule


def official(channels, gate, progress, before):
    """What a forward in training mode makes of the number, in the official code's own arithmetic."""
    if 1.0 / 12 < progress < 3.0 / 4:
        return round(channels * (1 - gate) * 3.0 / 2 * (progress - 1.0 / 12))
    return round(channels * (1 - gate)) if progress >= 3.0 / 4 else before


@pytest.mark.parametrize("keep", [0.25, 0.45, 0.5, 0.3, 0.0, 1.0])
@pytest.mark.parametrize("channels", [8, 10, 64, 200])
def test_every_forward_drops_as_many_as_in_the_official_code(channels, keep):
    layer = DGConv2d(channels, 4, 1, keep=keep)
    for total in (1, 12, 24, 60, 101, 300):
        schedule, number = PruningSchedule(layer, total), 0
        for step in range(total):
            number = official(channels, keep, float(step) / total, number)
            assert layer.inactive == layer.inactive_channels.item() == number, (total, step)
            schedule.step()
        assert schedule.progress == 1
        assert layer.inactive == round(channels * (1 - keep))


def test_halves_round_to_even():
    layer = DGConv2d(10, 4, 1, keep=0.25)
    schedule = PruningSchedule(layer)
    schedule.set_progress(1)
    assert layer.inactive == 8  # of 7.5
    layer.keep = 0.75
    schedule.set_progress(1)
    assert layer.inactive == 2  # of 2.5


def test_the_ends_of_the_ramp_are_arguments():
    layer = DGConv2d(16, 4, 1, keep=0.5)
    schedule = PruningSchedule(layer, 8, warmup=0.25, ramp_end=0.75)
    seen = [layer.inactive]
    for _ in range(8):
        schedule.step()
        seen.append(layer.inactive)
    assert seen == [0, 0, 0, 2, 4, 6, 8, 8, 8]


def test_making_it_starts_the_training_and_the_end_stays():
    layer = DGConv2d(16, 4, 1, keep=0.5)
    assert layer.inactive == 8
    schedule = PruningSchedule(layer, 2)
    assert (layer.inactive, schedule.progress) == (0, 0.0)
    for _ in range(5):
        schedule.step()
    assert (layer.inactive, schedule.progress) == (8, 1.0)


def test_every_layer_follows_and_schedules_do_not_share_anything():
    model, other = (nn.Sequential(DGConv2d(8, 8, 1, keep=0.5), nn.Sequential(DGConv2d(8, 4, 1))) for _ in range(2))
    schedule, _ = PruningSchedule(model, 4), PruningSchedule(other, 4)
    for _ in range(4):
        schedule.step()
    assert (model[0].inactive, model[1][0].inactive) == (4, 6)
    assert (other[0].inactive, other[1][0].inactive) == (0, 0)


@pytest.mark.parametrize("done", [0, 3, 7, 10])
def test_an_interrupted_training_goes_on(done):
    model = DGConv2d(64, 4, 1)
    schedule = PruningSchedule(model, 10)
    for _ in range(done):
        schedule.step()
    resumed = DGConv2d(64, 4, 1)
    fresh = PruningSchedule(resumed, 10)
    resumed.load_state_dict(model.state_dict())
    fresh.load_state_dict(schedule.state_dict())
    for _ in range(10 - done):
        assert (resumed.inactive, fresh.progress) == (model.inactive, schedule.progress)
        schedule.step()
        fresh.step()
    assert fresh.progress == 1


def test_a_clock_can_lead():
    layer = DGConv2d(64, 4, 1)
    schedule = PruningSchedule(layer)
    for progress, inactive in ((0.0, 0), (1 / 12, 0), (5 / 12, 24), (0.75, 48), (1.0, 48), (5 / 12, 24)):
        schedule.set_progress(progress)
        assert layer.inactive == inactive
    with pytest.raises(DynError, match=r"step\(\) without total_steps(?s:.*)set_progress"):
        schedule.step()


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_out_of_range(progress):
    schedule = PruningSchedule(DGConv2d(8, 4, 1), 10)
    with pytest.raises(DynError, match=r"outside 0\.\.1"):
        schedule.set_progress(progress)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_steps": 0}, "total_steps=0 is not a positive whole number"),
        ({"warmup": 0.8}, "warmup=0.8, ramp_end=0.75(?s:.*)0 <= warmup < ramp_end <= 1"),
        ({"ramp_end": 1.5}, "ramp_end=1.5"),
        ({"warmup": -0.1}, "warmup=-0.1"),
    ],
)
@pytest.mark.parametrize("schedule", [PruningSchedule, ThresholdSchedule])
def test_bad_arguments(schedule, options, message):
    layer = DGConv2d(8, 4, 1, network_wise=schedule is ThresholdSchedule)
    with pytest.raises(DynError, match=message):
        schedule(layer, **{"total_steps": 10, **options})


@pytest.mark.parametrize(
    ("schedule", "model", "message"),
    [
        (PruningSchedule, nn.Conv2d(1, 1, 1), "Conv2d has no DGConv2d"),
        (ThresholdSchedule, nn.Conv2d(1, 1, 1), "Conv2d has no DGConv2d"),
        (PruningSchedule, DGConv2d(8, 4, 1, network_wise=True), "is network-wise(?s:.*)ThresholdSchedule"),
        (ThresholdSchedule, DGConv2d(8, 4, 1), "is network-wise(?s:.*)PruningSchedule"),
    ],
)
def test_a_model_without_such_layers(schedule, model, message):
    with pytest.raises(DynError, match=message):
        schedule(model, 10)


# --- DGC-G


def network():
    """Two network-wise layers, the second with larger saliencies, and one that drops by number."""
    first, second = (DGConv2d(16, 16, 1, network_wise=True) for _ in range(2))
    nn.init.constant_(second.saliency.expand.bias, 2.0)
    return nn.Sequential(first, second, DGConv2d(16, 4, 1, keep=0.5))


def dropped(model, batches):
    """Share of all channels of the network-wise layers that is dropped, and that of each layer."""
    shares = []
    for layer in list(model)[:2]:
        layer.saliency.register_forward_hook(
            lambda _m, _i, s, layer=layer: shares.append((~kept(s, layer.heads, -1, layer.threshold)).float().mean())
        )
    for x in batches:
        model(x)
    by_layer = torch.tensor(shares).reshape(-1, 2).mean(0)
    return by_layer.mean().item(), by_layer.tolist()


@pytest.mark.parametrize("rate", [0.3, 0.75])
def test_the_network_as_a_whole_drops_the_share_that_was_asked_for(rate):
    model = network()
    with ThresholdSchedule(model, 60, rate=rate, momentum=0.2) as schedule:
        for _ in range(60):
            model(torch.randn(16, 16, 4, 4))
            schedule.step()
    assert model[0].threshold == model[1].threshold > 0
    share, by_layer = dropped(model, torch.randn(20, 16, 16, 4, 4))
    assert share == pytest.approx(rate, abs=0.02)
    assert by_layer[0] > by_layer[1] + 0.1  # the layer with small saliencies drops more
    assert model[2].inactive == 8


def test_the_threshold_is_the_averaged_quantile():
    layer = DGConv2d(8, 4, 1, heads=2, squeeze=4, network_wise=True)
    schedule = ThresholdSchedule(layer, 4, rate=0.5, momentum=0.25, warmup=0.25, ramp_end=0.75)
    saliencies, expected = [], 0.0
    layer.saliency.register_forward_hook(lambda _m, _i, s: saliencies.append(s.detach().flatten()))
    seen = []
    for share in (0, 0.25, 0.5, 0.5, 0.5):  # after each step; the last one is past the end
        saliencies.clear()
        for _ in range(2):
            layer(torch.randn(3, 8, 4, 4))
        schedule.step()
        if share:
            values = torch.cat(saliencies).sort().values
            expected = 0.75 * expected + 0.25 * values[round(len(values) * share) - 1].item()
        seen.append((layer.threshold, torch.tensor(expected).item()))
    assert seen[0] == (0.0, 0.0)
    for threshold, value in seen[1:]:
        assert threshold == pytest.approx(value, rel=1e-6)
    assert schedule.progress == 1


def test_many_zeros_keep_the_threshold_at_zero():
    layer = DGConv2d(8, 4, 1, network_wise=True)
    nn.init.constant_(layer.saliency.expand.bias, -100)
    schedule = ThresholdSchedule(layer, 2)
    for _ in range(2):
        layer(torch.randn(3, 8, 4, 4))
        schedule.step()
    assert layer.threshold == 0


def test_only_training_is_heard_and_only_of_the_model_itself():
    layer = DGConv2d(8, 4, 1, network_wise=True)
    schedule = ThresholdSchedule(layer, 4)
    x = torch.randn(3, 8, 4, 4)
    with torch.no_grad():
        layer(x)
    layer.eval()(x)
    layer.train()
    copy.deepcopy(layer)(x)
    with pytest.raises(DynError, match="no forward since the last step"):
        schedule.step()
    layer(x)
    schedule.step()
    schedule.remove()
    layer(x)
    with pytest.raises(DynError, match="no forward since the last step"):
        schedule.step()


def test_an_interrupted_threshold_goes_on():
    model = DGConv2d(8, 4, 1, network_wise=True)
    schedule = ThresholdSchedule(model, 6)
    batches = torch.randn(6, 3, 8, 4, 4)
    for x in batches[:3]:
        model(x)
        schedule.step()
    resumed = DGConv2d(8, 4, 1, network_wise=True)
    fresh = ThresholdSchedule(resumed, 6)
    resumed.load_state_dict(model.state_dict())
    fresh.load_state_dict(schedule.state_dict())
    assert resumed.threshold == model.threshold > 0
    for x in batches[3:]:
        for layer, its in ((model, schedule), (resumed, fresh)):
            layer(x)
            its.step()
    assert (fresh.progress, fresh.threshold) == (1.0, schedule.threshold)


@pytest.mark.parametrize("options", [{"rate": 1.5}, {"rate": -0.1}, {"momentum": 0.0}, {"momentum": 2.0}])
def test_bad_rates(options):
    with pytest.raises(DynError, match=f"{next(iter(options))}={next(iter(options.values()))}"):
        ThresholdSchedule(DGConv2d(8, 4, 1, network_wise=True), 10, **options)
