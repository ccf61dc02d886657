"""The layer against the reference and the official code's structure; torch.export."""

import pytest
import torch
import torch.fx.experimental._config
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.ops.scconv.module import SCConv2d

OPTIONS = {
    "official": {},
    "bilinear": {"upsample": "bilinear"},
    "stride and dilation": {"stride": 2, "dilation": 2},
    "groups, pooling of three": {"groups": 2, "pooling": 3},
    "split": {"split": True, "stride": 2},
    "split, bilinear": {"split": True, "upsample": "bilinear", "groups": 2},
}
#: None of these is a multiple of 4 along both axes.
SHAPES = [(1, 9, 14), (3, 8, 23), (2, 33, 10)]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("size", [(8, 12), (9, 14), (4, 7)])
def test_agrees_with_the_reference(build, truth, options, size):
    layer = build(**options).double()
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    torch.testing.assert_close(layer(x), truth(layer, x))


class Official(nn.Module):
    """SCConv of the official code, reduced to its structure: the names in its state dict, and its interpolation."""

    def __init__(self, channels, stride):
        super().__init__()

        def conv(step):
            return nn.Conv2d(channels, channels, 3, step, 1, bias=False)

        self.k2 = nn.Sequential(nn.AvgPool2d(4, 4), conv(1), nn.BatchNorm2d(channels))
        self.k3 = nn.Sequential(conv(1), nn.BatchNorm2d(channels))
        self.k4 = nn.Sequential(conv(stride), nn.BatchNorm2d(channels))

    def forward(self, x):
        gate = torch.sigmoid(x + F.interpolate(self.k2(x), x.shape[2:]))
        return self.k4(self.k3(x) * gate)


@pytest.mark.parametrize("training", [False, True])
def test_official_state_dicts_fit_and_mean_the_same(build, training):
    layer = build(stride=2)
    official = Official(8, 2)
    official.load_state_dict(layer.state_dict())
    assert list(layer.state_dict()) == list(official.state_dict())
    x = torch.randn(4, 8, 14, 57)
    torch.testing.assert_close(layer.train(training)(x), official.train(training)(x))


def count(layer):
    return sum(p.numel() for p in layer.parameters())


def test_parameters():
    assert count(SCConv2d(32)) == 3 * (9 * 32 * 32 + 2 * 32)
    assert count(SCConv2d(32, groups=4)) == 3 * (9 * 32 * 8 + 2 * 32)
    plain = 9 * 64 * 64
    assert count(SCConv2d(64, split=True)) == plain + 4 * 2 * 32  # none beyond the plain convolution's, but four norms


def test_resnet50_has_the_parameters_of_the_official_code():
    """SCNet-50: in every bottleneck of ResNet-50 (25,557,032) the 3x3 of w channels, with its norm, becomes K1 to K4
    of w/2 each; the 1x1 before it, with its norm, is the same in two halves."""
    widths = [(64, 3), (128, 4), (256, 6), (512, 3)]
    change = sum(blocks * (count(SCConv2d(w, split=True)) - 9 * w * w - 2 * w) for w, blocks in widths)
    assert 25_557_032 + change == 25_564_584


def test_split_keeps_the_halves_apart(build):
    """[K1 half, self-calibrated half], as the official bottleneck concatenates them."""
    layer = build(split=True)
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[:, :4] += 1
    before, after = layer(x), layer(changed)
    assert not torch.equal(before[:, :4], after[:, :4])
    assert torch.equal(before[:, 4:], after[:, 4:])
    torch.testing.assert_close(before[:, :4], layer.k1(x[:, :4]))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_shapes(build, options):
    stride = options.get("stride", 1)
    assert build(**options)(torch.zeros(2, 8, 9, 14)).shape == (2, 8, -(-9 // stride), -(-14 // stride))


def test_everything_learns(build):
    layer = build(split=True).train()
    layer(torch.randn(2, 8, 9, 8)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


def test_autocast_compile_and_repr(build):
    layer, x = build(), torch.randn(1, 8, 9, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    assert "8, stride=(1, 1), dilation=(1, 1), groups=1, pooling=4, upsample='nearest', split=False" in repr(layer)


def export(layer, smallest):
    sizes = {0: Dim("batch", max=8), 2: Dim("height", min=smallest, max=64), 3: Dim("width", min=smallest, max=64)}
    program = torch.export.export(layer, (torch.randn(2, 8, 16, 20),), dynamic_shapes={"x": sizes})
    return program.module()


@pytest.mark.parametrize("options", [OPTIONS["split"], OPTIONS["bilinear"]], ids=["split", "bilinear"])
def test_exports_with_dynamic_dims(build, options):
    layer = build(**options)
    program = export(layer, smallest=8)
    for n, h, w in SHAPES:
        x = torch.randn(n, 8, h, w)
        torch.testing.assert_close(program(x), layer(x))


def test_exports_down_to_the_pooling(build):
    """torch.export takes no dim that can be 1, such as 4 // 4, for a dynamic one, unless sizes are oblivious of it."""
    layer = build()
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        program = export(layer, smallest=4)
    for n, h, w in (*SHAPES, (1, 4, 5)):
        x = torch.randn(n, 8, h, w)
        torch.testing.assert_close(program(x), layer(x))


BAD = {
    "small input": (lambda: SCConv2d(8)(torch.zeros(1, 8, 7, 3)), "input is 7x3, smaller than pooling=4"),
    "odd channels in halves": (lambda: SCConv2d(7, split=True), "channels=7 is not divisible by 2"),
    "groups": (lambda: SCConv2d(8, groups=3), "channels=8 is not divisible by 3"),
    "groups of halves": (lambda: SCConv2d(12, groups=4, split=True), "channels=12 is not divisible by 8"),
    "upsample": (lambda: SCConv2d(8, upsample="cubic"), "upsample='cubic'.*upsample=\"nearest\""),
    "stride": (lambda: SCConv2d(8, stride=0), "stride=0 is not positive"),
    "dilation": (lambda: SCConv2d(8, dilation=0), "dilation=0 is not positive"),
    "pooling": (lambda: SCConv2d(8, pooling=-1), "pooling=-1 is not positive"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(call, message):
    with pytest.raises(DynError, match=f"(?s)^.*{message}"):
        call()
