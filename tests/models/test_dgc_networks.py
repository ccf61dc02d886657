"""ResNet-18 and DenseNets with dynamic group convolutions: parameters, channels kept, maps, bad input."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.models import create_model
from dyndeploy.nn import DGConv2d

SMALL = {
    "dgc_resnet18": {"width": 16, "layers": (1, 2, 1, 1), "num_classes": 5},
    "dgc_densenet86": {"stages": (2, 1, 2), "growth": (8, 8, 16), "num_classes": 5},
    "dgc_condensenet": {"stages": (1, 2, 1, 1, 1), "growth": (8, 8, 8, 8, 16), "num_classes": 5},
}
#: strides and channels of the maps
MAPS = {
    "dgc_resnet18": ((4, 8, 16, 32), (16, 32, 64, 128)),
    "dgc_densenet86": ((1, 2, 4), (32, 40, 72)),
    "dgc_condensenet": ((4, 8, 16, 32), (40, 48, 56, 72)),
}


def small(name, **options):
    torch.manual_seed(0)
    network = create_model(name, **{**SMALL[name], **options})
    for key, parameter in network.named_parameters():
        if key.endswith("expand.weight"):
            # Outputs grow with the square of the input of every layer, without trained statistics beyond all limits.
            nn.init.normal_(parameter, std=0.05)
    return network.eval()


def layers_of(network):
    return {name: m for name, m in network.named_modules() if isinstance(m, DGConv2d)}


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("dgc_resnet18", {}, 12_335_144),
        ("dgc_densenet86", {}, 4_264_810),
        ("dgc_densenet86", {"num_classes": 100}, 4_264_810 + 90 * 801),
        ("dgc_condensenet", {}, 24_060_664),
    ],
)
def test_parameters(name, options, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in create_model(name, **options).parameters()) == parameters


@pytest.mark.parametrize("name", SMALL)
def test_features_are_what_the_classifier_reads(name):
    network, backbone = small(name), small(name, features_only=True)
    state = network.state_dict()
    backbone.load_state_dict({k: v for k, v in state.items() if not k.startswith(("classifier.", "fc."))})
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps = backbone(x)
        assert torch.equal(network.classify(maps[-1]), network(x))
    assert network(x).isfinite().all()
    strides, channels = MAPS[name]
    assert (backbone.feature_strides, backbone.feature_channels) == (strides, channels)
    assert [tuple(m.shape) for m in maps] == [(2, c, 64 // s, 96 // s) for c, s in zip(channels, strides)]


@pytest.mark.parametrize("name", SMALL)
def test_everything_learns(name):
    network = small(name).train()
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []


def test_every_convolution_behind_the_stem_of_the_resnet():
    network = create_model("dgc_resnet18")
    assert [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and "saliency" not in n] == ["conv1"]
    layers = layers_of(network)
    assert len(layers) == 8 * 2 + 3
    assert {m.in_channels: m.in_channels - m.inactive for m in layers.values()} == {64: 29, 128: 58, 256: 115, 512: 230}
    assert layers["layer2.0.downsample.0"].kernel_size == (1, 1)
    assert layers["layer2.0.downsample.0"].stride == layers["layer2.0.conv1"].stride == (2, 2)
    assert isinstance(network.layer2[0].downsample[1], nn.BatchNorm2d)
    assert network.layer1[0].downsample is None


@pytest.mark.parametrize(("name", "depth"), [("dgc_densenet86", 42), ("dgc_condensenet", 36)])
def test_every_1x1_convolution_of_a_densenet(name, depth):
    with torch.device("meta"):
        layers = layers_of(create_model(name))
    assert len(layers) == depth
    assert {m.kernel_size for m in layers.values()} == {(1, 1)}
    assert all(m.inactive == round(0.75 * m.in_channels) and m.heads == 4 for m in layers.values())
    assert next(iter(layers)) == "features.denseblock_1.denselayer_1.conv_1"


@pytest.mark.parametrize("name", SMALL)
def test_options_reach_the_layers(name):
    layers = layers_of(small(name, heads=2, keep=0.5, squeeze=4)).values()
    assert {m.heads for m in layers} == {2}
    assert all(m.inactive == round(m.in_channels / 2) for m in layers)
    first = next(iter(layers))
    assert first.saliency.squeeze.out_features == 2 * (first.in_channels // 2)
    assert small(name, in_channels=1)(torch.randn(1, 1, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize("name", SMALL)
def test_a_checkpoint_of_mid_training_prunes_less(name):
    trained, fresh = small(name), small(name)
    for layer in layers_of(trained).values():
        layer.inactive = 1
    x = torch.randn(1, 3, 64, 64)
    assert not torch.equal(fresh(x), trained(x))
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(x), trained(x))


def test_dense_layer():
    """BatchNorm and ReLU of the DGConv are its own; the 3x3 has them in front; the input stands first."""
    layer = small("dgc_densenet86").features.denseblock_2.denselayer_1.double()
    x = torch.randn(2, 32, 5, 4, dtype=torch.float64)
    norm, conv = layer.conv_2.norm, layer.conv_2.conv
    added = F.conv2d(norm(layer.conv_1(x)).relu(), conv.weight, None, 1, 1, 1, 4)
    torch.testing.assert_close(layer(x), torch.cat([x, added], dim=1))


def test_blocks_and_poolings_of_a_densenet():
    network = small("dgc_densenet86", features_only=True)
    modules = network.features
    x = torch.randn(1, 3, 13, 10)
    with torch.no_grad():
        first = modules.denseblock_1(modules.init_conv(x))
        second = modules.denseblock_2(F.avg_pool2d(first, 2))
        third = modules.denseblock_3(F.avg_pool2d(second, 2))
        maps = network.forward_features(x)
    assert torch.equal(maps[0], first)
    assert torch.equal(maps[1], second)
    assert torch.equal(maps[2], network.bn_last(third).relu())
    assert [tuple(m.shape[2:]) for m in maps] == [(13, 10), (6, 5), (3, 2)]


def test_head_is_the_official_one_at_its_size():
    """AvgPool2d(8) there, which fixes the image to 32x32."""
    network = small("dgc_densenet86")
    x = torch.randn(2, 3, 32, 32)
    pooled = F.avg_pool2d(network.forward_features(x)[-1], 8).flatten(1)
    torch.testing.assert_close(network(x), network.classifier(pooled))


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilations_compute_what_the_strides_did(output_stride):
    """With constant saliencies and all channels kept a layer is a plain convolution, which does not see the size."""
    options = {**SMALL["dgc_resnet18"], "layers": (1, 1, 2, 2), "keep": 1.0, "features_only": True}
    strided = create_model("dgc_resnet18", **options).double().eval()
    for layer in layers_of(strided).values():
        nn.init.zeros_(layer.saliency.expand.weight)
    dilated = create_model("dgc_resnet18", output_stride=output_stride, **options).double().eval()
    dilated.load_state_dict(strided.state_dict())
    assert dilated.feature_strides == tuple(min(s, output_stride) for s in (4, 8, 16, 32))
    x = torch.randn(1, 3, 75, 97, dtype=torch.float64)
    for coarse, fine in zip(strided(x), dilated(x)):
        step = -(-fine.shape[3] // coarse.shape[3])
        torch.testing.assert_close(fine[:, :, ::step, ::step], coarse)


def test_weights_at_the_start():
    network = create_model("dgc_densenet86", stages=(1, 1, 6), growth=(8, 16, 64))
    assert not network.classifier.bias.any()
    layer = network.features.denseblock_3.denselayer_6
    # One head of the official code has out_channels / heads rows.
    assert layer.conv_1.weight.std().item() == pytest.approx((2 / (256 / 4)) ** 0.5, rel=0.02)
    assert layer.conv_2.conv.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    conv = create_model("dgc_resnet18", layers=(1, 1, 1, 1)).layer4[0].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 512 / 4)) ** 0.5, rel=0.01)
    assert torch.equal(conv.saliency.expand.bias, torch.ones(4 * 512))


@pytest.mark.parametrize(("name", "size"), [("dgc_densenet86", 4), ("dgc_condensenet", 31), ("dgc_resnet18", 1)])
def test_smallest_image(name, size):
    network = small(name)
    assert network.minimum_size == size
    assert network(torch.randn(1, 3, size, size)).shape == (1, 5)
    if size > 1:
        with pytest.raises(DynError, match=f"DenseNet: the input is 64x{size - 1}, smaller than {size}x{size}"):
            network(torch.randn(1, 3, 64, size - 1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dgc_resnet18", {"heads": 3}, "out_channels=16 is not divisible by 3 heads"),
        ("dgc_resnet18", {"keep": 1.5}, "keep=1.5 is outside 0..1"),
        ("dgc_resnet18", {"squeeze": 64}, "16 channels cannot be squeezed by 32"),
        ("dgc_resnet18", {"output_stride": 4}, "output_stride=4"),
        ("dgc_densenet86", {"heads": 5}, "out_channels=32 is not divisible by 5 heads"),
        ("dgc_densenet86", {"stages": (1, 1)}, r"stages=\(1, 1\), growth=\(8, 8, 16\)"),
        ("dgc_densenet86", {"stages": (), "growth": ()}, "1 or more"),
        ("dgc_densenet86", {"stages": (2, 0, 2)}, "layers and added channels of every block"),
        ("dgc_densenet86", {"growth": (8, 10, 16)}, r"growth=\(8, 10, 16\) is not divisible by 4 groups"),
        ("dgc_densenet86", {"bottleneck": 0}, "DenseNet: bottleneck=0 is not positive"),
        ("dgc_densenet86", {"groups": 0}, "groups=0 is not positive"),
        ("dgc_densenet86", {"num_classes": -1}, "num_classes=-1 is not positive"),
        ("dgc_densenet86", {"stem_stride": 4}, "stem_stride=4.\n  fix: 1 or 2"),
        ("dgc_condensenet", {"stages": (1,), "growth": (8,)}, "2 or more"),
        ("dgc_densenet121", {}, r"no model 'dgc_densenet121'.\n  fix: dgc_densenet86\?"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(DynError, match=message):
        create_model(name, **{**SMALL.get(name, {}), **options})
