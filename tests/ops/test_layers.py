"""What every layer refuses, in its own words; what it takes."""

import pytest
import torch

from dyndeploy.errors import DynError
from dyndeploy.nn import DDF, DDFUp, DGConv2d, DRConv2d, ModulatedDeformConv2d, SCConv2d

CONVOLUTIONS = {
    "ModulatedDeformConv2d": ModulatedDeformConv2d,
    "DGConv2d": DGConv2d,
    "DRConv2d": DRConv2d,
    "DRConv2d, paper": lambda *args, **more: DRConv2d(*args, generator="paper", **more),
}
SAME_WIDTH = {"DDF": DDF, "DDFUp": DDFUp, "SCConv2d": SCConv2d}
LAYERS = {name: lambda make=make: make(8, 8, 3) for name, make in CONVOLUTIONS.items()}
LAYERS |= {name: lambda make=make: make(8) for name, make in SAME_WIDTH.items()}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels=0 is not positive"),
        ({"out_channels": -4}, "out_channels=-4 is not positive"),
        ({"kernel_size": 0}, "kernel_size=0 is not positive"),
        ({"kernel_size": (3, 0)}, r"kernel_size=\(3, 0\) is not positive"),
        ({"stride": 0}, "stride=0 is not positive"),
        ({"dilation": (1, 0)}, r"dilation=\(1, 0\) is not positive"),
        ({"padding": -1}, "padding=-1 is negative"),
        ({"padding": [0, -1]}, r"padding=\[0, -1\] is negative"),
    ],
)
def test_arguments_of_a_convolution(name, options, message):
    with pytest.raises(DynError, match=f"^{name.split(',')[0]}: {message}"):
        CONVOLUTIONS[name](**{"in_channels": 8, "out_channels": 8, "kernel_size": 3, **options})


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *((name, argument) for name in SAME_WIDTH for argument in ("channels", "dilation")),
        ("DDF", "stride"),
        ("DDF", "kernel_size"),
        ("DDFUp", "kernel_size"),
    ],
)
def test_arguments_of_a_layer_of_one_width(name, argument):
    with pytest.raises(DynError, match=f"^{name}: {argument}=0 is not positive"):
        SAME_WIDTH[name](**{"channels": 8, argument: 0})


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(2, 4, 9, 9), (8, 9, 9), (9, 9), (1, 2, 8, 9, 9)])
def test_input_of_another_shape(name, shape):
    message = rf"^{name.split(',')[0]}: the input has shape \[{', '.join(map(str, shape))}\], expected \[N, 8, H, W\]"
    with pytest.raises(DynError, match=message):
        LAYERS[name]()(torch.zeros(shape))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_input_smaller_than_the_window(name):
    layer = CONVOLUTIONS[name](8, 8, 3, padding=(0, 1), dilation=(2, 1))
    message = rf"^{name.split(',')[0]}: the dilated kernel \(5\) is larger than the padded input \(4\) along H"
    with pytest.raises(DynError, match=message):
        layer(torch.zeros(1, 8, 4, 1))
    assert layer(torch.zeros(2, 8, 5, 1)).shape == (2, 8, 1, 1)


@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_map(name):
    with pytest.raises(DynError, match=rf"^{name.split(',')[0]}: (?s:.*)(along W|smaller than pooling)"):
        LAYERS[name]()(torch.zeros(1, 8, 9, 0))


@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_batch(name):
    layer = LAYERS[name]().eval()
    assert layer(torch.zeros(0, 8, 9, 9)).shape == (0, *layer(torch.zeros(1, 8, 9, 9)).shape[1:])
