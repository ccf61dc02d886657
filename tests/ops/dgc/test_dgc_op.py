"""What only this torch op does: which channels learn; what it refuses."""

import pytest
import torch

from dyndeploy.errors import DynError
from dyndeploy.ops.dgc.op import SPEC, dynamic_group_conv2d
from dyndeploy.ops.dgc.reference import kept
from dyndeploy.testing.cases import Case

WINDOW = {"kernel": (3, 2), "strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)}
CASE = Case.of(SPEC, **WINDOW, heads=2, inactive=3, C=4, O=4, H=3, W=4)
ARGUMENTS = CASE.keywords


@pytest.fixture
def tensors(draw):
    return draw(CASE, ties=False)


@pytest.mark.parametrize("options", [{}, {"inactive": -1, "threshold": 0.6}])
def test_only_kept_channels_learn(tensors, options):
    attributes = {**ARGUMENTS, **options, "shuffle": False}
    x, saliency, weight, bias = (t[:1] if i < 2 else t for i, t in enumerate(tensors))
    inputs = [t.detach().requires_grad_() for t in (x, saliency, weight, bias)]
    dynamic_group_conv2d(*inputs, **attributes).square().sum().backward()
    mask = kept(saliency, 2, attributes["inactive"], 0.6)[0]
    assert 0 < mask.sum() < mask.numel()
    assert torch.equal(inputs[1].grad.reshape(2, 4) != 0, mask)
    assert torch.equal(inputs[2].grad.reshape(2, 2, 4, 6).abs().sum((1, 3)) != 0, mask)
    assert torch.equal(inputs[0].grad[0].abs().sum((1, 2)) != 0, mask.any(0))


def test_tied_saliencies_learn_nothing(draw):
    """They equal the limit: dropped, and with a gradient of exactly zero, not of half a kink."""
    x, saliency, weight, bias = draw(Case.of(SPEC, C=8))
    saliency = torch.full_like(saliency, 0.5).requires_grad_()
    dynamic_group_conv2d(x, saliency, weight, bias, inactive=1).sum().backward()
    assert torch.equal(saliency.grad, torch.zeros_like(saliency))


def with_tensor(index, change):
    def call(tensors):
        changed = [change(t) if i == index else t for i, t in enumerate(tensors)]
        return dynamic_group_conv2d(*changed, **ARGUMENTS)

    return call


def with_attribute(**changes):
    return lambda tensors: dynamic_group_conv2d(*tensors, **{**ARGUMENTS, **changes})


BAD = {
    "saliency with a dim for the heads": (
        with_tensor(1, lambda t: t.reshape(2, 2, 4)),
        r"saliency has 3 dims \[2, 2, 4\], expected \[N, heads\*C\].*\[head\]\[channel\]",
    ),
    "saliency of one head": (
        with_tensor(1, lambda t: t[:, :4]),
        r"saliency has shape \[2, 4\], but dim 1 must be heads\*C = 8",
    ),
    "saliency of another batch": (with_tensor(1, lambda t: t[:1]), "dim 0 must be N = 2"),
    "weight of a grouped convolution": (
        with_tensor(2, lambda t: t[:, :2]),
        r"weight has shape \[4, 2, 3, 2\], but dim 1 must be C = 4.*each over all C channels",
    ),
    "short bias": (with_tensor(3, lambda t: t[:1]), r"bias has shape \[1\], but dim 0 must be O = 4"),
    "heads": (with_attribute(heads=3), "O = 4 is not divisible by heads = 3"),
    "more inactive than there are": (with_attribute(inactive=5), "inactive = 5 is larger than C = 4"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(tensors, call, message):
    with pytest.raises(DynError, match=f"(?s)^.*{message}"):
        call(tensors)
