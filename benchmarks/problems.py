"""What the kernels are measured with: seeded inputs of the operators, the right answers, and the work in them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dyndeploy.ops._spec import spec_of
from dyndeploy.testing.cases import Case

Arrays = dict[str, np.ndarray[Any, Any]]

#: Of X, of one image.
CLASSIFICATION = ((1, 128, 28, 28), (1, 256, 14, 14), (1, 512, 7, 7))
DETECTION = ((1, 128, 100, 167), (1, 256, 50, 84), (1, 512, 25, 42))

HEADS = 4  # of DGC
KEEP = 0.25  # of the channels, by every head of DGC
REGIONS = 8  # of DRConv
_PATCHES = 4  # along the longer side of a coherent region map


@dataclass(frozen=True)
class Problem:
    """One call of an operator: 3x3 taps, padding 1, as many output channels as input channels, bias 0.

    Attributes:
        operator: its folder.
        shape: of X, [N, C, H, W].
        stride: along both axes.
        offsets_px: standard deviation of DCNv2's offsets, in pixels.
        coherent: DRConv's regions are patches, as a trained guide makes them; else every pixel is on its own.
        scale: of DDF-Up; 1 is DDF.
        dtype: of all tensors; what is drawn is float32 still.
    """

    operator: str
    shape: tuple[int, int, int, int]
    stride: int = 1
    offsets_px: float = 2.0
    coherent: bool = False
    scale: int = 1
    dtype: str = "float32"

    def __str__(self) -> str:
        text = "x".join(map(str, self.shape)) + (f" s{self.stride}" if self.stride != 1 else "")
        if self.operator == "dcnv2" and self.offsets_px != 2:
            text += f", {self.offsets_px:g} px"
        return text + (", patches" if self.coherent else "")

    @cached_property
    def case(self) -> Case:
        """The operator with these attributes and sizes."""
        n, c, h, w = self.shape
        own = {
            "ddf": {"scale": self.scale},
            "drconv": {"regions": REGIONS},
            "dgc": {"heads": HEADS, "inactive": c - round(KEEP * c)},
        }.get(self.operator, {})
        window = {"strides": (self.stride, self.stride), "pads": (1, 1, 1, 1)}
        return Case.of(spec_of(self.operator), N=n, C=c, O=c, H=h, W=w, **window, **own)

    def draw(self) -> Arrays:
        """The inputs by name, the same in every process."""
        generator = np.random.default_rng(0)
        drawn = {
            tensor.name: generator.standard_normal(shape, dtype=np.float32)
            for tensor, shape in zip(self.case.spec.inputs, self.case.shapes())
        }
        for name in drawn.keys() & {"W", "filters"}:  # outputs of size 1
            drawn[name] /= np.float32(3 * self.shape[1] ** 0.5)
        if "B" in drawn:
            drawn["B"][:] = 0  # some engines have none
        if "offset_mask" in drawn:
            drawn["offset_mask"][:, :18] *= self.offsets_px
        if "saliency" in drawn:
            drawn["saliency"] = np.abs(drawn["saliency"])
        if self.coherent:
            height, width = drawn["guide"].shape[2:]
            side = -(-max(height, width) // _PATCHES)
            coarse = drawn["guide"][:, :, ::side, ::side]
            drawn["guide"] = coarse.repeat(side, 2).repeat(side, 3)[:, :, :height, :width].copy()
        return drawn

    def public_function(self) -> Any:
        """The operator as a user of torch calls it."""
        return getattr(importlib.import_module(f"dyndeploy.ops.{self.operator}.op"), str(self.case.spec.torch_name))

    def public_keywords(self) -> dict[str, Any]:
        """Its attributes by name; it calls `combine` by words, and its default is meant."""
        return {name: value for name, value in self.case.keywords.items() if name != "combine"}

    def plain_weight(self, arrays: dict[str, Any]) -> Any:
        """[C, C, 3, 3] of a plain convolution on the same map; for DDF [C, 1, 3, 3] of a depthwise one."""
        c = self.shape[1]
        if self.operator == "ddf":
            return arrays["channel_filter"][0, : 9 * c].reshape(c, 1, 3, 3)
        return arrays["W"] if "W" in arrays else arrays["filters"][0, :c].reshape(c, c, 3, 3)

    def answer(self, computes: str, arrays: Arrays) -> np.ndarray[Any, Any]:
        """What an engine has to give: of the "operator", a "plain" convolution, a "copy", or a training "step"."""
        import torch

        if computes == "step":
            return flat(self.gradients([torch.from_numpy(a) for a in arrays.values()]))

        array: np.ndarray[Any, Any] = self.solve(computes, {n: torch.from_numpy(a) for n, a in arrays.items()}).numpy()
        return array

    def solve(self, computes: str, tensors: dict[str, Any]) -> Any:
        """`answer` with torch tensors."""
        import torch

        if computes == "copy":
            return tensors["X"]
        if computes == "operator":
            reference = importlib.import_module(f"dyndeploy.ops.{self.operator}.reference")
            return reference.forward(*tensors.values(), **self.case.keywords)
        groups = self.shape[1] if self.operator == "ddf" else 1
        return torch.nn.functional.conv2d(tensors["X"], self.plain_weight(tensors), None, self.stride, 1, 1, groups)

    def gradients(self, tensors: list[Any]) -> tuple[Any, ...]:
        """Those of all inputs, by the reference, for the gradient of Y that `training_step` takes."""
        import torch
        from training import training_step

        from dyndeploy.native import disabled

        with disabled(), torch.inference_mode(False):
            return training_step(lambda *leaves: self.public_function()(*leaves, **self.public_keywords()), tensors)()

    def work(self, computes: str) -> tuple[int, int]:
        """Multiply-accumulates and bytes (of inputs and output, each touched once); not counted of a "step"."""
        case, (n, c, h, w), size = self.case, self.shape, 4 if self.dtype == "float32" else 2
        shapes = [*case.shapes(), case.spec.output_shape(case.shapes(), case.attributes)]
        if computes == "step":
            return 0, 0
        if computes == "copy":
            return 0, 2 * size * n * c * h * w
        if computes == "operator":
            return case.spec.operations(shapes[:-1], case.attributes)[0], size * sum(map(_size, shapes))
        weight = c * (1 if self.operator == "ddf" else c) * 9
        pixels = n * -(-h // self.stride) * -(-w // self.stride)
        return pixels * weight, size * (n * c * h * w + pixels * c + weight)


def flat(gradients: Any) -> np.ndarray[Any, Any]:
    """The numbers of several tensors in one sequence."""
    array: np.ndarray[Any, Any] = np.concatenate([g.detach().contiguous().numpy().ravel() for g in gradients])
    return array


def is_detection(item: Problem | Network) -> bool:
    """Whether the map is as large as in detection."""
    return isinstance(item, Problem) and (1, *item.shape[1:]) in DETECTION


def shape_of(text: str) -> tuple[int, ...]:
    """(1, 256, 14, 14) of "1x256x14x14"."""
    shape = tuple(map(int, text.split("x")))
    if len(shape) != 4:
        raise ValueError(text)
    return shape


@dataclass(frozen=True)
class Network:
    """One image of 224x224 through a network of `list_models()`, exported to a bundle.

    Attributes:
        name: of the network.
        bundle: its folder.
    """

    name: str
    bundle: Path

    def __str__(self) -> str:
        return self.name

    def make(self) -> Any:
        """The network in torch, the same in every process."""
        from dyndeploy.testing.networks import lively_model

        return lively_model(self.name)

    def export(self) -> None:
        """Write the bundle."""
        import torch

        import dyndeploy

        dyndeploy.export(self.make(), {"x": torch.from_numpy(self.draw()["x"])}, self.bundle)

    def draw(self) -> Arrays:
        """A seeded picture, normalised as pictures are."""
        from dyndeploy.testing.networks import RANGE

        return {"x": np.random.default_rng(0).uniform(*RANGE, (1, 3, 224, 224)).astype(np.float32)}

    def answer(self, computes: str, arrays: Arrays) -> np.ndarray[Any, Any]:
        """The network's output by the references."""
        import torch

        from dyndeploy.native import disabled

        with torch.inference_mode(), disabled():
            return self.make()(torch.from_numpy(arrays["x"])).numpy()

    def work(self, computes: str) -> tuple[int, int]:
        """Not counted."""
        return 0, 0


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
