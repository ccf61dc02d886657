"""Weights under the names and in the layouts of the official codes: layers and networks compute what those compute.

`Theirs` is a plain restatement of them: running it makes the state dict, under the names that it asks for.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from dyndeploy.checkpoints import load_checkpoint
from dyndeploy.errors import DynError
from dyndeploy.models import create_model
from dyndeploy.nn import DDF, DDFUp, DGConv2d, DRConv2d, ModulatedDeformConv2d, SCConv2d


class Theirs(dict):
    """A state dict that grows while layers are called by name."""

    def new(self, name, *shape, scale=None):
        if name not in self:
            fan = math.prod(shape[1:]) if scale is None else 1
            self[name] = torch.randn(shape, dtype=torch.float64) * (scale or 1) / fan**0.5
        return self[name]

    def conv(self, x, name, out, k=1, *, bias=False, groups=1, **window):
        weight = self.new(f"{name}.weight", out, x.shape[1] // groups, *((k, k) if isinstance(k, int) else k))
        return F.conv2d(x, weight, self.new(f"{name}.bias", out, scale=0.3) if bias else None, groups=groups, **window)

    def linear(self, x, name, out, *, bias=True):
        return F.linear(
            x, self.new(f"{name}.weight", out, x.shape[1]), self.new(f"{name}.bias", out, scale=0.3) if bias else None
        )

    def norm(self, x, name, tracked=True):
        """Weights between 0.5 and 1.5, and the statistics of x itself, so that nothing grows."""
        if f"{name}.weight" not in self:
            self[f"{name}.weight"] = 0.5 + torch.rand(x.shape[1], dtype=torch.float64)
            self.new(f"{name}.bias", x.shape[1], scale=0.3)
            self[f"{name}.running_mean"] = x.mean((0, 2, 3)) + 0.1
            self[f"{name}.running_var"] = x.var((0, 2, 3), correction=0) + 0.1
            if tracked:
                self[f"{name}.num_batches_tracked"] = torch.tensor(7)
        parts = (self[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64)


def assert_same(y, expected):
    assert expected.std() > 1e-3
    assert (y - expected).norm() <= 1e-9 * expected.norm()


def assert_loads(module, theirs, x, expected, **options):
    """Load, compare, and give the report."""
    module = module.double().eval()
    report = load_checkpoint(module, theirs, **options)
    with torch.no_grad():
        assert_same(module(*x) if isinstance(x, tuple) else module(x), expected)
    return report


# --- dcnv2


def sample(x, y, v):
    """x [C, H, W] at pixels y, v [Ho, Wo]; outside there is a frame of zeros."""
    _, height, width = x.shape
    rows, columns = torch.arange(height)[:, None, None], torch.arange(width)[:, None, None]
    vertical = (1 - (y - rows).abs()).clamp(min=0)
    horizontal = (1 - (v - columns).abs()).clamp(min=0)
    return torch.einsum("chw,hij,wij->cij", x, vertical, horizontal)


def deformed(x, offsets, masks, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """Zhu et al., eq. 1, pixel by pixel of the kernel; offsets [N, groups*K*2, Ho, Wo]."""
    (n, c), (kh, kw), (ho, wo) = x.shape[:2], weight.shape[2:], offsets.shape[2:]
    offsets = offsets.reshape(n, groups, kh * kw, 2, ho, wo)
    y = x.new_zeros(n, weight.shape[0], ho, wo)
    for image in range(n):
        for tap in range(kh * kw):
            row = torch.arange(ho)[:, None] * stride - padding + tap // kw * dilation + offsets[image, :, tap, 0]
            column = torch.arange(wo) * stride - padding + tap % kw * dilation + offsets[image, :, tap, 1]
            parts = x[image].chunk(groups)
            value = torch.cat([sample(part, row[g], column[g]) for g, part in enumerate(parts)])
            if masks is not None:
                gates = masks.reshape(n, groups, kh * kw, ho, wo)[image, :, tap]
                value = value * gates.repeat_interleave(c // groups, 0)
            y[image] += torch.einsum("oc,chw->ohw", weight[:, :, tap // kw, tap % kw], value)
    return y if bias is None else y + bias[:, None, None]


def test_the_plain_deformed_convolution_is_one():
    x, weight = draw(1, 4, 5, 6), draw(3, 4, 3, 3)
    plain = deformed(x, draw(1, 36, 3, 3) * 0, None, weight, stride=2, padding=1, groups=2)
    torch.testing.assert_close(plain, F.conv2d(x, weight, stride=2, padding=1))
    half_right = torch.tensor([0.0, 0.5], dtype=torch.float64).repeat(9)[None, :, None, None].expand(1, 18, 5, 6)
    framed = F.pad(x, (1, 2))
    between = (framed[..., :-1] + framed[..., 1:]) / 2
    torch.testing.assert_close(
        deformed(x, half_right, None, weight, padding=1), F.conv2d(between, weight, padding=(1, 0))
    )


WINDOW = {"stride": 2, "padding": 1}


def one_predictor(theirs, x, predictor, main, *, bias=True, groups=1, out=6, modulated=True, **window):
    """mmcv's DCNv2, the port's and CenterNet's DCN, detectron2's pair of siblings."""
    taps = 9 * groups
    raw = theirs.conv(x, predictor, (3 if modulated else 2) * taps, 3, bias=True, **window)
    masks = raw[:, 2 * taps :].sigmoid() if modulated else None
    weight = theirs.new(f"{main}weight", out, x.shape[1], 3, 3)
    more = theirs.new(f"{main}bias", out, scale=1) if bias else None
    return deformed(x, raw[:, : 2 * taps], masks, weight, more, groups=groups, **window)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize(
    ("layout", "predictor", "main", "options"),
    [
        ("mmcv", "conv_offset", "", {}),
        ("mmcv", "module.conv_offset", "module.", {}),
        ("mmcv", "neck.3.conv_offset", "neck.3.", {"prefix": "neck.3"}),
        ("DCNv2 port", "conv_offset_mask", "", {}),
        ("detectron2", "res3.0.conv2_offset", "res3.0.conv2.", {"prefix": "res3.0.conv2."}),
        ("one predictor", "conv2_offset", "conv2.", {}),
    ],
)
def test_one_predictor(layout, predictor, main, options, groups, modulated):
    x, theirs = draw(2, 4, 7, 6), Theirs()
    expected = one_predictor(theirs, x, predictor, main, groups=groups, modulated=modulated, **WINDOW)
    layer = ModulatedDeformConv2d(4, 6, 3, 2, 1, offset_groups=groups, modulated=modulated)
    assert assert_loads(layer, theirs, x, expected, **options).recognised == {layout: 1}


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    "names",
    [
        ("offset_conv", "modulator_conv", "regular_conv"),
        ("conv_offset", "conv_mask", "conv"),
        ("offset.net", "mask.net", "modulated_deform_conv"),
    ],
)
def test_separate_predictors(names, biased):
    x, theirs = draw(2, 4, 7, 6), Theirs()
    offsets = theirs.conv(x, names[0], 36, 3, bias=biased, **WINDOW)
    masks = theirs.conv(x, names[1], 18, 3, bias=biased, **WINDOW).sigmoid()
    weight, bias = theirs.new(f"{names[2]}.weight", 6, 4, 3, 3), theirs.new(f"{names[2]}.bias", 6)
    expected = deformed(x, offsets, masks, weight, bias, groups=2, **WINDOW)
    report = assert_loads(ModulatedDeformConv2d(4, 6, 3, 2, 1, offset_groups=2), theirs, x, expected)
    assert report.recognised == {"split predictors": 1}
    assert list(report.assumed) == ([] if biased else ["predictor.bias"])


@pytest.mark.parametrize("out", [6, 18, 27], ids=lambda out: f"{out} channels")
@pytest.mark.parametrize(
    "names",
    [
        ("p_conv", "m_conv", "conv"),
        ("conv_off", "conv_mod", "conv"),
        ("offset_gen", "modulator_gen", "modulated_conv"),
        ("offset_conv", "mask_conv", "deform_mask_conv"),
        ("offset_conv", "mask_conv", "offset_deform_conv"),
    ],
)
def test_names_matter_only_where_shapes_leave_a_choice(names, out):
    """With 18 outputs, the convolution could be what predicts offsets."""
    x, theirs = draw(1, 4, 5, 5), Theirs()
    offsets, masks = theirs.conv(x, names[0], 18, 3, bias=True), theirs.conv(x, names[1], 9, 3, bias=True).sigmoid()
    expected = deformed(x, offsets, masks, theirs.new(f"{names[2]}.weight", out, 4, 3, 3))
    layer = ModulatedDeformConv2d(4, out, 3, bias=False)
    if out == 18 and names[0] in ("p_conv", "offset_conv") and names[2] in ("conv", "offset_deform_conv"):
        with pytest.raises(DynError, match="Which of these is the convolution, and which predicts offsets and masks"):
            load_checkpoint(layer, theirs)
    else:
        assert assert_loads(layer, theirs, x, expected).recognised == {"split predictors": 1}


@pytest.mark.parametrize("biased", ["offset", "mask"])
def test_one_bias_of_two(biased):
    x, theirs = draw(1, 4, 5, 5), Theirs()
    offsets = theirs.conv(x, "offset", 18, 3, bias=biased == "offset")
    masks = theirs.conv(x, "mask", 9, 3, bias=biased == "mask").sigmoid()
    expected = deformed(x, offsets, masks, theirs.new("conv.weight", 6, 4, 3, 3))
    report = assert_loads(ModulatedDeformConv2d(4, 6, 3, bias=False), theirs, x, expected)
    assert report.assumed == {"predictor.bias": "one predictor has no bias"}
    assert report.used == report.read == 4


def test_dcnv1_without_a_bias():
    x, theirs = draw(1, 4, 5, 5), Theirs()
    expected = deformed(x, theirs.conv(x, "conv_offset", 18, 3), None, theirs.new("weight", 6, 4, 3, 3))
    report = assert_loads(ModulatedDeformConv2d(4, 6, 3, bias=False, modulated=False), theirs, x, expected)
    assert list(report.assumed) == ["predictor.bias"]


def test_a_whole_network_is_no_layer():
    """Modulators are not known by names of a "model" or a "module"."""
    theirs = Theirs()
    one_predictor(theirs, draw(1, 4, 5, 5), "model.module.conv_offset", "model.module.")
    theirs.conv(draw(1, 4, 5, 5), "model.out", 9, 3)
    with pytest.raises(DynError, match=r"fix: prefix='model\.module'"):
        load_checkpoint(ModulatedDeformConv2d(4, 6, 3), theirs)


def test_siblings_that_have_nothing_to_do_with_the_layer():
    """Beside a predictor of its own there are none, and otherwise those that have its channels and kernel."""
    x, theirs = draw(1, 4, 5, 5), Theirs()
    expected = one_predictor(theirs, x, "conv.conv_offset", "conv.")
    others = {"conv_mask.weight": draw(9, 4, 3, 3), "conv_mask.bias": draw(9)}
    report = assert_loads(ModulatedDeformConv2d(4, 6, 3), theirs | others, x, expected, prefix="conv")
    assert (report.recognised, report.outside) == ({"mmcv": 1}, 2)
    own = {name.replace("conv_offset", "predictor"): value for name, value in theirs.items()}
    others = {"conv_offset_head.weight": draw(18, 4, 3, 3)}
    assert_loads(ModulatedDeformConv2d(4, 6, 3), own | others, x, expected, prefix="conv")
    beside = {name.replace("conv.conv_offset", "conv_offset"): value for name, value in theirs.items()}
    others = {"conv_mask.weight": draw(1, 6, 1, 1), "conv_offset_head.weight": draw(2, 6, 3, 3)}
    assert_loads(ModulatedDeformConv2d(4, 6, 3), beside | others, x, expected, prefix="conv")


def test_a_bias_of_zeros_is_none():
    """The port saves one where it has none."""
    x, theirs = draw(2, 4, 7, 6), Theirs()
    expected = one_predictor(theirs, x, "conv_offset_mask", "", bias=False, **WINDOW)
    theirs["bias"] = torch.zeros(6)
    report = assert_loads(ModulatedDeformConv2d(4, 6, 3, 2, 1, bias=False), theirs, x, expected)
    assert list(report.dropped) == ["bias"]
    theirs["bias"][2] = 1e-3
    with pytest.raises(DynError, match="bias is not zero, and the layer has no bias"):
        load_checkpoint(ModulatedDeformConv2d(4, 6, 3, 2, 1, bias=False), theirs)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"modulated": False}, r"\[27, 4, 3, 3\](.|\n)*expects 18(.|\n)*modulated=True"),
        ({"offset_groups": 2}, r"\[27, 4, 3, 3\](.|\n)*expects 54(.|\n)*offset_groups=1"),
    ],
)
def test_predictors_of_another_layer(layer, message):
    theirs = Theirs()
    one_predictor(theirs, draw(1, 4, 5, 5), "conv_offset", "")
    with pytest.raises(DynError, match=message):
        load_checkpoint(ModulatedDeformConv2d(4, 6, 3, **layer), theirs)


# --- ddf


def filter_norm(raw, taps, gain):
    """Over the taps of every filter: raw [N, filters*K, …]."""
    filters = raw.reshape(raw.shape[0], -1, taps, *raw.shape[2:])
    normal = (filters - filters.mean(2, keepdim=True)) / (filters.std(2, keepdim=True) + 1e-10)
    return normal.reshape(raw.shape) * gain


def decoupled(theirs, x, guide, spatial, channel, gain, *, heads=1, stride=1, dilation=1, middle=4, combine="mul"):
    """One pair of branches and the filter of 3x3 taps that they make."""
    n, c = x.shape[:2]
    middle = F.relu(theirs.conv(x.mean((2, 3), keepdim=True), f"{channel}.1", middle, bias=True))
    raw = theirs.conv(middle, f"{channel}.3", c * 9, bias=True).flatten(1)
    per_channel = filter_norm(raw, 9, theirs.new(f"{channel}.4.std", c * 9, scale=gain / 3)).reshape(n, c, 9, 1, 1)
    per_pixel = filter_norm(theirs.conv(guide, spatial, heads * 9, bias=True, stride=stride), 9, gain / 3)
    per_pixel = per_pixel.reshape(n, heads, 9, *per_pixel.shape[2:]).repeat_interleave(c // heads, 1)
    windows = F.unfold(x, 3, dilation, dilation, stride).reshape(n, c, 9, *per_pixel.shape[3:])
    filters = per_channel * per_pixel if combine == "mul" else per_channel + per_pixel
    return (filters * windows).sum(2)


def ddf_pack(theirs, x, name="", **options):
    spatial, channel = f"{name}spatial_branch.0", f"{name}channel_branch"
    return decoupled(theirs, x, x, spatial, channel, 2**0.5, **options)


@pytest.mark.parametrize("options", [{}, {"heads": 2, "stride": 2}, {"dilation": 2, "combine": "add"}], ids=str)
def test_ddf(options):
    x, theirs = draw(2, 10, 6, 8), Theirs()
    expected = ddf_pack(theirs, x, **options)
    assert assert_loads(DDF(10, se_ratio=0.4, **options), theirs, x, expected).recognised == {"ddfnet": 1}


def test_ddf_up_with_a_larger_depthwise_convolution():
    """Of the same extent as the kernel: otherwise the official code does not run."""
    x, theirs, layer = draw(1, 4, 5, 6), Theirs(), DDFUp(4, 5, se_ratio=0.5, depthwise_size=5).double()
    for kind in ("weight", "bias"):
        for i in range(4):
            theirs[f"spatial_branch.{i}.0.{kind}"] = getattr(layer.depthwise, kind).detach()[i::4]
            theirs[f"spatial_branch.{i}.1.0.{kind}"] = getattr(layer.spatial_branch, kind).detach().chunk(4)[i]
            for theirs_at, ours_at in ((1, 0), (3, 2)):
                parts = getattr(layer.channel_branch[ours_at], kind).detach().chunk(4)
                theirs[f"channel_branch.{i}.{theirs_at}.{kind}"] = parts[i]
            theirs[f"channel_branch.{i}.4.std"] = layer.channel_gain.detach().chunk(4)[i]
    assert_loads(DDFUp(4, 5, se_ratio=0.5, depthwise_size=5), theirs, x, layer(x).detach())
    with pytest.raises(DynError, match=r"are \[5, 5\], the layer's \[3, 3\](.|\n)*DDFUp\(…, depthwise_size=5\)"):
        load_checkpoint(DDFUp(4, 5, se_ratio=0.5), theirs)
    for size in (0, 4):
        with pytest.raises(DynError, match=f"depthwise_size={size} is"):
            DDFUp(4, depthwise_size=size)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(("scale", "heads"), [(2, 2), (3, 1)])
def test_ddf_up(guided, scale, heads):
    """DDFUpPack as it would run but for its call, which swaps two arguments."""
    x, guide, theirs, parts = draw(2, 6, 5, 4), draw(2, 6, 5, 4), Theirs(), []
    for i in range(scale**2):
        branch = f"spatial_branch.{i}"
        seen = guide if guided else theirs.conv(x, f"{branch}.0", 6, 3, bias=True, padding=1, groups=6)
        spatial = f"{branch}.0" if guided else f"{branch}.1.0"
        parts.append(decoupled(theirs, x, seen, spatial, f"channel_branch.{i}", 1, heads=heads, middle=2))
    expected = F.pixel_shuffle(torch.stack(parts, 2).flatten(1, 2), scale)
    layer = DDFUp(6, 3, scale, heads=heads, se_ratio=0.4, guide_channels=6 if guided else None)
    assert_loads(layer, theirs, (x, guide) if guided else x, expected)
    with pytest.raises(DynError, match=rf"has {scale**2} branches, and scale=4 has 16(.|\n)*scale={scale}\)"):
        load_checkpoint(DDFUp(6, scale=4, heads=heads, se_ratio=0.4, guide_channels=6 if guided else None), theirs)
    with pytest.raises(DynError, match=r"guide_channels=6\)" if guided else r"guide_channels=None\)"):
        load_checkpoint(DDFUp(6, 3, scale, heads=heads, se_ratio=0.4, guide_channels=None if guided else 6), theirs)


# --- drconv


def chosen(x, filters, guide, bias=None, **window):
    """Convolve with the filters of every region, take the region's own: filters [N, m, O, C, kh, kw]."""
    every = torch.stack([torch.stack([F.conv2d(s[None], w, **window)[0] for w in f]) for s, f in zip(x, filters)])
    mine = F.one_hot(guide.argmax(1), guide.shape[1]).permute(0, 3, 1, 2)[:, :, None]
    y = (every * mine).sum(1)
    return y if bias is None else y + bias[:, None, None]


def mixed(theirs, x, name, out, k, guide, *, regions=8, bases=8, bias=True, **window):
    """megvii's DRConv."""
    banks = theirs.new(f"{name}weight", out * x.shape[1] * k * k, bases, scale=0.3)
    share = theirs.linear(x.mean((2, 3)), f"{name}routing_fc", regions * bases).sigmoid() * 2 / bases
    filters = share.reshape(-1, regions, bases) @ banks.mT
    filters = filters.reshape(-1, regions, out, x.shape[1], k, k)
    return chosen(x, filters, guide, theirs.new(f"{name}bias", out) if bias else None, **window)


def test_drconv_of_megvii():
    x, guide, theirs = draw(2, 4, 7, 6), draw(2, 3, 4, 3), Theirs()
    expected = mixed(theirs, x, "", 6, 3, guide, regions=3, bases=5, **WINDOW)
    layer = DRConv2d(4, 6, 3, 2, 1, regions=3, bases=5, guide_conv=False)
    assert assert_loads(layer, theirs, (x, guide), expected).recognised == {"megvii": 1}
    with pytest.raises(DynError, match="guide_conv=False"):
        load_checkpoint(DRConv2d(4, 6, 3, regions=3, bases=5), theirs)
    with pytest.raises(DynError, match='generator="mix"'):
        load_checkpoint(DRConv2d(4, 6, 3, generator="paper", guide_conv=False), theirs)
    with pytest.raises(DynError, match=r"generator\.weight \(from weight\) \[216, 5\], not \[40, 4, 3, 3\]"):
        load_checkpoint(DRConv2d(4, 8, 3, regions=3, bases=5, guide_conv=False, bias=False), theirs, ignore=["bias"])


def from_image(theirs, x, k, regions, out, **window):
    """shallowtoil's DRConv2d."""
    pooled = theirs.conv(F.adaptive_avg_pool2d(x, k), "conv_kernel.1", regions**2, bias=True).sigmoid()
    filters = theirs.conv(pooled, "conv_kernel.3", regions * out * x.shape[1], bias=True, groups=regions)
    guide = theirs.conv(x, "conv_guide", regions, k, bias=True, **window)
    return chosen(x, filters.reshape(x.shape[0], regions, out, x.shape[1], k, k), guide, **window)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("guide_bias", [False, True])
def test_drconv_of_shallowtoil(k, guide_bias):
    """A guide without a bias is given one: it decides about regions."""
    x, theirs = draw(2, 4, 7, 6), Theirs()
    expected = from_image(theirs, x, k, 3, 6, stride=2, padding=k // 2)
    layer = DRConv2d(4, 6, k, 2, k // 2, regions=3, generator="paper", bias=False, guide_bias=guide_bias)
    report = assert_loads(layer, theirs, x, expected)
    assert report.recognised == {"shallowtoil": 1}
    assert report.added == (() if guide_bias else ("guide_conv.bias",))
    rebuilt = DRConv2d(4, 6, k, 2, k // 2, regions=3, generator="paper", bias=False, guide_bias=True).double()
    rebuilt.load_state_dict(layer.state_dict())
    assert_same(rebuilt(x), expected)
    fresh = DRConv2d(4, 6, k, 2, k // 2, regions=3, generator="paper", bias=False)
    assert assert_loads(fresh, layer.state_dict(), x, expected).added == ("guide_conv.bias",)


def test_a_guide_bias_that_is_the_same_for_all_regions_is_none():
    x, theirs = draw(2, 4, 7, 6), Theirs()
    from_image(theirs, x, 3, 3, 6)
    theirs["conv_guide.bias"].fill_(0.4)
    expected = from_image(theirs, x, 3, 3, 6)
    layer = DRConv2d(4, 6, 3, regions=3, generator="paper")
    report = assert_loads(layer, theirs, x, expected)
    assert list(report.dropped) == ["conv_guide.bias"]
    assert list(report.assumed) == ["bias"]  # their layer has none
    assert layer.guide_conv.bias is None


# --- dgc


def gated(theirs, x, name, out, k, *, heads=4, divisor=8, inactive=0, **window):
    """hellozhuo's DynamicMultiHeadConv."""
    h, outputs = theirs.norm(x, f"{name}norm").relu(), []
    pooled, c = h.mean((2, 3)), x.shape[1]
    theirs[f"{name}_inactive_channels"] = torch.tensor([float(inactive)])
    for head in (f"{name}headconv_{i}" for i in range(heads)):
        hidden = theirs.linear(pooled, f"{head}.fc1", c // divisor, bias=False).relu()
        if f"{head}.fc2.bias" not in theirs:
            theirs[f"{head}.fc2.bias"] = 1 + 0.3 * draw(c)
        wanted = theirs.linear(hidden, f"{head}.fc2", c).relu()
        if inactive:
            wanted = wanted * (wanted > wanted.sort(1).values[:, inactive - 1 : inactive])
        outputs.append(theirs.conv(h * wanted[..., None, None], f"{head}.conv", out // heads, k, **window))
    return F.channel_shuffle(torch.cat(outputs, 1), heads)


@pytest.mark.parametrize("inactive", [0, 7, 13])
def test_dgc(inactive):
    x, theirs = draw(2, 16, 7, 6), Theirs()
    expected = gated(theirs, x, "", 8, 3, inactive=inactive, **WINDOW)
    layer = DGConv2d(16, 8, 3, **WINDOW)
    assert assert_loads(layer, theirs, x, expected).recognised == {"hellozhuo": 1}
    assert layer.inactive == layer.inactive_channels.item() == inactive
    with pytest.raises(DynError, match=r"has 4 heads, the layer 2\.(.|\n)*heads=4"):
        load_checkpoint(DGConv2d(16, 8, 3, heads=2), theirs)
    with pytest.raises(DynError, match="network_wise=False"):
        load_checkpoint(DGConv2d(16, 8, 3, network_wise=True), theirs)


@pytest.mark.parametrize(("value", "message"), [(17.0, r"inactive=17 is outside 0\.\.16"), (2.5, "torch.float32")])
def test_dgc_with_a_number_that_is_none(value, message):
    theirs = Theirs()
    gated(theirs, draw(2, 16, 7, 6), "", 8, 3)
    theirs["_inactive_channels"] = torch.tensor([value])
    layer = DGConv2d(16, 8, 3, **WINDOW)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(DynError, match=message):
        load_checkpoint(layer, theirs)
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())
    assert layer.inactive == 12


# --- scconv


def calibrated(theirs, x, name, stride=1, dilation=1, pooling=4):
    """MCG-NKU's SCConv."""
    window = {"padding": dilation, "dilation": dilation}

    def conv(y, part, **more):
        first = 1 if part == "k2" else 0
        y = theirs.conv(y, f"{name}{part}.{first}", x.shape[1], 3, **window, **more)
        return theirs.norm(y, f"{name}{part}.{first + 1}")

    low = F.interpolate(conv(F.avg_pool2d(x, pooling), "k2"), x.shape[2:])
    return conv(conv(x, "k3") * torch.sigmoid(x + low), "k4", stride=stride)


def test_scconv():
    x, theirs = draw(2, 4, 9, 8), Theirs()
    expected = calibrated(theirs, x, "", stride=2, dilation=2)
    assert assert_loads(SCConv2d(4, 2, 2), theirs, x, expected).recognised == {"own names": 1}


def test_scconv_from_a_bottleneck():
    x, theirs = draw(2, 8, 9, 8), Theirs()
    plain = theirs.norm(theirs.conv(x[:, :4], "layer1.0.k1.0", 4, 3, padding=1), "layer1.0.k1.1")
    expected = torch.cat([plain, calibrated(theirs, x[:, 4:], "layer1.0.scconv.")], 1)
    theirs.norm(theirs.conv(x, "layer1.0.conv1_a", 4), "layer1.0.bn1_a")
    report = assert_loads(SCConv2d(8, split=True), theirs, x, expected, prefix="layer1.0")
    assert report.recognised == {"SCNet bottleneck": 1}
    assert set(report.dropped) == {name for name in theirs if "1_a" in name}


# --- networks


def max_pool(x):
    return F.max_pool2d(x, 3, 2, 1)


def bottleneck(theirs, x, at, planes, stride, spatial):
    """torchvision's and timm's names."""
    y = theirs.norm(theirs.conv(x, f"{at}.conv1", planes), f"{at}.bn1").relu()
    y = theirs.norm(spatial(y, f"{at}.conv2", stride), f"{at}.bn2").relu()
    y = theirs.norm(theirs.conv(y, f"{at}.conv3", 4 * planes), f"{at}.bn3")
    if x.shape != y.shape:
        x = theirs.norm(theirs.conv(x, f"{at}.downsample.0", 4 * planes, stride=stride), f"{at}.downsample.1")
    return (x + y).relu()


def resnet(theirs, x, block, width=8):
    """A stem and a block per stage."""
    x = max_pool(theirs.norm(theirs.conv(x, "conv1", width, 7, stride=2, padding=3), "bn1").relu())
    for stage in range(4):
        x = block(theirs, x, f"layer{stage + 1}.0", width * 2**stage, 1 if stage == 0 else 2)
    return theirs.linear(x.mean((2, 3)), "fc", 5)


SMALL = {"width": 8, "layers": (1, 1, 1, 1), "num_classes": 5}


def mmdet_block(theirs, x, at, planes, stride):
    def spatial(y, name, step):
        if at.startswith("layer1"):
            return theirs.conv(y, name, planes, 3, stride=step, padding=1)
        return one_predictor(
            theirs, y, f"{name}.conv_offset", f"{name}.", bias=False, out=planes, stride=step, padding=1
        )

    return bottleneck(theirs, x, at, planes, stride, spatial)


def test_mmdetection():
    x, theirs = draw(1, 3, 34, 33), Theirs()
    expected = resnet(theirs, x, mmdet_block)
    report = assert_loads(create_model("resnet50_dcnv2", **SMALL), {"state_dict": theirs, "meta": {}}, x, expected)
    assert report.recognised == {"mmcv": 3}


def detectron2_block(theirs, x, at, planes, stride, modulated):
    def spatial(y, name, step):
        if at.startswith("res2"):
            return theirs.conv(y, name, planes, 3, stride=step, padding=1)
        options = {"bias": False, "out": planes, "modulated": modulated, "stride": step, "padding": 1}
        return one_predictor(theirs, y, f"{name}_offset", f"{name}.", **options)

    def norm(y, name):
        return theirs.norm(y, f"{name}.norm", tracked=False)

    y = norm(theirs.conv(x, f"{at}.conv1", planes, stride=stride), f"{at}.conv1").relu()
    y = norm(spatial(y, f"{at}.conv2", 1), f"{at}.conv2").relu()
    y = norm(theirs.conv(y, f"{at}.conv3", 4 * planes), f"{at}.conv3")
    if x.shape != y.shape:
        x = norm(theirs.conv(x, f"{at}.shortcut", 4 * planes, stride=stride), f"{at}.shortcut")
    return (x + y).relu()


@pytest.mark.parametrize("modulated", [True, False])
def test_detectron2(modulated):
    """Its frozen BatchNorms count no batches, and its strides are in the 1x1 convolutions."""
    at, x, theirs = "backbone.bottom_up", draw(1, 3, 34, 33), Theirs()
    stem = f"{at}.stem.conv1"
    y = theirs.norm(theirs.conv(x, stem, 8, 7, stride=2, padding=3), f"{stem}.norm", tracked=False).relu()
    y, maps = max_pool(y), []
    for stage in range(4):
        name, planes, stride = f"{at}.res{stage + 2}.0", 8 * 2**stage, 1 if stage == 0 else 2
        # The block asks for names from "res…" on; they are written with the path in front.
        part = Theirs()
        y = detectron2_block(part, y, name.removeprefix(f"{at}."), planes, stride, modulated)
        theirs.update({f"{at}.{key}": value for key, value in part.items()})
        maps.append(y)
    theirs["backbone.fpn_lateral2.weight"] = draw(4, 32, 1, 1)
    network = create_model("resnet50_dcnv2", features_only=True, style="caffe", modulated=modulated, **SMALL)
    with pytest.raises(DynError, match=r"fix: prefix='backbone\.bottom_up'"):
        load_checkpoint(network, {"model": theirs})
    network = network.double().eval()
    report = load_checkpoint(network, {"model": theirs}, prefix=at)
    for mine, expected in zip(network(x), maps, strict=True):
        assert_same(mine, expected)
    assert report.recognised == {"detectron2 ResNet": 1, "detectron2": 3}
    assert report.outside == 1


@pytest.mark.parametrize("combine", ["mul", "add"])
def test_ddfnet(combine):
    def block(theirs, x, at, planes, stride):
        def spatial(y, name, step):
            return ddf_pack(theirs, y, f"{name}.", stride=step, middle=int(planes * 0.2), combine=combine)

        return bottleneck(theirs, x, at, planes, stride, spatial)

    x, theirs = draw(2, 3, 64, 32), Theirs()
    expected = resnet(theirs, x, block)
    report = assert_loads(create_model("ddf_resnet50", combine=combine, **SMALL), theirs, x, expected)
    assert report.recognised == {"ddfnet": 4}


def scnet_block(theirs, x, at, planes, stride, average=False):
    half = planes // 2
    step = 1 if average and stride > 1 else stride
    a, b = (theirs.norm(theirs.conv(x, f"{at}.conv1_{i}", half), f"{at}.bn1_{i}").relu() for i in "ab")
    a = theirs.norm(theirs.conv(a, f"{at}.k1.0", half, 3, stride=step, padding=1), f"{at}.k1.1")
    b = calibrated(theirs, b, f"{at}.scconv.", step)
    y = torch.cat([a, b], 1).relu()
    if average and stride > 1:
        y = F.avg_pool2d(y, 3, stride, 1)
    y = theirs.norm(theirs.conv(y, f"{at}.conv3", 4 * planes), f"{at}.bn3")
    if x.shape != y.shape:
        if average:
            x = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
        at, step = f"{at}.downsample", 1 if average else stride
        x = theirs.norm(theirs.conv(x, f"{at}.{int(average)}", 4 * planes, stride=step), f"{at}.{int(average) + 1}")
    return (x + y).relu()


def test_scnet():
    x, theirs = draw(1, 3, 100, 97), Theirs()
    expected = resnet(theirs, x, scnet_block)
    assert assert_loads(create_model("scnet50", **SMALL), theirs, x, expected).recognised == {"own names": 4}


def test_scnet_v1d():
    x, theirs = draw(1, 3, 100, 97), Theirs()
    y = x
    for i, (out, stride) in enumerate(((4, 2), (4, 1), (8, 1))):
        y = theirs.conv(y, f"conv1.{3 * i}", out, 3, stride=stride, padding=1)
        y = theirs.norm(y, f"conv1.{3 * i + 1}" if i < 2 else "bn1").relu()
    y = max_pool(y)
    for stage in range(4):
        y = scnet_block(theirs, y, f"layer{stage + 1}.0", 8 * 2**stage, 1 if stage == 0 else 2, average=True)
    expected = theirs.linear(y.mean((2, 3)), "fc", 5)
    assert_loads(create_model("scnet50_v1d", stem_width=4, **SMALL), theirs, x, expected)


def test_resnet_of_hellozhuo():
    """Saved from DataParallel, beside an optimizer."""

    def block(theirs, x, at, planes, stride):
        inactive = x.shape[1] // 2
        options = {"divisor": 4, "padding": 1}
        y = gated(theirs, x, f"{at}.conv1.", planes, 3, inactive=inactive, stride=stride, **options)
        y = theirs.norm(y, f"{at}.bn1").relu()
        y = theirs.norm(gated(theirs, y, f"{at}.conv2.", planes, 3, inactive=planes // 2, **options), f"{at}.bn2")
        if x.shape != y.shape:
            x = gated(theirs, x, f"{at}.downsample.0.", planes, 1, divisor=4, inactive=inactive, stride=stride)
            x = theirs.norm(x, f"{at}.downsample.1.norm")
        return (x + y).relu()

    x, theirs = draw(2, 3, 64, 64), Theirs()
    expected = resnet(theirs, x, block)
    saved = {"state_dict": {f"module.{k}": v for k, v in theirs.items()}, "optimizer": {"state": {0: draw(1)}}}
    network = create_model("dgc_resnet18", squeeze=8, **SMALL)
    report = assert_loads(network, {"epoch": 3, **saved}, x, expected)
    assert report.recognised == {"hellozhuo ResNet": 1, "hellozhuo": 11}
    assert report.stripped == "module."
    assert network.layer3[0].conv2.inactive == 16


@pytest.mark.parametrize("imagenet", [False, True])
def test_densenet_of_hellozhuo(imagenet):
    stages, growth = (2, 1, 2), (8, 8, 16)
    x, theirs = draw(2, 3, 32, 32), Theirs()
    y = theirs.conv(x, "features.init_conv", 16, 3, stride=2 if imagenet else 1, padding=1)
    for block, (depth, added) in enumerate(zip(stages, growth), start=1):
        y = y if block == 1 else F.avg_pool2d(y, 2)
        for layer in range(1, depth + 1):
            at = f"features.denseblock_{block}.denselayer_{layer}"
            new = gated(theirs, y, f"{at}.conv_1.", 4 * added, 1, inactive=y.shape[1] // 2)
            new = theirs.norm(new, f"{at}.conv_2.norm").relu()
            y = torch.cat([y, theirs.conv(new, f"{at}.conv_2.conv", added, 3, padding=1, groups=4)], 1)
    expected = theirs.linear(theirs.norm(y, "bn_last").relu().mean((2, 3)), "classifier", 10)
    network = create_model("dgc_densenet86", stages=stages, growth=growth, stem_stride=2 if imagenet else 1)
    assert assert_loads(network, theirs, x, expected).recognised == {"hellozhuo": 5}


def shuffle_block(theirs, x, at, out, stride):
    if stride == 2:
        left, right, c = x, x, x.shape[1]
        left = theirs.conv(left, f"{at}.conva_left.conv", c, 3, stride=2, padding=1, groups=c)
        left = theirs.norm(left, f"{at}.conva_left.bn")
        left = theirs.norm(theirs.conv(left, f"{at}.convb_left.conv", c), f"{at}.convb_left.bn").relu()
    else:
        left, right = x[:, ::2], x[:, 1::2]
    passing, half = right.shape[1], out // 2
    guide = theirs.conv(right, f"{at}.masknet", 8)
    y = mixed(theirs, right, f"{at}.conva_right.conv.", half, 1, guide, bias=False)
    y = theirs.norm(y, f"{at}.conva_right.bn").relu()
    y = theirs.conv(y, f"{at}.convb_right.conv", half, 3, stride=stride, padding=1, groups=half)
    y = theirs.norm(y, f"{at}.convb_right.bn")
    guide = F.interpolate(guide, y.shape[2:])
    y = mixed(theirs, y, f"{at}.convc_right.conv.", out - passing, 1, guide, bias=False)
    return torch.cat([left, theirs.norm(y, f"{at}.convc_right.bn").relu()], 1)


def test_shufflenet_of_megvii():
    channels, layers = (8, 16, 24, 32, 40), (2, 1, 2)
    x, theirs = draw(2, 3, 64, 32), Theirs()
    y = theirs.conv(x, "conv_first.conv", 8, 3, bias=True, stride=2, padding=1)
    y = max_pool(theirs.norm(y, "conv_first.bn").relu())
    for stage, (out, depth) in enumerate(zip(channels[1:], layers), start=1):
        for block in range(1, depth + 1):
            y = shuffle_block(theirs, y, f"stage{stage}_block{block}", out, 2 if block == 1 else 1)
    y = theirs.norm(theirs.conv(y, "conv_last.conv", 40, bias=True), "conv_last.bn").relu()
    expected = theirs.linear(y.mean((2, 3)), "classifier", 5)
    options = {"channels": channels, "layers": layers, "num_classes": 5}
    report = assert_loads(create_model("drconv_shufflenetv2_x1_0", **options), theirs, x, expected)
    assert report.recognised == {"megvii ShuffleNetV2": 1, "megvii": 10}
    with pytest.raises(DynError, match=r"fix: ignore=\('classifier\.\*', 'conv_last\.\*',\)"):
        load_checkpoint(create_model("drconv_shufflenetv2_x1_0", features_only=True, **options), theirs)
