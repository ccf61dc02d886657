"""ShuffleNetV2 and MobileNetV1 with region-aware convolutions: parameters, blocks, maps, bad input."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.models import create_model, list_models
from dyndeploy.models.drconv import ShuffleBlock
from dyndeploy.nn import DRConv2d

SMALL = {
    "drconv_shufflenetv2_x0_5": {"channels": (6, 12, 20, 28, 40), "layers": (2, 1, 1), "num_classes": 5},
    "drconv_mobilenetv1": {"width": 0.125, "layers": (1, 1, 2, 1), "num_classes": 5},
}
CHANNELS = {"drconv_shufflenetv2_x0_5": (6, 12, 20, 28), "drconv_mobilenetv1": (16, 32, 64, 128)}
GENERATORS = ["mix", "paper"]


def small(name, **options):
    torch.manual_seed(0)
    network = create_model(name, **{"regions": 3, **SMALL[name], **options})
    for module in network.modules():  # an untrained network damps its input away
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.05, 0.1)
    return network.eval()


def test_names():
    widths = [f"drconv_shufflenetv2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")]
    assert list_models("drconv_*") == ["drconv_mobilenetv1", *widths]


@pytest.mark.parametrize(
    ("name", "generator", "parameters"),
    [
        ("drconv_shufflenetv2_x0_5", "mix", 2_293_792),
        ("drconv_shufflenetv2_x1_0", "mix", 7_273_976),
        ("drconv_shufflenetv2_x1_5", "mix", 14_778_656),
        ("drconv_shufflenetv2_x2_0", "mix", 28_835_576),
        ("drconv_mobilenetv1", "mix", 26_567_016),
        ("drconv_shufflenetv2_x0_5", "paper", 9_666_592),
        ("drconv_shufflenetv2_x1_0", "paper", 50_333_176),
        ("drconv_shufflenetv2_x1_5", "paper", 113_901_856),
        ("drconv_shufflenetv2_x2_0", "paper", 219_350_776),
        ("drconv_mobilenetv1", "paper", 227_500_392),
    ],
)
def test_parameters(name, generator, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in create_model(name, generator=generator).parameters()) == parameters


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("generator", GENERATORS)
def test_features_are_what_the_classifier_reads(name, generator):
    network, backbone = (small(name, generator=generator, features_only=only) for only in (False, True))
    state = network.state_dict()
    backbone.load_state_dict({k: v for k, v in state.items() if not k.startswith(("classifier.", "conv_last."))})
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps = backbone(x)
        assert torch.equal(network.classify(maps[-1]), network(x))
    assert network(x).shape == (2, 5)
    assert backbone.feature_strides == (4, 8, 16, 32)
    assert backbone.feature_channels == CHANNELS[name]
    assert [tuple(m.shape) for m in maps] == [(2, c, 64 // s, 96 // s) for c, s in zip(CHANNELS[name], (4, 8, 16, 32))]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("generator", GENERATORS)
def test_everything_learns(name, generator):
    """The guides too, although the argmax behind them has no derivative."""
    network = small(name, generator=generator).train()
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []
    assert all(p.grad.any() for key, p in network.named_parameters() if "guide" in key)


def interpolated(block, x):
    """The right branch as the official code writes it: a mask of regions, interpolated where the sizes differ."""
    mask = block.guide(x).softmax(1).argmax(1)

    def convolved(layer, h):
        small = (
            F.interpolate(mask[:, None].to(h.dtype), h.shape[2:]) if mask.shape[1:] != h.shape[2:] else mask[:, None]
        )
        filters = layer.generator(h).unflatten(1, (layer.regions, layer.out_channels))
        every = torch.einsum("nmoc,nchw->nmohw", filters, h)
        return every.gather(1, small.long()[:, :, None].expand(-1, -1, layer.out_channels, -1, -1))[:, 0]

    h = block.bn1(convolved(block.conv1, x)).relu()
    h = block.bn2(block.conv2(h))
    return block.bn3(convolved(block.conv3, h)).relu()


@pytest.mark.parametrize("generator", GENERATORS)
def test_block_of_stride_1(generator):
    block = small("drconv_shufflenetv2_x0_5", generator=generator).double().stage1[1]
    x = torch.randn(2, 12, 6, 5, dtype=torch.float64)
    left, right = block(x).split(6, dim=1)
    assert torch.equal(left, x[:, ::2])
    torch.testing.assert_close(right, interpolated(block, x[:, 1::2]))
    assert len(block.guide(x[:, 1::2]).argmax(1).unique()) == 3


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("size", [(8, 6), (2, 4)])
def test_block_of_stride_2(generator, size):
    block = small("drconv_shufflenetv2_x0_5", generator=generator).double().stage2[0]
    x = torch.randn(2, 12, *size, dtype=torch.float64)
    left, right = block(x).split((12, 8), dim=1)
    torch.testing.assert_close(left, block.left(x))
    torch.testing.assert_close(right, interpolated(block, x))
    assert right.shape == (2, 8, size[0] // 2, size[1] // 2)


def test_one_guide_per_block():
    network = create_model("drconv_shufflenetv2_x0_5")
    blocks = [m for m in network.modules() if isinstance(m, ShuffleBlock)]
    layers = [m for m in network.modules() if isinstance(m, DRConv2d)]
    assert (len(blocks), len(layers)) == (4 + 8 + 4, 2 * 16)
    assert all(layer.guide_conv is None and layer.bias is None for layer in layers)
    assert all(b.guide.weight.shape == (8, b.conv1.in_channels, 1, 1) and b.guide.bias is None for b in blocks)
    assert [b.stride for b in network.stage2] == [2] + [1] * 7


def test_mobilenet_has_a_guide_per_layer():
    network = create_model("drconv_mobilenetv1", width=0.25)
    layers = [m for m in network.modules() if isinstance(m, DRConv2d)]
    assert [m.out_channels for m in layers] == [16, 32, 32, 64, 64, *[128] * 6, 256, 256]
    assert all(layer.guide_conv.weight.shape == (8, layer.in_channels, 1, 1) for layer in layers)
    assert [
        n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1 and "guide" not in n
    ] == ["conv_first.0"]


@pytest.mark.parametrize("name", SMALL)
def test_options_reach_the_layers(name):
    network = create_model(name, **SMALL[name], regions=3, bases=2, in_channels=1)
    layers = [m for m in network.modules() if isinstance(m, DRConv2d)]
    assert {m.regions for m in layers} == {3}
    assert {m.generator.bases for m in layers} == {2}
    assert network.eval()(torch.randn(1, 1, 64, 64)).shape == (1, 5)


def test_biases_beside_batch_norm():
    """As in the official checkpoints; nowhere else."""
    network = small("drconv_shufflenetv2_x0_5")
    convolutions = [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert convolutions == ["conv_first.0", "conv_last.0"]


@pytest.mark.parametrize("name", SMALL)
def test_weights_at_the_start(name):
    network = create_model(name)
    assert network.classifier.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not network.classifier.bias.any()
    with torch.no_grad():
        one, other = network.eval()(torch.randn(2, 3, 64, 64))
    assert not torch.equal(one, other)


def test_mobilenet_takes_odd_sizes():
    maps = small("drconv_mobilenetv1", features_only=True)(torch.randn(1, 3, 33, 71))
    assert [tuple(m.shape[2:]) for m in maps] == [(9, 18), (5, 9), (3, 5), (2, 3)]
    assert small("drconv_mobilenetv1")(torch.randn(1, 3, 1, 1)).shape == (1, 5)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((33, 64), "ShuffleNetV2: 33x64 are not multiples of 32.(?s:.*)to 64x64"),
        ((16, 32), "to 32x32"),
    ],
)
def test_size_of_the_image(size, message):
    with pytest.raises(DynError, match=message):
        small("drconv_shufflenetv2_x0_5")(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("drconv_shufflenetv2_x0_5", {"channels": (8, 16, 24)}, r"channels=\(8, 16, 24\).(?s:.*)three stages"),
        ("drconv_shufflenetv2_x0_5", {"channels": (8, 16, 24, 32, 0)}, "channels="),
        ("drconv_shufflenetv2_x0_5", {"channels": (8, 17, 24, 32, 40)}, "a stage of 17 channels behind 8(?s:.*)even"),
        (
            "drconv_shufflenetv2_x0_5",
            {"channels": (8, 16, 16, 32, 40)},
            "a stage of 16 channels behind 16(?s:.*)larger",
        ),
        ("drconv_shufflenetv2_x0_5", {"layers": (1, 1, 1, 1)}, "3 stages"),
        ("drconv_shufflenetv2_x0_5", {"layers": (1, 0, 1)}, "at least one block"),
        ("drconv_shufflenetv2_x0_5", {"num_classes": 0}, "ShuffleNetV2: num_classes=0 is not positive"),
        ("drconv_shufflenetv2_x0_5", {"generator": "attention"}, "generator='attention' is not allowed"),
        ("drconv_shufflenetv2_x0_5", {"regions": 0}, "regions=0 is outside 1..32"),
        ("drconv_shufflenetv2_x0_5", {"bases": 0}, "bases=0 is not positive"),
        ("drconv_mobilenetv1", {"width": 0}, "MobileNetV1: width=0.0 is not positive"),
        ("drconv_mobilenetv1", {"layers": (1, 1, 1)}, "4 stages"),
        ("drconv_mobilenetv1", {"in_channels": 0}, "MobileNetV1: in_channels=0 is not positive"),
        ("drconv_mobilenetv1", {"regions": 33}, "regions=33 is outside 1..32"),
        ("drconv_shufflenetv2_x05", {}, r"no model 'drconv_shufflenetv2_x05'.\n  fix: drconv_shufflenetv2_x0_5\?"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(DynError, match=message):
        create_model(name, **{**SMALL.get(name, {}), **options})
