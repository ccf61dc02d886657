"""Feature pyramids: the sum over levels, odd sizes, DDF-Up in the place of nearest upsampling, export."""

import pytest
import torch
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.models import create_model
from dyndeploy.models.fpn import FPN
from dyndeploy.nn import DDFUp
from dyndeploy.pipeline.check import check
from dyndeploy.pipeline.export import export

TINY = {"width": 8, "layers": (1, 1, 1, 1)}
SIZES = [(11, 14), (6, 7), (3, 4)]
KINDS = pytest.mark.parametrize(
    "options", [{}, {"guided": True}, {"upsample": "nearest"}], ids=["ddf", "guided ddf", "nearest"]
)


def maps(sizes=SIZES, dtype=torch.float64):
    return [torch.randn(2, 3 * (i + 1), *size, dtype=dtype) for i, size in enumerate(sizes)]


def neck(**options):
    return FPN((3, 6, 9), 4, **options).double()


def conv(layer, x):
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[2] // 2)


def test_nearest_is_the_pyramid_of_the_paper():
    """Written out; doubled pixels, cut off where the finer map is odd."""
    pyramid, inputs = neck(upsample="nearest", extra_levels=2), maps()
    level, expected = None, []
    for lateral, output, x in reversed(list(zip(pyramid.lateral_convs, pyramid.fpn_convs, inputs))):
        doubled = 0 if level is None else level.repeat_interleave(2, 2).repeat_interleave(2, 3)
        level = conv(lateral, x) + (0 if level is None else doubled[:, :, : x.shape[2], : x.shape[3]])
        expected.insert(0, conv(output, level))
    expected.append(expected[-1][:, :, ::2, ::2])
    expected.append(expected[-1][:, :, ::2, ::2])
    levels = pyramid(inputs)
    assert [tuple(p.shape) for p in levels] == [(2, 4, *s) for s in (*SIZES, (2, 2), (1, 1))]
    for actual, wanted in zip(levels, expected):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("guided", [False, True])
def test_ddf_up_takes_the_place_of_nearest(guided):
    pyramid, inputs = neck(guided=guided), maps()
    laterals = [conv(lateral, x) for lateral, x in zip(pyramid.lateral_convs, inputs)]
    for step in (1, 0):
        h, w = laterals[step].shape[2:]
        guide = None
        if guided:
            guide = laterals[step].new_zeros(2, 4, *(2 * size for size in SIZES[step + 1]))
            guide[:, :, :h, :w] = laterals[step]
        laterals[step] = laterals[step] + pyramid.upsamplers[step](laterals[step + 1], guide)[:, :, :h, :w]
    for actual, output, level in zip(pyramid(inputs), pyramid.fpn_convs, laterals):
        torch.testing.assert_close(actual, conv(output, level))


def test_one_upsampler_per_step():
    assert [type(m) for m in neck().upsamplers] == [DDFUp, DDFUp]
    assert len(neck(upsample="nearest").upsamplers) == 0
    names = {name.split(".")[0] for name in neck(upsample="nearest").state_dict()}
    assert names == {"lateral_convs", "fpn_convs"}


def test_parameters_of_the_papers_neck():
    """By hand, for ResNet-50: four 1x1 and four 3x3 convolutions with biases, and three DDF-Ups."""
    with torch.device("meta"):
        plain = FPN((256, 512, 1024, 2048), upsample="nearest")
        dynamic = FPN((256, 512, 1024, 2048))
        up = DDFUp(256)
    laterals, outputs = (256 + 512 + 1024 + 2048) * 256 + 4 * 256, 4 * (256 * 256 * 9 + 256)
    count = sum(p.numel() for p in plain.parameters())
    assert count == laterals + outputs == 3_344_384
    assert sum(p.numel() for p in dynamic.parameters()) == count + 3 * sum(p.numel() for p in up.parameters())


@KINDS
def test_everything_learns(options):
    pyramid = neck(**options)
    for layer in pyramid.upsamplers:
        layer.channel_branch[0].bias.data.fill_(1.0)  # few channels have one hidden channel: keep it alive
    sum(level.square().sum() for level in pyramid(maps())).backward()
    for name, parameter in pyramid.named_parameters():
        assert parameter.grad.any(), name


def test_a_network_of_a_backbone_and_a_neck():
    network = create_model("fpn", backbone_options=TINY, out_channels=4, extra_levels=1)
    assert network.feature_channels == (4,) * 5
    assert network.feature_strides == (4, 8, 16, 32, 64)
    levels = network(torch.randn(2, 3, 64, 96))
    assert [tuple(p.shape) for p in levels] == [
        (2, 4, -(-64 // stride), -(-96 // stride)) for stride in network.feature_strides
    ]
    expected = network.neck(network.eval().backbone(torch.ones(1, 3, 32, 32)))
    for actual, wanted in zip(network(torch.ones(1, 3, 32, 32)), expected):
        torch.testing.assert_close(actual, wanted)


def test_the_default_backbone_is_the_papers():
    with torch.device("meta"):
        network = create_model("fpn")
        backbone = create_model("ddf_resnet50", features_only=True)
    assert {k: v.shape for k, v in network.backbone.state_dict().items()} == {
        k: v.shape for k, v in backbone.state_dict().items()
    }
    assert network.feature_channels == (256,) * 4


def learned(model):
    """With weights that make every layer do something."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


class Pyramid(torch.nn.Module):
    """Two maps of strided convolutions, and a neck."""

    def __init__(self, **options):
        super().__init__()
        self.stages = torch.nn.ModuleList(torch.nn.Conv2d(c, c + 3, 3, 2, 1) for c in (3, 6))
        self.neck = FPN((6, 9), 4, extra_levels=1, **options)

    def forward(self, image):
        maps = [image]
        for stage in self.stages:
            maps.append(stage(maps[-1]).relu())
        return self.neck(maps[1:])


@KINDS
def test_a_bundle_of_odd_sizes_passes_its_check(options, tmp_path):
    """Sizes are symbols, twice the half of one is not always itself, and the coarsest map may be one pixel."""
    bundle = export(
        learned(Pyramid(**options)),
        torch.rand(1, 3, 16, 16),
        tmp_path / "pyramid",
        inputs={"image": ["batch", 3, "height", "width"]},
        dims={"batch": (1, 2, 3), "height": (1, 21, 34), "width": (1, 32, 47)},
        ranges={"image": (-1.0, 1.0)},
    )
    assert [op.folder for op in bundle.manifest.ops] == ["ddf"] * len(Pyramid(**options).neck.upsamplers)
    assert check(bundle, runtimes=["torch", "onnxruntime"]).ok


def forward(*shapes):
    return lambda: FPN((3, 6), 4)([torch.zeros(shape) for shape in shapes])


def made(**options):
    return lambda: create_model("fpn", **{"backbone_options": TINY, **options})


BAD = {
    "no maps": (lambda: FPN(()), "there are no maps.*feature_channels"),
    "no channels": (lambda: FPN((3, 0)), "in_channels=0 is not positive"),
    "out_channels": (lambda: FPN((3,), 0), "out_channels=0 is not positive"),
    "upsample": (lambda: FPN((3,), upsample="carafe"), 'upsample=\'carafe\'.*"ddf" or "nearest"'),
    "guide": (lambda: FPN((3,), upsample="nearest", guided=True), "guided=True, and nearest"),
    "levels": (lambda: FPN((3,), extra_levels=-1), "extra_levels=-1 is negative"),
    "maps": (forward((1, 3, 4, 4)), "1 maps for 2 levels"),
    "channels": (forward((1, 3, 4, 4), (1, 5, 2, 2)), r"map 1 has shape \[1, 5, 2, 2\], expected \[N, 6, H, W\]"),
    "sizes": (forward((1, 3, 6, 4), (1, 6, 2, 2)), "map 0 is 6x4 and map 1 2x2.*rounded up"),
    "equal sizes": (forward((1, 3, 4, 4), (1, 6, 4, 4)), "map 0 is 4x4 and map 1 4x4"),
    "backbone": (made(backbone="ddf_resnet5"), "no model 'ddf_resnet5'.*ddf_resnet50"),
    "backbone option": (made(backbone_options={"widht": 8}), "no option 'widht'.*width"),
    "no backbone": (made(backbone="ddf_joint_upsampler", backbone_options={}), "no option 'features_only'"),
    "no features": (made(backbone_options={**TINY, "features_only": False}), "returns no maps.*features_only=True"),
    "dilated": (made(backbone_options={**TINY, "output_stride": 16}), r"strides \(4, 8, 16, 16\).*output_stride=32"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(call, message):
    with pytest.raises(DynError, match=f"(?s)^.*{message}"):
        call()
