"""The layer: its predictor, its start, its parameters."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.ops.dcnv2.module import ModulatedDeformConv2d
from dyndeploy.ops.dcnv2.op import modulated_deform_conv2d

ANISOTROPIC = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}


def randomised(layer, seed=0):
    """The layer with a predictor that has learned something."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.predictor.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return layer


@pytest.fixture
def x():
    return torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("options", "factor"),
    [({}, 0.5), ({"mask_scale": 2.0}, 1.0), ({"modulated": False}, 1.0), ({"offset_groups": 4}, 0.5)],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_starts_as_a_scaled_convolution(x, options, factor, groups):
    torch.manual_seed(0)
    layer = ModulatedDeformConv2d(4, 6, **ANISOTROPIC, groups=groups, **options)
    nn.init.normal_(layer.bias)
    conv = F.conv2d(x, layer.weight * factor, layer.bias, (2, 1), (1, 0), (1, 2), groups)
    torch.testing.assert_close(layer(x), conv)


def test_initialisation():
    torch.manual_seed(0)
    layer = ModulatedDeformConv2d(8, 64, (3, 2), groups=2)
    bound = (8 * 3 * 2) ** -0.5
    assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert abs(layer.weight.mean()) < 0.05 * bound
    for zero in (layer.bias, layer.predictor.weight, layer.predictor.bias):
        assert not zero.any()


@pytest.mark.parametrize(
    ("modulated", "parameters"),
    [(True, 871_263), (False, 580_842)],  # 27 or 18 channels in all thirteen 3x3 convolutions
)
def test_predictors_of_resnet50_have_the_parameters_of_the_paper(modulated, parameters):
    with torch.device("meta"):
        layers = [
            ModulatedDeformConv2d(planes, planes, 3, padding=1, bias=False, modulated=modulated)
            for planes, count in ((128, 4), (256, 6), (512, 3))
            for _ in range(count)
        ]
    assert sum(p.numel() for layer in layers for p in layer.predictor.parameters()) == parameters


@pytest.mark.parametrize("offset_groups", [1, 2])
def test_dcnv1_has_offsets_and_masks_of_one(x, offset_groups):
    layer = randomised(
        ModulatedDeformConv2d(4, 6, **ANISOTROPIC, offset_groups=offset_groups, modulated=False, mask_scale=2.0)
    )
    offset = layer.predictor(x)
    assert offset.shape[1] == 2 * offset_groups * 6
    offset_mask = torch.cat([offset, torch.ones_like(offset[:, ::2])], dim=1)
    expected = modulated_deform_conv2d(
        x,
        offset_mask,
        layer.weight,
        layer.bias,
        stride=(2, 1),
        padding=(1, 0),
        dilation=(1, 2),
        offset_groups=offset_groups,
        sigmoid=False,
    )
    torch.testing.assert_close(layer(x), expected)


def test_mask_scale_can_be_folded_into_the_weight(x):
    layer = randomised(ModulatedDeformConv2d(4, 6, 3, padding=1, mask_scale=2.0))
    folded = ModulatedDeformConv2d(4, 6, 3, padding=1)
    folded.load_state_dict(layer.state_dict())
    folded.weight.data *= 2
    torch.testing.assert_close(folded(x), layer(x))


def test_predictor_has_the_window_of_the_layer(x):
    """A port leaves its dilation out, and gets offsets of another size."""
    layer = ModulatedDeformConv2d(4, 6, 3, stride=2, padding=2, dilation=2)
    assert layer.predictor(x).shape[2:] == layer(x).shape[2:] == (5, 4)


@pytest.mark.parametrize("modulated", [True, False])
def test_everything_learns(x, modulated):
    layer = randomised(ModulatedDeformConv2d(4, 6, 3, padding=1, offset_groups=2, modulated=modulated))
    before = copy.deepcopy(layer.state_dict())
    layer(x).square().mean().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert all(not torch.equal(before[name], value) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("modulated", [True, False])
def test_compiles_and_exports_with_dynamic_dims(x, modulated):
    layer = randomised(ModulatedDeformConv2d(4, 6, **ANISOTROPIC, modulated=modulated)).eval()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
    dims = {
        0: torch.export.Dim("batch"),
        2: torch.export.Dim("height", min=4),
        3: torch.export.Dim("width", min=4),
    }
    module = torch.export.export(layer, (x,), dynamic_shapes={"x": dims}).module()
    for shape in ((1, 4, 4, 4), (3, 4, 12, 7)):
        other = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(module(other), layer(other))


@pytest.mark.parametrize("modulated", [True, False])
def test_autocast(x, modulated):
    layer = randomised(ModulatedDeformConv2d(4, 6, 3, modulated=modulated))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert (y.float() - layer(x)).norm() / layer(x).norm() < 0.05


def test_state_dict_survives():
    layer = randomised(ModulatedDeformConv2d(4, 6, 3, bias=False))
    assert sorted(layer.state_dict()) == ["predictor.bias", "predictor.weight", "weight"]
    assert layer.bias is None


def test_repr():
    layer = ModulatedDeformConv2d(4, 6, 3, stride=2, padding=1, offset_groups=2, modulated=False)
    assert repr(layer).splitlines()[1].strip().startswith("4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1)")
    assert "modulated=False" in repr(layer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "in_channels=4 is not divisible by 3 groups"),
        ({"groups": 4}, "out_channels=6 is not divisible by 4 groups"),
        ({"offset_groups": 3}, "in_channels=4 is not divisible by 3 groups"),
        ({"groups": 0}, "in_channels=4 is not divisible by 0 groups"),
        ({"padding": (1, 1, 1, 1)}, r"\(1, 1, 1, 1\) is not one int or two"),
        ({"stride": (1, 2, 3)}, r"\(1, 2, 3\) is not one int or two"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(DynError, match=message):
        ModulatedDeformConv2d(4, 6, 3, **options)
