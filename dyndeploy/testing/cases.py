"""Attributes and inputs that an implementation of an operator is tried with: a plugin, a body, a kernel, a runtime.

No height can be taken for a width in them, and no group for a head. Shapes come from the OpSpec. Neither torch nor onnx
is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from dyndeploy.ops._spec import AttributeValue, DTypeName, OpSpec

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """One way to use an operator, from which inputs of any size and dtype are drawn.

    Attributes:
        spec: the operator.
        name: what is special about it.
        attributes: ONNX name -> value, all of them.
        sizes: "N", "C", "O" (output channels), "H", "W", "kh", "kw" and, of mixed filters, "bases" -> size, where
            `draw` is not told otherwise.

    Example:
        >>> from dyndeploy.ops._spec import spec_of
        >>> case = Case.of(spec_of("drconv"), kernel=(3, 2), strides=(2, 1), regions=4)
        >>> case.shapes(N=1, H=9)
        [(1, 4, 9, 6), (1, 32, 24), (1, 4, 4, 5), (8,)]
        >>> case.draw(seed=1, dtype="float16", N=1)["guide"].dtype.name
        'float16'
    """

    spec: OpSpec
    name: str
    attributes: Mapping[str, AttributeValue]
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, spec: OpSpec, name: str = "", *, kernel: tuple[int, int] = (3, 3), **values: Any) -> Case:
        """A case of attributes and sizes under their names; what is left out takes the spec's default.

        Args:
            spec: the operator.
            name: what is special about it.
            kernel: (kh, kw), also where the operator reads them from the shape of its weight.
            **values: attributes by their ONNX names (`strides=(2, 1)`) and sizes (`C=8`).
        """
        known = {a.name for a in spec.attributes}
        attributes: dict[str, Any] = {**spec.defaults(), **{k: v for k, v in values.items() if k in known}}
        if "kernel_shape" in known:
            attributes["kernel_shape"] = kernel
        sizes = {"N": 2, "C": 4, "O": 8, "H": 7, "W": 6, "kh": kernel[0], "kw": kernel[1]}
        if spec.variant == "mix":
            sizes["bases"] = 3
        return cls(spec, name, attributes, sizes | {k: v for k, v in values.items() if k not in known})

    def __str__(self) -> str:
        return self.name

    def shapes(self, **sizes: int) -> list[tuple[int, ...]]:
        """One shape per input; `sizes` replace the case's own.

        Raises:
            DynError: they do not fit the attributes.
        """
        return self.spec.input_shapes({**self.sizes, **sizes}, self.attributes)

    def draw(self, seed: int = 0, dtype: DTypeName = "float64", *, ties: bool = True, **sizes: int) -> dict[str, Array]:
        """Seeded inputs: name -> array of `dtype`.

        They are standard normal, except for what decides or is read as a position:

        - offsets, in pixels, stay 0.2 away from integers, where bilinear interpolation has kinks; one in four is large
          enough to leave the map, the others mostly stay in it;
        - logits (`guide`) are multiples of 1/2: equal, or clearly apart in every dtype;
        - saliencies are multiples of 1/4 from 0 to 1.75, exact in every dtype, many of them equal and many zero.

        Args:
            seed: of the generator; the numbers of two dtypes differ by their rounding alone.
            dtype: "float64", "float32", "float16" or "bfloat16".
            ties: False keeps apart what is compared, so that the operator has a derivative: logits differ from each
                other, and saliencies from each other, from zero and from every multiple of 1/4.
            **sizes: replace the case's own.
        """
        generator = np.random.default_rng(seed)
        element = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
        drawn: dict[str, Array] = {}
        for tensor, shape in zip(self.spec.inputs, self.shapes(**sizes)):
            draw = _DRAWN.get(tensor.name)
            values = draw(self, generator, shape, ties) if draw else generator.standard_normal(shape)
            drawn[tensor.name] = values.astype(element)
        return drawn

    @property
    def keywords(self) -> dict[str, Any]:
        """The attributes under their torch names, switches as bool."""
        return {
            a.torch_name: bool(self.attributes[a.name]) if a.is_switch else self.attributes[a.name]
            for a in self.spec.attributes
        }

    def run(self, *tensors: Tensor) -> Tensor:
        """The torch op on these tensors with the case's attributes."""
        import dyndeploy.ops.all  # noqa: F401  # registers it
        from dyndeploy.ops._torch import torch_op

        result: Tensor = torch_op(self.spec)(*tensors, *self.keywords.values())
        return result


def cases(spec: OpSpec) -> list[Case]:
    """The named cases of an operator: windows of all kinds, and what its own attributes add to them.

    Every operator has "plain", "padded", "anisotropic" and "relu" (anisotropic as well); one without rows of its
    own has the windows alone.

    Example:
        >>> from dyndeploy.ops._spec import spec_of
        >>> [case.name for case in cases(spec_of("drconv"))][:3]
        ['plain', 'padded', 'anisotropic']
    """
    rows = _WINDOWS | _ROWS.get(spec.key, {})
    rows["relu"] = {**rows["anisotropic"], "relu": 1}
    sizes = _SIZES.get(spec.key, {})
    return [Case.of(spec, name, **{**sizes, **values}) for name, values in rows.items()]


def grid(spec: OpSpec) -> list[Case]:
    """Windows that fit exactly, barely, or with a rest, each with the operator's free ints (groups, heads…) at 1 and 2.

    For shapes, which go wrong at edges: what `cases` have in variety, these have in number.
    """
    free = [a.name for a in spec.attributes if a.type == "int" and not a.is_switch]
    return [
        Case.of(spec, f"{name}, {level}", **{**values, **dict.fromkeys(free, level)}, O=6)
        for name, values in _EDGES.items()
        for level in (1, 2)
    ]


def _offset_mask(case: Case, generator: np.random.Generator, shape: tuple[int, ...], ties: bool) -> Array:
    values = generator.standard_normal(shape)
    offsets = 2 * shape[1] // 3
    spread = generator.choice([1.5, 1.5, 1.5, 8.0], (shape[0], offsets, *shape[2:]))
    fraction, whole = np.modf(values[:, :offsets] * spread)
    values[:, :offsets] = whole + np.copysign(0.2 + 0.6 * np.abs(fraction), fraction)
    return values


def _guide(case: Case, generator: np.random.Generator, shape: tuple[int, ...], ties: bool) -> Array:
    if ties:
        return generator.integers(-3, 4, shape) / 2
    return generator.random(shape).argsort(axis=1) / 2


def _saliency(case: Case, generator: np.random.Generator, shape: tuple[int, ...], ties: bool) -> Array:
    if ties:
        return generator.integers(0, 8, shape) / 4
    heads = case.keywords["heads"]
    ranks = generator.random((shape[0], heads, shape[1] // heads)).argsort(axis=2)
    return (2 * ranks.reshape(shape) + 1) / 8


_Draw = Callable[[Case, np.random.Generator, tuple[int, ...], bool], Array]
_DRAWN: dict[str, _Draw] = {"offset_mask": _offset_mask, "guide": _guide, "saliency": _saliency}

_PADDED = {"pads": (1, 1, 1, 1)}
_ANISOTROPIC = {"kernel": (3, 2), "strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)}
_WIDE = {"kernel": (2, 3), "strides": (1, 3), "pads": (0, 2, 1, 0), "dilations": (2, 1)}
_WINDOWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded": _PADDED,
    "anisotropic": _ANISOTROPIC,
    "stride along the width": _WIDE,
}

#: What differs from the defaults, by operator and name; a window's name replaces the window.
_ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "dcnv2": {
        "anisotropic": {**_ANISOTROPIC, "group": 2, "offset_group": 2, "mask_scale": 2.0},
        "groups": {**_PADDED, "group": 2},
        "offset groups": {**_PADDED, "offset_group": 4},
        "both groups": {**_WIDE, "group": 2, "offset_group": 4},
        "one tap": {"kernel": (1, 1)},
        "no sigmoid": {**_ANISOTROPIC, "sigmoid": 0, "mask_scale": -0.5},
        "no sigmoid, relu": {**_ANISOTROPIC, "sigmoid": 0, "mask_scale": 2.0, "relu": 1},
    },
    "ddf": {
        "padded": {**_PADDED, "spatial_gain": 0.47},
        "anisotropic": {**_ANISOTROPIC, "heads": 2, "scale": 2, "spatial_gain": 0.5},
        "a head per channel": {**_WIDE, "heads": 4},
        "sum of filters": {**_ANISOTROPIC, "heads": 2, "combine": 1, "spatial_gain": -2.0},
        "no FilterNorm": {**_ANISOTROPIC, "filter_norm": 0, "spatial_gain": 0.5},
        "no FilterNorm, sum": {**_ANISOTROPIC, "filter_norm": 0, "combine": 1, "spatial_gain": 0.5},
        "one tap": {"kernel": (1, 1), "filter_norm": 0},
        "three sub-pixels per axis, sum": {"kernel": (2, 1), **_PADDED, "scale": 3, "combine": 1},
    },
    "drconv": {
        "anisotropic": {**_ANISOTROPIC, "regions": 5},
        "stride along the width": {**_WIDE, "regions": 3},
        "one tap": {"kernel": (1, 1)},
        "one region": {"regions": 1, "relu": 1},
        "thirty-two regions": {"kernel": (1, 2), "regions": 32},
    },
    "drconv_mix": {
        "anisotropic": {**_ANISOTROPIC, "regions": 5, "bases": 4},
        "stride along the width": {**_WIDE, "regions": 3},
        "one tap": {"kernel": (1, 1)},
        "one region, one base": {"regions": 1, "bases": 1, "relu": 1},
        "thirty-two regions": {"kernel": (1, 2), "regions": 32, "bases": 2},
    },
    "dgc": {
        "padded": {**_PADDED, "inactive": 6},
        "anisotropic": {**_ANISOTROPIC, "heads": 2, "inactive": 3},
        "stride along the width": {**_WIDE, "heads": 2, "inactive": 5, "shuffle": 0},
        "one head": {"heads": 1, "inactive": 4},
        "as many heads as outputs": {"heads": 8, "inactive": 4},
        "one channel kept at most": {"inactive": 7},
        "everything dropped": {"inactive": 8},
        "nothing dropped": {**_ANISOTROPIC, "heads": 2},
        "no shuffle": {**_ANISOTROPIC, "heads": 2, "inactive": 3, "shuffle": 0},
        "threshold": {**_ANISOTROPIC, "heads": 2, "inactive": -1, "threshold": 0.75},
        "threshold without inactive is not read": {"inactive": 2, "threshold": 100.0},
        "one tap": {"kernel": (1, 1), "heads": 1, "inactive": 6},
    },
}
_SIZES = {"dgc": {"C": 8}}  # as many channels as make dropping some of them interesting

_EDGES: dict[str, dict[str, Any]] = {
    "one step": {"H": 7, "W": 9, "kernel": (3, 2)},
    "rows skipped": {"H": 7, "W": 9, "kernel": (3, 2), "strides": (2, 1)},
    "columns skipped": {"H": 7, "W": 9, "kernel": (3, 2), "strides": (1, 3), "pads": (1, 0, 2, 1)},
    "dilated rows": {"H": 7, "W": 9, "kernel": (3, 2), "pads": (0, 2, 1, 0), "dilations": (2, 1)},
    "all at once": {"H": 7, "W": 9, "kernel": (3, 2), "strides": (3, 2), "pads": (2, 1, 0, 3), "dilations": (1, 4)},
    "one row of taps": {"H": 5, "W": 4, "kernel": (1, 4), "strides": (2, 2), "dilations": (3, 1)},
    "as large as the map": {"H": 3, "W": 5, "kernel": (3, 5), "strides": (2, 3)},
}
