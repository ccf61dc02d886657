"""The layer against the plain formula and the official code's structure; export to torch and to ONNX."""

import io

import onnxruntime
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.ops.scconv import onnx, reference
from dyndeploy.ops.scconv.module import SCConv2d

OPTIONS = {
    "official": {},
    "bilinear": {"upsample": "bilinear"},
    "stride and dilation": {"stride": 2, "dilation": 2},
    "groups, pooling of three": {"groups": 2, "pooling": 3},
    "split": {"split": True, "stride": 2},
    "split, bilinear": {"split": True, "upsample": "bilinear", "groups": 2},
}
SIZES = {0: Dim("batch", max=8), 2: Dim("height", min=8, max=64), 3: Dim("width", min=8, max=64)}
#: None of these is a multiple of 4 along both axes, and one is not larger than the pooling.
SHAPES = [(1, 9, 14), (3, 8, 23), (2, 33, 10)]


def build(dtype=torch.float32, **options):
    """A layer in evaluation mode whose BatchNorms have seen something."""
    torch.manual_seed(0)
    layer = SCConv2d(8, **options).to(dtype)
    for norm in layer.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return layer.eval()


def conv_norm(sequence):
    conv, norm = sequence[-2:]
    return reference.ConvNorm(conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)


def truth(layer, x):
    """The reference with the layer's weights, in float64."""
    layer = layer.double()
    plain, x = x.double().chunk(2, 1) if layer.split else (None, x.double())
    y = reference.forward(
        x,
        *(conv_norm(k) for k in (layer.k2, layer.k3, layer.k4)),
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
        pooling=layer.pooling,
        upsample=layer.upsample,
    )
    return y if plain is None else torch.cat([layer.k1(plain), y], 1)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("size", [(8, 12), (9, 14), (4, 7)])
def test_agrees_with_the_formula(options, size):
    layer = build(torch.float64, **options)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    torch.testing.assert_close(layer(x), truth(layer, x))


class Official(nn.Module):
    """SCConv of the official code, in its own words' structure: the state dict's names and the interpolation."""

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
def test_official_state_dicts_fit_and_mean_the_same(training):
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


def test_split_keeps_the_halves_apart():
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
def test_shapes(options):
    stride = options.get("stride", 1)
    assert build(**options)(torch.zeros(2, 8, 9, 14)).shape == (2, 8, -(-9 // stride), -(-14 // stride))


def test_everything_learns():
    layer = build(split=True).train()
    layer(torch.randn(2, 8, 9, 8)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


def test_autocast_compile_and_repr():
    layer, x = build(), torch.randn(1, 8, 9, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    assert "8, stride=1, dilation=1, groups=1, pooling=4, upsample='nearest', split=False" in repr(layer)


def program_of(layer):
    return torch.export.export(layer, (torch.randn(2, 8, 16, 20),), dynamic_shapes={"x": SIZES})


def onnx_of(layer):
    return torch.onnx.export(program_of(layer), dynamo=True, opset_version=22, verbose=False)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_onnx_at_other_shapes(options):
    layer = build(**options)
    program, buffer = onnx_of(layer), io.BytesIO()
    program.save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue())
    inputs = [torch.randn(n, 8, h, w) for n, h, w in SHAPES]
    outputs = [session.run(None, {"x": x.numpy()})[0] for x in inputs]
    for x, y in zip(inputs, outputs):
        expected = truth(layer, x)
        error = (torch.from_numpy(y).double() - expected).norm() / expected.norm()
        assert error < onnx.SPEC.tolerance["float32"]


def test_torch_export_at_other_shapes():
    layer = build(split=True)
    program = program_of(layer).module()
    for n, h, w in SHAPES:
        x = torch.randn(n, 8, h, w)
        torch.testing.assert_close(program(x), layer(x))


def test_export_down_to_the_pooling():
    """By default torch.export takes no pooled map of one pixel as a dynamic size; deferred guards do."""
    layer = build()
    sizes = {0: SIZES[0], 2: Dim("height", min=4, max=64), 3: Dim("width", min=4, max=64)}
    program = torch.export.export(
        layer,
        (torch.randn(2, 8, 16, 20),),
        dynamic_shapes={"x": sizes},
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    x = torch.randn(1, 8, 4, 5)
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_becomes_the_ops_that_are_documented(upsample):
    used = {node.op_type for node in onnx_of(build(upsample=upsample, split=True)).model.graph}
    other = "Resize" if upsample == "nearest" else "Gather"
    assert set(onnx.ONNX_OPS) - {other} <= used
    assert used <= (set(onnx.ONNX_OPS) - {other}) | set(onnx.INDEX_OPS)


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
