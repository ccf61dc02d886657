"""The layers: their branches against the official code's steps, parameters, guides, export."""

import math

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.ops.ddf.module import DDF, DDFUp


def count(layer):
    return sum(p.numel() for p in layer.parameters())


def filter_norm(filters, axis):
    return (filters - filters.mean(axis, keepdim=True)) / (filters.std(axis, keepdim=True) + 1e-10)


def official(x, channel, spatial, gain, spatial_gain, heads=1, combine="mul"):
    """DDFPack of the official code for k = 3 and stride 1: raw filters [N, C*9] and [N, heads*9, H, W]."""
    n, c, h, w = x.shape
    channel = filter_norm(channel.reshape(n, c, 9), 2).reshape(n, -1) * gain
    spatial = filter_norm(spatial.reshape(n, heads, 9, h, w), 2) * spatial_gain
    channel = channel.reshape(n, heads, c // heads, 9, 1, 1)
    spatial = spatial.reshape(n, heads, 1, 9, h, w)
    filters = channel * spatial if combine == "mul" else channel + spatial
    windows = F.unfold(x, 3, padding=1).reshape(n, heads, c // heads, 9, h, w)
    return (filters * windows).sum(3).reshape(n, c, h, w)


@pytest.fixture
def x():
    return torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def build(kind, *arguments, **options):
    torch.manual_seed(0)
    return kind(*arguments, **options).double()


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("combine", ["mul", "add"])
def test_ddf_is_the_official_pack(x, heads, combine):
    layer = build(DDF, 8, heads=heads, combine=combine)
    squeezed = F.adaptive_avg_pool2d(x, 1)
    channel = layer.channel_branch[2](layer.channel_branch[0](squeezed).relu()).flatten(1)
    expected = official(x, channel, layer.spatial_branch(x), layer.channel_gain, math.sqrt(2) / 3, heads, combine)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (5, 6)),
        ({"stride": 2}, (3, 3)),
        ({"stride": (1, 3), "dilation": (2, 1)}, (5, 2)),
        ({"kernel_size": (1, 5), "stride": (2, 1)}, (3, 6)),
        ({"kernel_size": 5, "dilation": 3}, (5, 6)),
    ],
)
def test_ddf_shapes(x, options, shape):
    assert build(DDF, 8, **options)(x).shape == (2, 8, *shape)


def test_parameters():
    """By hand: 1x1 to 9 taps, 64 -> int(12.8) -> 576 with biases, a gain per channel and tap."""
    assert count(DDF(64)) == (64 * 9 + 9) + (64 * 12 + 12) + (12 * 576 + 576) + 576 == 9429
    branch = (64 * 9 + 64) + (64 * 9 + 9) + (64 * 12 + 12) + (12 * 576 + 576) + 576
    assert count(DDFUp(64)) == 4 * branch
    assert count(DDFUp(64, guide_channels=3)) == 4 * (branch - (64 * 9 + 64) - 61 * 9)


def test_resnet50_has_the_parameters_of_the_paper():
    """16.8M: every 3x3 convolution of ResNet-50 (25,557,032) becomes a DDF."""
    widths = [(64, 3), (128, 4), (256, 6), (512, 3)]
    change = sum(blocks * (count(DDF(width)) - 9 * width * width) for width, blocks in widths)
    assert 25_557_032 + change == 16_843_748


def test_initialisation():
    torch.manual_seed(0)
    layer = DDF(64, kernel_size=(3, 5), nonlinearity="linear")
    assert layer.spatial_gain == pytest.approx(1 / math.sqrt(15))
    assert layer.channel_gain.std().item() == pytest.approx(1 / math.sqrt(15), rel=0.1)
    assert DDF(8).spatial_gain == pytest.approx(math.sqrt(2) / 3)
    assert DDFUp(8).spatial_gain == pytest.approx(1 / 3)


def test_few_channels_keep_one_hidden_channel():
    """int(3 * 0.2) = 0, where the official code fails."""
    layer = DDF(3)
    assert layer.channel_branch[0].out_channels == 1
    assert layer(torch.randn(1, 3, 4, 4)).isfinite().all()


@pytest.mark.parametrize("make", [lambda: DDF(4, stride=2, heads=2), lambda: DDFUp(4, heads=2, combine="add")])
def test_everything_learns(make):
    torch.manual_seed(0)
    layer = make()
    layer.channel_branch[0].bias.data.fill_(1.0)  # four channels have one hidden channel: keep it alive
    layer(torch.randn(2, 4, 5, 6)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.any(), name


def branches_of(layer, branch):
    """Modules of one branch of a DDFUp, cut out of the grouped convolutions."""

    def cut(conv, groups):
        outputs = conv.out_channels // 4
        inputs = conv.in_channels // groups
        part = nn.Conv2d(inputs, outputs, 1).double()
        part.weight.data = conv.weight.data[branch * outputs : (branch + 1) * outputs]
        part.bias.data = conv.bias.data[branch * outputs : (branch + 1) * outputs]
        return part

    squeeze, _, expand = layer.channel_branch
    gain = layer.channel_gain.data.chunk(4)[branch]
    return cut(squeeze, 1), cut(expand, 4), cut(layer.spatial_branch, 4), gain


def per_branch(layer, x, guides):
    """The official DDFUpPack, made to run: a loop over branches, a stack, a pixel shuffle."""
    outputs = []
    for branch, guide in enumerate(guides):
        squeeze, expand, spatial, gain = branches_of(layer, branch)
        channel = expand(squeeze(x.mean((2, 3), keepdim=True)).relu()).flatten(1)
        outputs.append(official(x, channel, spatial(guide), gain, 1 / 3, layer.heads))
    return F.pixel_shuffle(torch.stack(outputs, dim=2).flatten(1, 2), 2)


@pytest.mark.parametrize("heads", [1, 2])
def test_up_is_a_loop_over_branches(x, heads):
    layer = build(DDFUp, 8, heads=heads)
    dw = layer.depthwise
    guides = [F.conv2d(x, dw.weight[branch::4], dw.bias[branch::4], padding=1, groups=8) for branch in range(4)]
    torch.testing.assert_close(layer(x), per_branch(layer, x, guides))


@pytest.mark.parametrize("guide_channels", [None, 3])
def test_guide_at_the_low_resolution_is_seen_by_every_branch(x, guide_channels):
    layer = build(DDFUp, 8, guide_channels=guide_channels)
    guide = torch.randn(2, guide_channels or 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x, guide), per_branch(layer, x, [guide] * 4))


@pytest.mark.parametrize("guide_channels", [None, 3])
def test_guide_at_the_output_resolution_is_seen_pixel_by_pixel(x, guide_channels):
    layer = build(DDFUp, 8, guide_channels=guide_channels)
    guide = torch.randn(2, guide_channels or 8, 10, 12, dtype=torch.float64)
    parts = [guide[:, :, branch // 2 :: 2, branch % 2 :: 2] for branch in range(4)]
    torch.testing.assert_close(layer(x, guide), per_branch(layer, x, parts))


def test_both_resolutions_of_a_guide_agree_where_they_can(x):
    layer = build(DDFUp, 8, guide_channels=3)
    guide = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    enlarged = guide.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(layer(x, guide), layer(x, enlarged))


def test_scale_of_one_is_a_ddf(x):
    up, plain = build(DDFUp, 8, scale=1, guide_channels=8), build(DDF, 8, nonlinearity="linear")
    plain.load_state_dict(up.state_dict())
    torch.testing.assert_close(up(x, x), plain(x))


@pytest.mark.parametrize("scale", [1, 3])
def test_up_shapes(x, scale):
    assert build(DDFUp, 8, kernel_size=(3, 5), scale=scale)(x).shape == (2, 8, 5 * scale, 6 * scale)


SIZES = {0: Dim("batch", max=8), 2: Dim("height", min=4, max=64), 3: Dim("width", min=4, max=64)}
OUTPUT_SIZES = {0: SIZES[0], 2: 2 * SIZES[2], 3: 2 * SIZES[3]}
ANY = dict.fromkeys((0, 2, 3), Dim.DYNAMIC)


@pytest.mark.parametrize(
    "options", [{}, {"stride": (2, 1), "dilation": (1, 2), "heads": 2, "kernel_size": (3, 5)}, {"stride": 2}]
)
def test_ddf_exports_with_dynamic_dims(options):
    torch.manual_seed(0)
    layer = DDF(8, **options)
    program = torch.export.export(layer, (torch.randn(2, 8, 9, 7),), dynamic_shapes={"x": SIZES})
    for shape in ((1, 8, 4, 4), (3, 8, 12, 7), (8, 8, 5, 33)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("factor", [0, 1, 2], ids=["no guide", "low resolution", "output resolution"])
@pytest.mark.parametrize("named", [True, False], ids=["named dims", "inferred dims"])
def test_up_exports_with_dynamic_dims(factor, named):
    torch.manual_seed(0)
    layer = DDFUp(8, guide_channels=3 if factor else None)

    def inputs(n, h, w):
        guide = (torch.randn(n, 3, factor * h, factor * w),) if factor else ()
        return (torch.randn(n, 8, h, w), *guide)

    dims = (SIZES, SIZES if factor == 1 else OUTPUT_SIZES) if named else (ANY, ANY)
    arguments = inputs(2, 9, 7)
    program = torch.export.export(layer, arguments, dynamic_shapes=dims[: len(arguments)])
    for shape in ((2, 4, 4), (3, 12, 7), (8, 5, 33)):
        arguments = inputs(*shape)
        torch.testing.assert_close(program.module()(*arguments), layer(*arguments))


@pytest.mark.parametrize("layer", [DDF(8, stride=2), DDFUp(8)], ids=["DDF", "DDFUp"])
def test_autocast_and_half(layer):
    x = torch.randn(1, 8, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    torch.testing.assert_close(layer.bfloat16()(x.bfloat16()).float(), layer.float()(x), rtol=0.1, atol=0.1)


def test_compiles(x):
    layer = build(DDFUp, 8, guide_channels=3)
    guide = torch.randn(2, 3, 10, 12, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, guide), layer(x, guide))


def test_repr_tells_the_arguments():
    assert "8, kernel_size=(3, 3), stride=(2, 2), dilation=(1, 1), heads=2, combine='add'" in repr(
        DDF(8, stride=2, heads=2, combine="add")
    )
    assert "scale=2, guide_channels=3" in repr(DDFUp(8, guide_channels=3))


def up(*shape, guide_channels=3):
    x = torch.zeros(1, 8, 5, 6)
    return lambda: DDFUp(8, guide_channels=guide_channels)(x, torch.zeros(shape) if shape else None)


BAD = {
    "even kernel": (lambda: DDF(8, 2), r"kernel_size=2.*centred.*odd"),
    "even width": (lambda: DDF(8, (3, 4)), r"kernel_size=\(3, 4\)"),
    "one tap": (lambda: DDFUp(8, 1), "more than one tap"),
    "heads": (lambda: DDF(8, heads=3), "channels=8 is not divisible by heads=3"),
    "no heads": (lambda: DDF(8, heads=0), "channels=8 is not divisible by heads=0"),
    "se_ratio": (lambda: DDF(8, se_ratio=0), "se_ratio=0 is not positive"),
    "combine": (lambda: DDFUp(8, combine="max"), "combine='max'.*combine=\"mul\""),
    "nonlinearity": (lambda: DDF(8, nonlinearity="swish"), "nonlinearity='swish'.*\"relu\""),
    "scale": (lambda: DDFUp(8, scale=0), "scale=0"),
    "no guide channels": (lambda: DDFUp(8, guide_channels=0), "guide_channels=0"),
    "missing guide": (up(), r"guide_channels=3, but no guide was given.*forward\(x, guide\)"),
    "guide of other channels": (up(1, 8, 5, 6), r"guide has shape \[1, 8, 5, 6\], expected \[N, 3, H, W\]"),
    "optional guide of other channels": (up(1, 3, 5, 6, guide_channels=None), r"expected \[N, 8, H, W\]"),
    "guide without batch": (up(3, 5, 6), r"guide has shape \[3, 5, 6\]"),
    "guide of another size": (up(1, 3, 15, 18), "guide is 15x18 and the input 5x6.*a guide of 5x6 or 10x12"),
    "guide enlarged along one axis": (up(1, 3, 5, 12), "guide is 5x12"),
    "guide of another batch": (up(2, 3, 10, 12), "spatial_filter has shape .* dim 0 must be N = 1"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(call, message):
    with pytest.raises(DynError, match=f"(?s)^.*{message}"):
        call()
