"""The layer: its guide, its two generators, its parameters."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.ops.drconv.module import DRConv2d, MixGenerator, PaperGenerator, _pooling
from dyndeploy.ops.drconv.op import dynamic_region_aware_conv2d

WINDOW = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
GENERATORS = ["mix", "paper"]


def layer_of(generator, **more):
    """A layer whose parameters are all of one size, so that each of them shows in the output."""
    torch.manual_seed(0)
    layer = DRConv2d(4, 6, **{**WINDOW, "generator": generator, "regions": 3, "bases": 5, **more})
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.fixture
def x():
    return torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(1))


def convolutions(layer, x, banks):
    """The response of every bank at every pixel: banks [N, n, O, C, kh, kw] -> [N, n, O, Ho, Wo]."""
    window = (layer.stride, layer.padding, layer.dilation)
    return torch.stack([torch.stack([F.conv2d(s[None], w, None, *window)[0] for w in b]) for s, b in zip(x, banks)])


def test_mix_is_one_convolution_per_basis_mixed_per_pixel(x):
    """out(p) = sum over j of a[n, M(p), j] * (weight[j] * x)(p): convolved first, mixed second."""
    layer = layer_of("mix")
    mixture = 2 * torch.sigmoid(F.linear(x.mean((2, 3)), *layer.generator.mixture.parameters())) / 5
    region = layer.guide_conv(x).argmax(1)
    share = torch.stack([a.reshape(3, 5)[m] for a, m in zip(mixture, region)])  # [N, Ho, Wo, bases]
    responses = convolutions(layer, x, layer.generator.weight.unflatten(0, (5, 6)).expand(2, -1, -1, -1, -1, -1))
    expected = torch.einsum("nuvj,njouv->nouv", share, responses) + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), expected)


def test_paper_pools_and_convolves_twice(x):
    layer = layer_of("paper")
    pooled = nn.AdaptiveAvgPool2d((3, 2))(x)
    filters = layer.generator.expand(torch.sigmoid(layer.generator.squeeze(pooled)))
    responses = convolutions(layer, x, filters.reshape(2, 3, 6, 4, 3, 2))
    chosen = F.one_hot(layer.guide_conv(x).argmax(1), 3).permute(0, 3, 1, 2)[:, :, None]
    torch.testing.assert_close(layer(x), (chosen * responses).sum(1) + layer.bias[:, None, None])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    cells=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_pooling_is_adaptive_average_pooling(size, cells):
    """Maps smaller than the kernel, and sizes that it does not divide, too."""
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pooled = _pooling(x, 2, cells[0]) @ x @ _pooling(x, 3, cells[1]).mT
    torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(x, cells))


def test_mix_starts_as_the_mean_of_its_bases(x):
    torch.manual_seed(0)
    layer = DRConv2d(4, 6, **WINDOW)
    nn.init.zeros_(layer.generator.mixture.weight)
    conv = F.conv2d(
        x, layer.generator.weight.unflatten(0, (layer.generator.bases, -1)).mean(0), None, (2, 1), (1, 0), (1, 2)
    )
    torch.testing.assert_close(layer(x), conv)


def test_initialisation_of_mix():
    torch.manual_seed(0)
    layer = DRConv2d(8, 64, (3, 2))
    bound = (6 / (8 * 3 * 2)) ** 0.5
    assert 0.95 * bound < layer.generator.weight.abs().max() <= bound
    assert 0.008 < layer.generator.mixture.weight.std() < 0.012
    assert not layer.generator.mixture.bias.any()
    assert not layer.bias.any()


def test_parameters_of_one_layer():
    def count(**options):
        with torch.device("meta"):
            return sum(p.numel() for p in DRConv2d(12, 20, (3, 2), **options).parameters())

    weights = 20 * 12 * 6
    mix, guide = 8 * weights + 12 * 64 + 64, 12 * 8 * 6
    assert count() == mix + guide + 20
    assert count(guide_conv=False, bias=False) == mix
    assert count(guide_conv=False, bias=False, regions=4, bases=3) == 3 * weights + 12 * 12 + 12
    paper = 12 * 64 + 64 + 64 * 20 * 12 + 8 * 20 * 12  # both convolutions have a bias
    assert count(generator="paper", bases=99) == paper + guide + 20


@pytest.mark.parametrize(
    ("channels", "generator", "millions"),
    [
        ((24, 48, 96, 192), "mix", 2.293 - 1.367),
        ((24, 116, 232, 464), "mix", 7.273 - 2.280),
        ((24, 48, 96, 192), "paper", 9.67 - 1.367),
        ((24, 116, 232, 464), "paper", 50.3 - 2.280),
    ],
)
def test_parameters_that_shufflenet_gains(channels, generator, millions):
    """Both 1x1 convolutions of every right branch are DRConv, and share the guide of one plain one."""
    gain = 0
    for before, after, blocks in zip(channels, channels[1:], (4, 8, 4)):
        for block in range(blocks):
            inp = after // 2 if block else before
            half = after // 2
            gain += 8 * inp
            for c, o in ((inp, half), (half, after - inp)):
                with torch.device("meta"):
                    layer = DRConv2d(c, o, 1, bias=False, generator=generator, guide_conv=False)
                gain += sum(p.numel() for p in layer.parameters()) - c * o
    assert gain / 1e6 == pytest.approx(millions, rel=2e-3)


def test_guide_has_the_window_of_the_layer(x):
    layer = DRConv2d(4, 6, 3, stride=2, padding=2, dilation=2)
    assert layer.guide_conv(x).shape == (2, 8, 5, 4)
    assert layer(x).shape == (2, 6, 5, 4)
    assert layer.guide_conv.bias is None


def test_a_guide_may_have_a_bias(x):
    layer = layer_of("mix", guide_bias=True)
    assert layer.guide_conv.bias.shape == (3,)
    plain = F.conv2d(x, layer.guide_conv.weight, None, layer.stride, layer.padding, layer.dilation)
    torch.testing.assert_close(layer(x), layer(x, plain + layer.guide_conv.bias[:, None, None]))
    with pytest.raises(DynError, match="guide_bias=True, but guide_conv=False"):
        DRConv2d(4, 6, 3, guide_conv=False, guide_bias=True)


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_block_shares_one_guide(x, generator):
    """A guide that is given wins over the layer's own, and the layer needs none of its own."""
    own, layer = layer_of(generator), layer_of(generator, guide_conv=False)
    layer.load_state_dict(own.state_dict(), strict=False)
    assert layer.guide_conv is None
    torch.testing.assert_close(layer(x, own.guide_conv(x)), own(x))
    other = -own.guide_conv(x)
    torch.testing.assert_close(own(x, other), layer(x, other))
    assert not torch.allclose(own(x, other), own(x))


def test_a_shared_guide_follows_the_stride(x):
    """As the docstring says: nearest interpolation of the logits, which is that of the regions."""
    guide = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(2))
    layer = layer_of("mix", kernel_size=1, stride=2, padding=0, dilation=1, guide_conv=False)
    smaller = F.interpolate(guide, size=(5, 4), mode="nearest")
    y = layer(x, smaller)
    region = F.interpolate(guide.argmax(1, keepdim=True).float(), size=(5, 4), mode="nearest").long()
    expected = dynamic_region_aware_conv2d(
        x,
        layer.generator(x),
        F.one_hot(region[:, 0], 3).permute(0, 3, 1, 2).float(),
        layer.bias,
        kernel_size=1,
        stride=2,
        regions=3,
    )
    torch.testing.assert_close(y, expected)
    with pytest.raises(DynError, match=r"guide has shape \[2, 3, 9, 8\], but dim 2 must be Ho = 5"):
        layer(x, guide)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": "attention"}, 'generator=\'attention\' is unknown.\n  fix: "mix" or "paper"'),
        ({"regions": 0}, "regions=0 is outside 1..32"),
        ({"regions": 33}, "regions=33 is outside 1..32"),
        ({"bases": 0}, "bases=0 is not positive"),
        ({"kernel_size": (3, 3, 3)}, r"\(3, 3, 3\) is not one int or two"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(DynError, match=message):
        DRConv2d(4, 6, **{"kernel_size": 3, **options})


def test_no_guide(x):
    with pytest.raises(DynError, match=r"(?s)no guide.*guide_conv=False.*layer\(x, guide\)"):
        layer_of("mix", guide_conv=False)(x)


@pytest.mark.parametrize("generator", GENERATORS)
def test_everything_learns(x, generator):
    layer = layer_of(generator)
    before = copy.deepcopy(layer.state_dict())
    layer(x).square().mean().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert all(not torch.equal(before[name], value) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("generator", GENERATORS)
def test_compiles_and_exports_with_dynamic_dims(x, generator):
    layer = layer_of(generator).eval()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
    dims = {
        0: torch.export.Dim("batch"),
        2: torch.export.Dim("height", min=4),
        3: torch.export.Dim("width", min=4),
    }
    module = torch.export.export(layer, (x,), dynamic_shapes={"x": dims}).module()
    for shape in ((1, 4, 4, 4), (3, 4, 12, 7), (1, 4, 5, 40)):
        other = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(module(other), layer(other))


@pytest.mark.parametrize("generator", GENERATORS)
def test_autocast(x, generator):
    layer = layer_of(generator)
    guide = layer.guide_conv(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x, guide.round())
        assert layer(x).dtype == torch.bfloat16
    assert y.dtype == torch.bfloat16
    exact = layer(x, guide.round())
    assert (y.float() - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(
    ("generator", "names"),
    [
        ("mix", ["generator.mixture.bias", "generator.mixture.weight", "generator.weight"]),
        (
            "paper",
            [
                "generator.expand.bias",
                "generator.expand.weight",
                "generator.squeeze.bias",
                "generator.squeeze.weight",
            ],
        ),
    ],
)
def test_state_dict_survives(x, generator, names):
    layer = layer_of(generator)
    assert sorted(layer.state_dict()) == ["bias", *names, "guide_conv.weight"]
    other = layer_of(generator)
    other.generator.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert layer_of(generator, bias=False).bias is None


def test_filters_have_the_layout_of_the_op(x):
    for make in (lambda *a: MixGenerator(*a, bases=2), PaperGenerator):
        assert make(4, 6, (3, 2), 5)(x).shape == (2, 5 * 6, 4 * 6)


def test_repr():
    text = repr(DRConv2d(4, 6, 3, stride=2, bias=False, regions=3, bases=5))
    assert "4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(0, 0), dilation=(1, 1), bias=False, regions=3" in text
    assert "bases=5" in text
