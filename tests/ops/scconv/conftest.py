"""Layers with a past, and the reference with their weights."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dyndeploy.ops.scconv import reference
from dyndeploy.ops.scconv.module import SCConv2d


@pytest.fixture(scope="session")
def build() -> Callable[..., SCConv2d]:
    """A function that makes a layer of 8 channels in evaluation mode, whose BatchNorms have seen something."""

    def build_layer(**options: object) -> SCConv2d:
        torch.manual_seed(0)
        layer = SCConv2d(8, **options)
        for norm in layer.modules():
            if isinstance(norm, nn.BatchNorm2d):
                for tensor in (norm.weight, norm.bias, norm.running_mean):
                    nn.init.normal_(tensor)
                nn.init.uniform_(norm.running_var, 0.5, 2.0)
        return layer.eval()

    return build_layer


@pytest.fixture(scope="session")
def truth() -> Callable[[SCConv2d, Tensor], Tensor]:
    """A function that computes what a layer should, by the reference in float64."""

    def conv_norm(sequence: nn.Sequential) -> reference.ConvNorm:
        conv, norm = sequence[-2:]
        return reference.ConvNorm(conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)

    def compute(layer: SCConv2d, x: Tensor) -> Tensor:
        layer = copy.deepcopy(layer).double()
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

    return compute
