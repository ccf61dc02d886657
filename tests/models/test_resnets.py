"""Residual networks of dcnv2, ddf and scconv, what all backbones share, and the registry."""

import inspect

import pytest
import torch
from torch import nn

from dyndeploy.errors import DynError
from dyndeploy.models import create_model, dcnv2, list_models
from dyndeploy.models.resnet import Bottleneck
from dyndeploy.nn import DDF, ModulatedDeformConv2d, SCConv2d

SMALL = {"width": 8, "layers": (1, 2, 1, 1), "num_classes": 5}
DYNAMIC = {"resnet50_dcnv2": ModulatedDeformConv2d, "ddf_resnet50": DDF, "scnet50": SCConv2d, "scnet50_v1d": SCConv2d}


def count(name, **options):
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name, **options).parameters())


def small(name, **options):
    torch.manual_seed(0)
    return create_model(name, **SMALL, **options).eval()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ddf_resnet50", 16_843_748),
        ("ddf_resnet101", 28_146_912),
        ("ddf_resnet152", 37_462_900),
        ("scnet50", 25_564_584),
        ("scnet101", 44_565_416),
        ("scnet50_v1d", 25_583_816),
        ("scnet101_v1d", 44_689_192),
    ],
)
def test_parameters(name, parameters):
    assert count(name) == parameters


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("resnet50_dcnv2", {}, 871_263),
        ("resnet101_dcnv2", {}, 1_929_258),
        ("resnet50_dcnv2", {"modulated": False}, 580_842),
        ("resnet50_dcnv2", {"offset_groups": 4}, 4 * 871_263),
        ("resnet50_dcnv2", {"stages": [5]}, 3 * (512 * 9 + 1) * 27),
    ],
)
def test_parameters_of_the_predictors(name, options, parameters):
    assert count(name, **options) - count(name, stages=()) == parameters


def test_the_plain_network_is_resnet():
    assert count("resnet50_dcnv2", stages=()) == 25_557_032  # torchvision's resnet50
    assert count("resnet101_dcnv2", stages=()) == 44_549_160


@pytest.mark.parametrize("name", DYNAMIC)
def test_features_are_what_the_classifier_reads(name):
    network, backbone = small(name), small(name, features_only=True)
    backbone.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("fc.")})
    x = torch.randn(2, 3, 128, 160)
    with torch.no_grad():
        maps = backbone(x)
        assert torch.equal(network.classify(maps[-1]), network(x))
    assert network(x).shape == (2, 5)
    assert backbone.feature_strides == (4, 8, 16, 32)
    assert backbone.feature_channels == (32, 64, 128, 256)
    assert [m.shape for m in maps] == [(2, 32 * 2**i, 32 // 2**i, 40 // 2**i) for i in range(4)]


@pytest.mark.parametrize("name", ["resnet50_dcnv2", "scnet50", "scnet50_v1d"])
def test_odd_sizes_round_up(name):
    maps = small(name, features_only=True)(torch.randn(1, 3, 99, 131))
    assert [tuple(m.shape[2:]) for m in maps] == [(25, 33), (13, 17), (7, 9), (4, 5)]


@pytest.mark.parametrize("name", DYNAMIC)
def test_everything_learns(name):
    network = small(name).train()
    network(torch.randn(2, 3, 128, 128)).square().sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("in_channels", [1, 4])
def test_channels_of_the_image(name, in_channels):
    assert small(name, in_channels=in_channels)(torch.randn(1, in_channels, 128, 128)).shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50_dcnv2", {"output_stride": 8}),
        ("resnet50_dcnv2", {"output_stride": 8, "style": "caffe"}),
        ("ddf_resnet50", {"output_stride": 8}),
        ("scnet50", {"dilated": True}),
        ("scnet50", {"dilation": 4}),
        ("scnet50_v1d", {"dilated": True}),
    ],
)
def test_dilations_keep_the_resolution(name, options):
    backbone = small(name, features_only=True, **options)
    assert backbone.feature_strides == (4, 8, 8, 8)
    assert [m.shape[3] for m in backbone(torch.randn(1, 3, 64, 64))] == [16, 8, 8, 8]
    spatial = [m.dilation for m in backbone.modules() if isinstance(m, DYNAMIC[name])]
    assert {d if isinstance(d, int) else d[0] for d in spatial} <= {1, 2, 4}


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("style", ["pytorch", "caffe"])
def test_dilations_compute_what_the_strides_did(output_stride, style):
    """A plain network: every output of the strided one stands in the dilated one's map, in between are others."""
    options = {**SMALL, "layers": (1, 1, 2, 2), "stages": (), "style": style, "features_only": True}
    strided = create_model("resnet50_dcnv2", **options).double().eval()
    dilated = create_model("resnet50_dcnv2", output_stride=output_stride, **options).double().eval()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 75, 97, dtype=torch.float64)
    for coarse, fine in zip(strided(x), dilated(x)):
        step = -(-fine.shape[3] // coarse.shape[3])
        torch.testing.assert_close(fine[:, :, ::step, ::step], coarse)


def test_style_says_where_the_stride_is():
    for style, strides in (("pytorch", ((1, 1), (2, 2))), ("caffe", ((2, 2), (1, 1)))):
        block = small("resnet50_dcnv2", style=style).layer2[0]
        assert (block.conv1.stride, block.conv2.stride) == strides


@pytest.mark.parametrize(
    ("options", "stages"),
    [({}, [2, 3, 4]), ({"stages": (5,)}, [4]), ({"stages": (2, 4)}, [1, 3]), ({"stages": ()}, [])],
)
def test_stages_that_deform(options, stages):
    network = small("resnet50_dcnv2", **options)
    layers = {f"layer{s}.{b}.conv2" for s in stages for b in range(SMALL["layers"][s - 1])}
    assert {name for name, m in network.named_modules() if isinstance(m, ModulatedDeformConv2d)} == layers


def test_weights_at_the_start():
    network = create_model("ddf_resnet50", width=16, layers=(1, 1, 1, 1))
    blocks = [m for m in network.modules() if isinstance(m, Bottleneck)]
    assert len(blocks) == 4
    assert not any(b.bn3.weight.any() for b in blocks)
    conv = blocks[-1].conv3.weight
    assert conv.std().item() == pytest.approx((2 / conv.shape[0]) ** 0.5, rel=0.05)
    assert all(
        b.bn3.weight.all()
        for b in create_model("ddf_resnet50", zero_init_last=False, **SMALL).modules()
        if isinstance(b, Bottleneck)
    )


@pytest.mark.parametrize(
    ("name", "options", "size", "message"),
    [
        ("ddf_resnet50", {}, (64, 33), r"ResNet: 64x33 are not multiples of 32.(?s:.*)to 64x64"),
        ("scnet50", {}, (97, 96), "ResNet: the input is 97x96, smaller than 97x97"),
        ("scnet101_v1d", {}, (96, 200), "smaller than 97x97"),
        ("scnet50", {"dilated": True}, (24, 24), "smaller than 25x25"),
        ("scnet50", {"dilation": 2}, (48, 49), "smaller than 49x49"),
    ],
)
def test_size_of_the_image(name, options, size, message):
    with pytest.raises(DynError, match=message):
        small(name, **options)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("options", "size"), [({}, 97), ({"dilated": True}, 25), ({"dilation": 2}, 49), ({"average_down": True}, 97)]
)
def test_smallest_image_of_scnet(options, size):
    assert small("scnet50", **options)(torch.randn(1, 3, size, size)).shape == (1, 5)


@pytest.mark.parametrize("shape", [(3, 128, 128), (128, 128), (1, 3, 1, 128, 128)])
def test_rank_of_the_image(shape):
    with pytest.raises(DynError, match=r"the input has shape \[.*\], expected \[N, 3, H, W\]"):
        small("scnet50")(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet50_dcnv2", {"stages": (1, 2)}, r"stages=\(1, 2\).(?s:.*)conv2 to conv5"),
        ("resnet50_dcnv2", {"style": "tf"}, "style='tf'"),
        ("resnet50_dcnv2", {"offset_groups": 3}, "3"),
        ("resnet50_dcnv2", {"output_stride": 4}, "output_stride=4.\n  fix: 8, 16 or 32"),
        ("resnet50_dcnv2", {"layers": (1, 1, 1)}, r"layers=\(1, 1, 1\).(?s:.*)four stages"),
        ("resnet50_dcnv2", {"layers": (1, 1, 0, 1)}, "at least one block"),
        ("ddf_resnet50", {"num_classes": 0}, "num_classes=0 is not positive"),
        ("ddf_resnet50", {"in_channels": 0}, "in_channels=0 is not positive"),
        ("ddf_resnet50", {"width": 0}, "width=0 is not positive"),
        ("ddf_resnet50", {"combine": "max"}, "combine='max'"),
        ("scnet50", {"dilation": 3}, "dilation=3.\n  fix: 1, 2 or 4"),
        ("scnet50", {"width": 7}, "width=7 is odd"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(DynError, match=message):
        create_model(name, **{"width": 8, "layers": (1, 1, 1, 1), **options})


def test_list_models():
    assert list_models("*dcnv2") == ["resnet101_dcnv2", "resnet50_dcnv2"]
    assert list_models("ddf_resnet*") == ["ddf_resnet101", "ddf_resnet152", "ddf_resnet50"]
    assert list_models("scnet*") == ["scnet101", "scnet101_v1d", "scnet50", "scnet50_v1d"]
    assert list_models() == sorted(list_models())
    assert list_models("vgg*") == []


@pytest.mark.parametrize("name", list_models("*net*"))
def test_every_backbone_has_the_common_options(name):
    with torch.device("meta"):
        network = create_model(name, num_classes=7, in_channels=4, features_only=False)
        backbone = create_model(name, in_channels=4, features_only=True)
    assert not network.features_only
    assert backbone.features_only
    assert set(backbone.state_dict()) < set(network.state_dict())
    assert len(backbone.feature_channels) == len(backbone.feature_strides)
    assert next(iter(network.parameters())).shape[1] == 4


def test_a_variant_shows_its_own_defaults():
    options = inspect.signature(dcnv2.resnet101_dcnv2).parameters
    assert options["layers"].default == (3, 4, 23, 3)
    assert options["stages"].default == (3, 4, 5)
    assert dcnv2.resnet101_dcnv2.__name__ == "resnet101_dcnv2"


def test_names_in_upper_case():
    assert isinstance(create_model("ScNet50", **SMALL).layer1[0].scconv, nn.Module)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("scnet5O", {}, r"There is no model 'scnet5O'.\n  fix: scnet50\? Allowed: .*scnet101"),
        ("resnet", {}, "There is no model 'resnet'.\n  fix: .*Allowed: "),
        ("scnet50", {"width_": 3}, r"scnet50 has no option 'width_'.\n  fix: width\? Allowed: .*dilated"),
        ("scnet101", {"class_count": 3}, "scnet101 has no option 'class_count'.\n  fix: .*Allowed: num_classes"),
    ],
)
def test_unknown_names(name, options, message):
    with pytest.raises(DynError, match=message):
        create_model(name, **options)
