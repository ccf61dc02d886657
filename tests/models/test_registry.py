"""Networks by name: what is wrong with a name, an option, its type or an input is said before any work is done."""

import pytest
import torch

from dyndeploy.errors import DynError
from dyndeploy.models import create_model, list_models

SMALL = {"width": 16, "layers": (1, 1, 1, 1)}


def test_names_in_upper_or_lower_case():
    assert list_models("SCNet50*") == ["scnet50", "scnet50_v1d"]
    with torch.device("meta"):
        assert type(create_model("FPN")).__name__ == "PyramidNetwork"


@pytest.mark.parametrize("name", [None, 3, "scnet5O"])
def test_an_unknown_name(name):
    with pytest.raises(DynError, match=r"There is no model(.|\n)*scnet50"):
        create_model(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet50_dcnv2", {"num_classes": "10"}, "num_classes='10' is not allowed"),
        ("resnet101_dcnv2", {"width": 8.0}, "width=8.0 is not allowed"),
        ("resnet50_dcnv2", {"stages": 3}, "stages=3 is not allowed"),
        ("resnet50_dcnv2", {"modulated": "no"}, "modulated='no' is not allowed"),
        ("resnet50_dcnv2", {"mask_scale": float("nan")}, "mask_scale=nan"),
        ("ddf_resnet50", {"combine": "sub"}, "combine='sub' is not allowed"),
        ("scnet50", {"stem_width": -1}, "stem_width=-1"),
        ("scnet50", {"widht": 16}, "no option 'widht'(.|\n)*width\\?"),
        ("dgc_resnet18", {"keep": "a"}, "keep='a' is not allowed"),
    ],
)
def test_a_wrong_option(name, options, message):
    with pytest.raises(DynError, match=message):
        create_model(name, **options)


def test_an_image_of_other_channels():
    with pytest.raises(DynError, match=r"\[1, 4, 128, 128\], expected \[N, 3, H, W\]"):
        create_model("scnet50", **SMALL)(torch.zeros(1, 4, 128, 128))


@pytest.mark.parametrize(
    ("output_stride", "size", "runs"),
    [(32, 61, True), (32, 64, True), (32, 60, False), (32, 65, False), (8, 40, True), (8, 61, True), (8, 33, False)],
)
def test_ddf_takes_the_sizes_that_the_official_filter_takes(output_stride, size, runs):
    """No odd map with a stride of 2; the stem rounds up."""
    network = create_model("ddf_resnet50", output_stride=output_stride, **SMALL).eval()
    if runs:
        assert network(torch.zeros(1, 3, size, 64)).shape == (1, 1000)
    else:
        with pytest.raises(DynError, match=rf"{size}x64 are not multiples of {output_stride}"):
            network(torch.zeros(1, 3, size, 64))


def test_channels_last_is_kept_by_every_parameter():
    network = create_model("drconv_shufflenetv2_x0_5", channels=(8, 16, 32, 64, 32), layers=(1, 1, 1)).eval()
    x = torch.randn(2, 3, 64, 64)
    expected = network(x)
    y = network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
