"""Networks of `list_models()` for tests: weights, inputs and dynamic sizes that leave nothing idle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dyndeploy.models import create_model
from dyndeploy.models.backbone import Backbone
from dyndeploy.models.joint_upsampling import JointUpsampler
from dyndeploy.models.resnet import ResidualBlock
from dyndeploy.tensors import Dim, TensorSpec, seeded_arrays, sizes_at
from dyndeploy.testing.weights import enliven

#: Input name -> shape with names of dims, and dim name -> (min, opt, max, multiple).
Shapes = Mapping[str, list[int | str]]
Sizes = Mapping[str, tuple[int, int, int, int]]
#: Of images, normalised with ImageNet's mean and deviation.
RANGE = (-2.1, 2.6)


def deployment_shapes(network: nn.Module) -> tuple[Shapes, Sizes]:
    """Inputs of one of our networks with dynamic batch, height and width, at the smallest sizes that exercise it all.

    Args:
        network: made by `create_model`.
    """
    if isinstance(network, JointUpsampler):
        scale = network.scale
        low: list[int | str] = ["batch", network.in_channels, "height", "width"]
        fine: list[int | str] = ["batch", network.guide_channels, f"{scale}*height", f"{scale}*width"]
        return {"depth": low, "guide": fine}, {"batch": (1, 2, 3, 1), "height": (6, 8, 10, 1), "width": (6, 8, 12, 1)}
    assert isinstance(network, Backbone), f"{type(network).__name__} is neither a backbone nor a joint upsampler"
    stride, step = network.feature_strides[-1], network.size_multiple
    # Four pixels on the last map are what SCNet's pooling needs; other sizes than multiples where they are allowed.
    odd = 0 if step > 1 else 3
    height = (4 * stride, 5 * stride - odd, 5 * stride, step)
    width = (4 * stride, 4 * stride + odd, 6 * stride, step)
    image: list[int | str] = ["batch", network.in_channels, "height", "width"]
    return {"image": image}, {"batch": (1, 2, 2, 1), "height": height, "width": width}


def lively_model(name: str, **options: Any) -> nn.Module:
    """A network of `list_models()`, untrained, under whose weights no layer is idle (`enliven`); the same every time.

    Args:
        name, options: as for `create_model`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = create_model(name, **options)
        for block in network.modules():
            if isinstance(block, ResidualBlock):  # a weak branch, as in training that starts its last norm at zero
                *_, last = (layer for layer in block.children() if isinstance(layer, nn.BatchNorm2d))
                nn.init.zeros_(last.weight)
        return enliven(network, *example_inputs(*deployment_shapes(network)))


def example_inputs(inputs: Shapes, dims: Sizes) -> tuple[Tensor, ...]:
    """Seeded pictures in `RANGE`, drawn as goldens are, at the usual sizes of what `deployment_shapes` gives."""
    specs = [TensorSpec(name=name, shape=tuple(shape), range=RANGE) for name, shape in inputs.items()]
    sizes = sizes_at({name: Dim.parse(name, dim) for name, dim in dims.items()}, "opt")
    return tuple(torch.from_numpy(array) for array in seeded_arrays(specs, sizes, seed=0).values())
