"""count_macs: every layer against numbers worked out by hand, the networks against those published."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.models import create_model
from dyndeploy.models.macs import count_macs
from dyndeploy.nn import DDF, DDFUp, DGConv2d, DRConv2d, ModulatedDeformConv2d, SCConv2d
from dyndeploy.ops._spec import custom_ops
from dyndeploy.ops.dcnv2.op import modulated_deform_conv2d

PIXELS, TAPS = 10 * 12, 9


def counted(module, shape=(1, 8, 10, 12)):
    """(convolution, generator) of a single layer."""
    count = count_macs(module, shape)
    assert [row.name for row in count.rows] == [""]
    (row,) = count.rows
    assert row.type == type(module).__name__
    assert count.total == row.macs + row.generator
    assert count.generator == row.generator
    return row.macs, row.generator


@pytest.mark.parametrize(
    ("module", "macs"),
    [
        (nn.Conv2d(8, 16, 3, padding=1), PIXELS * 8 * 16 * TAPS),
        (nn.Conv2d(8, 16, (3, 1), stride=(2, 3), groups=4), 4 * 4 * 2 * 16 * 3),
        (nn.ConvTranspose2d(8, 16, 2, stride=2), PIXELS * 8 * 16 * 4),
        (nn.Linear(12, 5), 8 * 10 * 12 * 5),
        (SCConv2d(8), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_standard_layers(module, macs):
    if macs is None:  # K2 sees a sixteenth of the pixels, rounded down
        assert count_macs(module, (1, 8, 10, 12)).total == 8 * 8 * TAPS * (2 * PIXELS + 2 * 3)
    else:
        assert counted(module) == (macs, 0)


@pytest.mark.parametrize(
    ("options", "macs", "generator"),
    [
        ({}, 16 * 8 * TAPS, 27 * 8 * TAPS),
        ({"groups": 2}, 16 * 4 * TAPS, 27 * 8 * TAPS),
        ({"offset_groups": 4}, 16 * 8 * TAPS, 4 * 27 * 8 * TAPS),
        ({"modulated": False}, 16 * 8 * TAPS, 18 * 8 * TAPS),  # no masks, no channels for them
    ],
)
def test_deformable_convolution(options, macs, generator):
    layer = ModulatedDeformConv2d(8, 16, 3, padding=1, **options)
    assert counted(layer) == (PIXELS * macs, PIXELS * generator)
    assert count_macs(layer, (1, 8, 10, 12)).elementwise["dynamic"] == 5 * 8 * TAPS * PIXELS


@pytest.mark.parametrize("combine", ["mul", "add"])
def test_ddf(combine):
    layer = DDF(8, stride=2, heads=2, se_ratio=0.5, combine=combine)
    pixels = 5 * 6
    assert counted(layer) == (pixels * 8 * TAPS, pixels * 8 * 2 * TAPS + 8 * 4 + 4 * 8 * TAPS)
    assert count_macs(layer, (1, 8, 10, 12)).elementwise == {
        "activations": 4,
        "pooling": 8 * PIXELS,
        "biases": pixels * 2 * TAPS + 4 + 8 * TAPS,
        "dynamic": pixels * 8 * TAPS,
    }


def test_ddf_up_reads_its_guide_at_either_resolution():
    layer = DDFUp(8, scale=2, se_ratio=0.5, guide_channels=3)
    channel = 4 * (8 * 4 + 4 * 8 * TAPS)
    for size in ((10, 12), (20, 24)):
        count = count_macs(layer, [(1, 8, 10, 12), (1, 3, *size)])
        assert count.total - count.generator == 4 * PIXELS * 8 * TAPS
        assert count.generator == 4 * PIXELS * 3 * TAPS + channel


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("generator", ["mix", "paper"])
def test_drconv_takes_as_much_as_a_plain_convolution(generator, kernel):
    layer = DRConv2d(8, 16, kernel, padding=kernel // 2, regions=4, generator=generator, bases=5)
    taps = kernel * kernel
    filters = {"mix": 8 * 20 + 4 * 5 * 8 * 16 * taps, "paper": (8 * 16 + 4 * 4 * 8 * 16) * taps}[generator]
    assert counted(layer) == (PIXELS * 8 * 16 * taps, PIXELS * 8 * 4 * taps + filters)


def test_dgc_counts_the_channels_that_it_keeps():
    layer = DGConv2d(64, 16, 3, padding=1, heads=2, squeeze=16, keep=0.25)
    saliency = 2 * (64 * 8 + 8 * 64)
    assert counted(layer, (1, 64, 10, 12)) == (PIXELS * 16 * 16 * TAPS, saliency)
    layer.inactive = 0
    assert counted(layer, (1, 64, 10, 12)) == (PIXELS * 64 * 16 * TAPS, saliency)
    layer.inactive = 64
    assert counted(layer, (1, 64, 10, 12)) == (0, saliency)


class Functional(nn.Module):
    """A user's network: functions, a generator outside of the layer it serves, a layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.offsets = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 27, 3, padding=1))
        self.shared = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.conv2d(x, self.weight, padding=1)
        predicted = self.offsets(x)
        first, mask = predicted[:, :18], predicted[:, 18:]
        x = modulated_deform_conv2d(x, torch.cat([first, mask], 1), self.shared.weight.expand(8, 8, 3, 3), padding=1)
        x = self.shared(F.max_pool2d(self.shared(x), 2))
        attention = x.flatten(2) @ x.flatten(2).mT
        return {"logits": self.head(x.mean((2, 3))), "attention": [attention]}


def test_a_network_of_functions():
    count = count_macs(Functional(), (2, 3, 10, 12))
    rows = {}
    for row in count.rows:
        rows.setdefault(row.name, []).append((row.macs, row.generator, row.output_shape))
    convolution, deformable, attention = 2 * PIXELS * 3 * 8 * TAPS, 2 * PIXELS * 8 * 8 * TAPS, 2 * 8 * 8 * PIXELS // 4
    assert rows == {
        "": [(convolution + deformable + attention, 2 * PIXELS * (8 * 8 + 8 * 27 * TAPS), (2, 8, 8))],
        "shared": [(2 * PIXELS * 64, 0, (2, 8, 10, 12)), (2 * PIXELS // 4 * 64, 0, (2, 8, 5, 6))],
        "head": [(2 * 8 * 5, 0, (2, 5))],
    }
    assert count.generator == rows[""][0][1]
    assert count.elementwise["pooling"] == 2 * 8 * PIXELS + 2 * 8 * PIXELS // 4  # maxima and means
    assert count.parameters == 8 * 27 + (72 + 9 * 8 * 27 + 27) + 72 + 45


def test_a_result_that_is_also_returned_is_no_generator():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.guide, self.layer = nn.Conv2d(8, 4, 1), DRConv2d(8, 8, 1, regions=4, guide_conv=False)

        def forward(self, x):
            guide = self.guide(x)
            return self.layer(x, guide), guide.softmax(1)

    rows = {row.name: row for row in count_macs(Both(), (1, 8, 10, 12)).rows}
    assert (rows["guide"].macs, rows["guide"].generator) == (PIXELS * 8 * 4, 0)
    assert rows["layer"].generator > 0


def test_torchvisions_op(torchvision_op):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.predictor, self.weight = nn.Conv2d(8, 18, 3, padding=1), nn.Parameter(torch.randn(6, 8, 3, 3))

        def forward(self, x):
            offset, mask, bias = self.predictor(x), x.new_zeros(1, 1), x.new_zeros(6)
            deform_conv2d = torch.ops.torchvision.deform_conv2d
            return deform_conv2d(x, self.weight, offset, mask, bias, 1, 1, 1, 1, 1, 1, 1, 1, False)

    assert counted(Model()) == (PIXELS * 8 * 6 * TAPS, PIXELS * 8 * 18 * TAPS)


def test_what_hides_behind_one_op_is_counted():
    length, width = 6, 8
    attention = 4 * width * width * length + 2 * width * length * length
    encoder = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True)
    assert count_macs(encoder, (1, length, width)).total == attention + 2 * 16 * width * length
    lstm = nn.LSTM(4, width, batch_first=True)
    assert count_macs(lstm, (3, length, 4)).total == 3 * length * 4 * width * (4 + width)

    class Inference(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 4, 1)

        @torch.inference_mode()
        def forward(self, x):
            return self.conv(x) @ self.conv.weight.new_ones(12)

    assert count_macs(Inference(), (1, 8, 10, 12)).total == PIXELS * 8 * 4 + PIXELS * 4


def test_a_product_with_sizes_is_resizing():
    class Resize(nn.Module):
        def forward(self, x):
            rows = torch.arange(x.shape[2]).eq(2 * torch.arange(x.shape[2] // 2)[:, None]).to(x.dtype)
            return rows @ x

    assert count_macs(Resize(), (1, 8, 10, 12)).rows == ()


class Normed(nn.Sequential):
    """Has everything that could be changed: modes, statistics, buffers, a shared layer, a shared weight."""

    def __init__(self):
        shared, tied = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        tied.weight = shared.weight
        first = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), DGConv2d(8, 8, 1, squeeze=4))
        super().__init__(*first, shared, shared, tied)


def test_the_network_stays_as_it_is():
    model = Normed()
    model[1].eval()
    seen = []
    handle = model[0].register_forward_hook(lambda *_: seen.append("hook"))
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    tensors = [id(t) for t in (*model.parameters(), *model.buffers())]
    fast = torch.backends.mha.get_fastpath_enabled()
    rows = count_macs(model, (1, 3, 8, 8)).rows
    assert [row.macs for row in rows if row.type == "Conv2d"] == [36 * 27 * 8, *[36 * 8 * 8] * 3]
    with pytest.raises(DynError):
        count_macs(model, (1, 4, 8, 8))
    assert [m.training for m in model.modules()] == modes
    assert [id(t) for t in (*model.parameters(), *model.buffers())] == tensors
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert seen  # the model's own hooks run
    handle.remove()
    assert type(model(torch.zeros(1, 3, 8, 8))) is torch.Tensor


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_and_device_are_the_networks(dtype):
    layer = ModulatedDeformConv2d(8, 16, 3)
    total = count_macs(layer, (1, 8, 9, 9)).total
    assert count_macs(layer.to(dtype), (1, 8, 9, 9)).total == total
    assert count_macs(layer.to("meta"), (1, 8, 9, 9)).total == total


def test_it_grows_with_the_batch():
    layer = nn.Conv2d(3, 4, 3)
    assert count_macs(layer, torch.Size((5, 3, 9, 9))).total == 5 * count_macs(layer, [1, 3, 9, 9]).total


def test_text():
    assert (
        str(count_macs(nn.Conv2d(3, 400, 1), (1, 3, 9, 9))) == "97,200 MACs, 0 of them in generators; 1,600 parameters"
    )


class Peeking(nn.Module):
    def forward(self, x):
        return x if x.max() > 0 else -x


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.Conv2d(3, 4, 3), (), r"input_shape=\(\)"),
        (nn.Conv2d(3, 4, 3), [()], r"input_shape=\[\(\)\]"),
        (nn.Conv2d(3, 4, 3), (1, 3, 0, 9), r"input_shape=\(1, 3, 0, 9\)"),
        (nn.Conv2d(3, 4, 3), (1, 3, 9.5, 9), r"9\.5"),
        (nn.Conv2d(3, 4, 3), (1, 3, "H", 9), "'H'"),
        (nn.Conv2d(3, 4, 3), 224, "input_shape=224"),
        (
            nn.Conv2d(3, 4, 3),
            (1, 4, 9, 9),
            r"Conv2d does not run with input of shape \(1, 4, 9, 9\).\n  why: RuntimeError",
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), (3, 9, 9), r"(?s)expected 4D.*with the batch"),
        (DDFUp(8, guide_channels=3), (1, 8, 9, 9), "no guide was given"),
        (Peeking(), (1, 3, 9, 9), "Peeking looks at the values of a tensor"),
    ],
)
def test_errors(model, shape, message):
    with pytest.raises(DynError, match=message):
        count_macs(model, shape)


@pytest.mark.parametrize("spec", custom_ops(), ids=lambda spec: spec.key)
def test_every_dynamic_op_says_what_it_costs(spec):
    assert spec.macs != "0"
    assert 0 < len(spec.generated) < len(spec.inputs)


# --- networks


def network(name, size=224, **options):
    with torch.device("meta"):
        model = create_model(name, **options)
    return model, count_macs(model, (1, 3, size, size))


@pytest.mark.parametrize(
    ("name", "plain", "generator"),
    [("resnet50_dcnv2", 4_089_184_256, 188_987_904), ("resnet101_dcnv2", 7_801_405_440, 396_264_960)],
)
def test_deformable_resnets_are_resnet_and_predictors(name, plain, generator):
    _, count = network(name)
    assert (count.total - count.generator, count.generator) == (plain, generator)
    layers = [row for row in count.rows if row.type == "ModulatedDeformConv2d"]
    assert sum(row.generator for row in layers) == generator
    assert network(name, modulated=False)[1].generator == generator // 27 * 18


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("ddf_resnet50", 2_267),
        ("ddf_resnet101", 4_031),
        ("scnet50", 3_925),
        ("scnet50_v1d", 4_685),
        ("scnet101", 7_169),
        ("drconv_mobilenetv1", 785),
    ],
)
def test_totals(name, millions):
    assert round(network(name)[1].total / 1e6) == millions


@pytest.mark.parametrize("generator", ["mix", "paper"])
@pytest.mark.parametrize(
    ("width", "plain", "total"),
    [("x0_5", 40.5, 50.1), ("x1_0", 145.8, 193.5), ("x1_5", 299.0, 404.8), ("x2_0", 590.8, 790.3)],
)
def test_what_drconv_adds_to_shufflenet_are_generators(width, plain, total, generator):
    model, count = network(f"drconv_shufflenetv2_{width}", generator=generator)
    assert round(count.total / 1e6, 1) == total
    assert round((count.total - count.generator) / 1e6, 1) == plain
    guides = [row for row in count.rows if row.name.endswith(".guide")]
    assert len(guides) == sum(name.endswith(".guide") for name, _ in model.named_modules())
    assert all(row.macs == 0 and row.generator > 0 for row in guides)


@pytest.mark.parametrize(
    ("name", "size", "keep", "official"),
    [
        ("dgc_densenet86", 32, 0.25, 71_037_118),
        ("dgc_densenet86", 32, 0.5, 108_196_030),
        ("dgc_densenet86", 32, 1.0, 182_513_854),
        ("dgc_condensenet", 224, 0.25, 549_273_592),
        ("dgc_condensenet", 224, 1.0, 1_299_505_144),
        ("dgc_resnet18", 224, 1.0, 1_822_947_848),
        ("dgc_resnet18", 224, 0.45, 890_396_782.4),
    ],
)
def test_dgc_differs_from_the_official_counter_by_elements_and_rounding(name, size, keep, official):
    """The official counter adds activations, pooling and biases, and keeps a fraction of a channel."""
    model, count = network(name, size, keep=keep)
    rounding = 0.0
    for row in count.rows:
        if row.type == "DGConv2d":
            layer = model.get_submodule(row.name)
            kept = layer.in_channels - layer.inactive
            rounding += row.macs * (1 - keep * layer.in_channels / kept)
    assert count.total + sum(count.elementwise.values()) - rounding == pytest.approx(official, rel=1e-12)
    if name != "dgc_resnet18":
        assert rounding == 0


def test_the_picture_makes_filters_only_in_joint_upsampling():
    with torch.device("meta"):
        model = create_model("ddf_joint_upsampler")
    count = count_macs(model, [(1, 1, 14, 14), (1, 3, 56, 56)])
    picture = [row for row in count.rows if row.name.startswith("guide_branch")]
    assert len(picture) == 3
    assert all(row.macs == 0 and row.generator > 0 for row in picture)
