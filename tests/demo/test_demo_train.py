import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dyndeploy.demo.data import Digits, load
from dyndeploy.demo.network import DigitsNet
from dyndeploy.demo.train import accuracy, rate_factor, train
from dyndeploy.errors import DynError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data():
    return load()[0]


def trained(data, steps=3, seed=0, **options):
    torch.manual_seed(seed)
    network = DigitsNet(width=8)
    return network, train(network, data, max_steps=steps, seed=seed, **options)


def test_the_same_seed_gives_the_same_weights(data):
    first, same, other = (trained(data, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["classify.weight"], other["classify.weight"])


def test_the_loss_falls(data):
    lines = []
    network, summary = trained(data, steps=120, progress=lines.append)
    assert summary.steps == 120
    assert summary.epochs == pytest.approx(120 * 32 / 1347)
    assert summary.last_loss < 0.8 * summary.first_loss
    assert accuracy(network, load()[1]) > 0.3  # guessing gives 0.1
    assert not network.training
    assert 15 < len(lines) < 25
    assert "loss" in lines[0]


def test_the_clock_ends_it(data):
    torch.manual_seed(0)
    summary = train(DigitsNet(width=8), data, seconds=0.5)
    assert summary.steps >= 1
    assert 0.5 <= summary.seconds < 5


@pytest.mark.parametrize("budget", [{"seconds": 0.0}, {"max_steps": 0}])
def test_no_time_is_an_error(data, budget):
    with pytest.raises(DynError, match="single step"):
        train(DigitsNet(width=8), data, **budget)


def test_the_number_of_threads_is_given_back(data):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trained(data, steps=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_rate_rises_and_falls():
    rates = [rate_factor(i / 100) for i in range(101)]
    assert max(rates) == pytest.approx(1, abs=1e-3)
    assert 0 < rates[0] < 0.05
    assert rates[-1] == pytest.approx(0, abs=1e-6)
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_dropped_channels_follow_the_schedule_of_the_official_code(data):
    network, seen = DigitsNet(width=8), []  # the layer has 16 input channels, of which half are kept
    network.select[0].register_forward_pre_hook(lambda layer, _inputs: seen.append(layer.inactive))
    train(network, data, max_steps=12)
    assert seen == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8]


def test_a_network_without_dgc_is_trained_too(data):
    network = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 10))
    assert train(network, data, max_steps=2).steps == 2


def test_a_trained_network_drops_channels_and_bends_its_grid(data):
    network, _ = trained(data, steps=3)
    assert int(network.select[0].inactive) == 8
    assert network.bend[0].predictor.weight.abs().max() > 0


def test_offsets_learn_at_a_tenth_of_the_rate(data):
    """AdamW's first step is the rate itself, whatever the gradient."""
    torch.manual_seed(0)
    network = DigitsNet(width=8)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    train(network, Digits(*(t[:64] for t in data)), max_steps=1)
    moved = {n: (p.detach() - before[n]).abs().max().item() for n, p in network.named_parameters()}
    assert moved["bend.0.predictor.bias"] == pytest.approx(0.1 * moved["classify.bias"], rel=0.05)


def test_the_recipes_program_writes_weights_that_the_network_takes(tmp_path):
    file = tmp_path / "deep" / "digits.safetensors"
    done = subprocess.run(
        [sys.executable, ROOT / "export/digits/train.py", "--steps", "2", "--output", file],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "held-out images" in done.stdout
    network = DigitsNet()
    network.load_state_dict(load_file(file))
    assert int(network.select[0].inactive) == 16
