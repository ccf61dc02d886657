"""The single truth about every operator: names, attributes, shapes, dtypes, tolerances.

The torch op, the ONNX schema, the translation between them, the plugins' field tables and the documentation are derived
from an `OpSpec` or compared with it by tests/test_slices.py. This module imports neither torch nor onnx.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, Literal

from dyndeploy.errors import DynError

DOMAIN = "dyndeploy"
VERSION = 1
#: Attributes of every call node: by them TensorRT's parser finds the plugin, and takes the function body without one.
PLUGIN_ATTRIBUTES = {"plugin_namespace": DOMAIN, "plugin_version": str(VERSION)}

DTypeName = Literal["float64", "float32", "float16", "bfloat16"]
AttributeType = Literal["int", "float", "ints"]
AttributeValue = int | float | Sequence[int]


@dataclass(frozen=True)
class Attribute:
    """One attribute of an operator.

    Attributes:
        name: its name in ONNX and in the plugins.
        type: "int", "float" or "ints".
        default: what the Python functions use when it is not given; None where it has to be given.
            Every ONNX node writes all its attributes, so that no runtime's default matters.
        torch_name: the argument of the torch op that carries it.
        length: number of values of an "ints" attribute.
        low: smallest allowed value (of each element).
        high: largest allowed value.
        doc: one line.
    """

    name: str
    type: AttributeType
    default: AttributeValue | None
    torch_name: str
    length: int = 1
    low: float = -math.inf
    high: float = math.inf
    doc: str = ""

    @property
    def is_switch(self) -> bool:
        """Whether it is a 0/1 switch, a bool in torch."""
        return self.type == "int" and (self.low, self.high) == (0, 1)

    def check(self, op: str, value: object) -> None:
        """Raise DynError when `value` is not a value of this attribute."""
        values: Iterable[object] = value if isinstance(value, Sequence) else (value,)
        values = tuple(values)
        number = (int, float) if self.type == "float" else int
        count = self.length if self.type == "ints" else 1
        if isinstance(value, Sequence) != (self.type == "ints") or len(values) != count:
            expected = f"{count} ints" if self.type == "ints" else f"one {self.type}"
            raise DynError(f"{op}: {self.torch_name}={value!r} is not {expected}.", why=self.doc)
        for element in values:
            if not isinstance(element, number):
                raise DynError(f"{op}: {self.torch_name}={value!r} is not {self.type}.", why=self.doc)
            if not self.low <= element <= self.high:
                raise DynError(
                    f"{op}: {self.torch_name}={value!r} is outside {_range(self.low, self.high)}.", why=self.doc
                )


def _range(low: float, high: float) -> str:
    return f"{low:g}..{high:g}" if high < math.inf else f">= {low:g}"


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name and its shape as expressions of dims, attributes and K, Ho, Wo."""

    name: str
    shape: tuple[str, ...]
    doc: str = ""


@dataclass(frozen=True, eq=False)
class OpSpec:
    """What an operator is, for every part that implements it.

    Attributes:
        folder: the name of its folder in every tree.
        name: ONNX op type in domain "dyndeploy"; None where standard ops suffice (scconv).
        torch_name: name of the custom op in torch.ops.dyndeploy.
        inputs, output: tensors; a shape entry is a symbol, bound by the first input
            that bears it, or an expression of symbols.
        attributes: in the order of the torch op's arguments.
        divisible: pairs (a, b): expression a must be a multiple of expression b.
        at_most: pairs (a, b): expression a must not be larger than expression b.
        kernel: how K = kh*kw is known: from an input's last two dims ("weight:<input>") or from kernel_shape.
        choice: the input in which a discrete choice is hidden (argmax, top-k), if any.
        macs: multiply-accumulates of one call, as an expression of symbols; those that the papers count.
        generation: how many of them make filters.
        extras: its operations beside them, which the papers leave out or count apart: sampling and masks, joining
            or gating filters.
        dtypes: tensor dtypes of the ONNX op (torch has float64 as well).
        tolerance: relative L2 error to float64 that one layer of any implementation stays within, by dtype.
        variant: what tells it from the operator after which the folder is called, "" for that one itself: the end of
            the names of its files and of its functions in the C ABI.
    """

    folder: str
    title: str
    name: str | None = None
    torch_name: str | None = None
    inputs: tuple[Tensor, ...] = ()
    output: Tensor = field(default_factory=lambda: Tensor("Y", ("N", "C", "H", "W")))
    attributes: tuple[Attribute, ...] = ()
    divisible: tuple[tuple[str, str], ...] = ()
    at_most: tuple[tuple[str, str], ...] = ()
    kernel: str | None = None
    choice: str | None = None
    macs: str = "0"
    generation: str = "0"
    extras: str = "0"
    dtypes: tuple[DTypeName, ...] = ("float32", "float16", "bfloat16")
    tolerance: Mapping[DTypeName, float] = field(
        default_factory=lambda: {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
    )
    variant: str = ""

    @property
    def key(self) -> str:
        """Its own name among all: the folder, and the variant."""
        return self.with_variant(self.folder)

    def with_variant(self, name: str) -> str:
        """A name of the folder's operator as this one's: "onnx" -> "onnx_mix", "forward" -> "forward_mix"."""
        return f"{name}_{self.variant}" if self.variant else name

    def module(self, part: str) -> str:
        """The module that has its "op", "onnx" or "reference"."""
        return f"dyndeploy.ops.{self.folder}.{self.with_variant(part)}"

    @property
    def label(self) -> str:
        """The name that errors carry."""
        return self.torch_name or self.key

    @property
    def generated(self) -> tuple[str, ...]:
        """Names of the inputs that a network in front of the op makes from the map: neither X nor plain weights."""
        return tuple(t.name for t in self.inputs if t.name not in ("X", "W", "banks", "B"))

    def attribute(self, name: str) -> Attribute:
        """The attribute with this ONNX name."""
        return next(a for a in self.attributes if a.name == name)

    def defaults(self) -> dict[str, AttributeValue]:
        """ONNX name -> default, of the attributes that have one."""
        return {a.name: a.default for a in self.attributes if a.default is not None}

    def bind(self, shapes: Sequence[Sequence[Any]], attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Check attributes and shapes and return every symbol of the operator with its value.

        Args:
            shapes: one shape per input, of ints (or torch.SymInt).
            attributes: ONNX name -> value, all of them.

        Raises:
            DynError: an attribute is missing, unknown or out of range, or a shape does not fit the others.
        """
        self._check_attributes(attributes)
        if len(shapes) != len(self.inputs):
            raise DynError(f"{self.label} takes {len(self.inputs)} tensors, got {len(shapes)}.")
        for tensor, shape in zip(self.inputs, shapes):
            if len(shape) != len(tensor.shape):
                raise DynError(
                    f"{self.label}: {tensor.name} has {len(shape)} dims {_shape(shape)}, "
                    f"expected [{', '.join(tensor.shape)}].",
                    why=tensor.doc or None,
                )
        symbols: dict[str, Any] = dict(attributes)
        symbols |= zip(self.inputs[0].shape, shapes[0])
        if self.kernel is not None:
            symbols |= self._window(symbols, *self._kernel(symbols, shapes))
        for tensor, shape in zip(self.inputs, shapes):
            for expression, size in zip(tensor.shape, shape):
                if expression.isidentifier():
                    symbols.setdefault(expression, size)
        for multiple, divisor in self.divisible:
            a, b = _evaluate(multiple, symbols), _evaluate(divisor, symbols)
            if a % b != 0:
                raise DynError(f"{self.label}: {multiple} = {a} is not divisible by {divisor} = {b}.")
        for small, large in self.at_most:
            a, b = _evaluate(small, symbols), _evaluate(large, symbols)
            if a > b:
                raise DynError(f"{self.label}: {small} = {a} is larger than {large} = {b}.")
        for tensor, shape in zip(self.inputs, shapes):
            for axis, (expression, size) in enumerate(zip(tensor.shape, shape)):
                expected = _evaluate(expression, symbols)
                if size != expected:
                    raise DynError(
                        f"{self.label}: {tensor.name} has shape {_shape(shape)}, but dim {axis} must be "
                        f"{expression} = {expected}.",
                        why=tensor.doc or None,
                    )
        return symbols

    def output_shape(self, shapes: Sequence[Sequence[Any]], attributes: Mapping[str, Any]) -> tuple[Any, ...]:
        """Shape of the output; checks everything that `bind` checks.

        Example:
            >>> spec_of("drconv").output_shape(
            ...     [(2, 3, 9, 9), (2, 8 * 5, 27), (2, 8, 5, 5), (5,)],
            ...     dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], dilations=[1, 1], regions=8, relu=0),
            ... )
            (2, 5, 5, 5)
        """
        symbols = self.bind(shapes, attributes)
        return tuple(_evaluate(expression, symbols) for expression in self.output.shape)

    def operations(self, shapes: Sequence[Sequence[Any]], attributes: Mapping[str, Any]) -> tuple[int, int, int]:
        """`macs`, `generation` and `extras` of a call with these shapes; checks everything that `bind` checks.

        Example:
            >>> attributes = dict(strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1], heads=2, inactive=3)
            >>> attributes |= dict(threshold=0.0, shuffle=1, relu=0)
            >>> spec_of("dgc").operations([(1, 4, 5, 5), (1, 8), (8, 4, 3, 3), (8,)], attributes)
            (1800, 0, 8)
        """
        symbols = self.bind(shapes, attributes)
        macs, generation, extras = (_evaluate(e, symbols) for e in (self.macs, self.generation, self.extras))
        return macs, generation, extras

    def input_shapes(self, sizes: Mapping[str, int], attributes: Mapping[str, Any]) -> list[tuple[int, ...]]:
        """One shape per input: the inverse of `bind`, which checks them.

        Args:
            sizes: the symbols that no other follows from, as "N", "C", "O", "H", "W", "kh" and "kw".
            attributes: ONNX name -> value, all of them; `kernel_shape` takes the place of "kh" and "kw".

        Raises:
            DynError: the sizes and attributes do not fit each other.

        Example:
            >>> attributes = dict(strides=[2, 2], pads=[1, 1, 1, 1], dilations=[1, 1], heads=4, inactive=0)
            >>> attributes |= dict(threshold=0.0, shuffle=1, relu=0)
            >>> spec_of("dgc").input_shapes(dict(N=2, C=3, O=8, H=9, W=7, kh=3, kw=3), attributes)
            [(2, 3, 9, 7), (2, 12), (8, 3, 3, 3), (8,)]
        """
        self._check_attributes(attributes)
        symbols = {**attributes, **sizes}
        if self.kernel is not None:
            symbols |= self._window(symbols, *symbols.get("kernel_shape", (symbols.get("kh"), symbols.get("kw"))))
        shapes = [tuple(_evaluate(expression, symbols) for expression in tensor.shape) for tensor in self.inputs]
        self.bind(shapes, attributes)
        return shapes

    def _check_attributes(self, attributes: Mapping[str, Any]) -> None:
        known = {a.name for a in self.attributes}
        if set(attributes) != known:
            raise DynError(
                f"{self.label}: attributes {sorted(attributes)} given, {sorted(known)} expected.",
                fix=f"missing: {sorted(known - set(attributes))}, unknown: {sorted(set(attributes) - known)}",
            )
        for attribute in self.attributes:
            attribute.check(self.label, attributes[attribute.name])

    def _kernel(self, symbols: Mapping[str, Any], shapes: Sequence[Sequence[Any]]) -> Sequence[Any]:
        """(kh, kw), where `kernel` says."""
        if self.kernel == "kernel_shape":
            return tuple(symbols["kernel_shape"])
        index = [t.name for t in self.inputs].index(str(self.kernel).removeprefix("weight:"))
        return shapes[index][2:]

    def _window(self, symbols: Mapping[str, Any], kh: Any, kw: Any) -> dict[str, Any]:
        """kh, kw, K and, by the arithmetic of a convolution, Ho, Wo."""
        window = (symbols[name] for name in ("strides", "pads", "dilations"))
        out = output_size(self.label, (symbols["H"], symbols["W"]), (kh, kw), *window)
        return {"kh": kh, "kw": kw, "K": kh * kw, "Ho": out[0], "Wo": out[1]}


def output_size(
    label: str,
    size: Sequence[Any],
    kernel: Sequence[Any],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> tuple[Any, Any]:
    """(H, W) -> (Ho, Wo), by the arithmetic of a convolution; `label` is the name that the error carries.

    Raises:
        DynError: the dilated kernel is larger than the padded input.
    """

    def along(axis: int) -> Any:
        padded, extent = size[axis] + pads[axis] + pads[axis + 2], dilations[axis] * (kernel[axis] - 1) + 1
        if padded < extent:
            raise DynError(
                f"{label}: the dilated kernel ({extent}) is larger than the padded input ({padded}) along {'HW'[axis]}."
            )
        return (padded - extent) // strides[axis] + 1

    return along(0), along(1)


def _shape(shape: Sequence[Any]) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"


@functools.cache
def _compiled(expression: str) -> CodeType:
    return compile(expression, "<OpSpec>", "eval")


def _evaluate(expression: str, symbols: Mapping[str, Any]) -> Any:
    return eval(_compiled(expression), {"__builtins__": {}}, dict(symbols))  # the expressions below, never input


def _window() -> tuple[Attribute, ...]:
    return (
        Attribute("strides", "ints", (1, 1), "stride", 2, low=1, doc="Step of the window (h, w), in pixels."),
        Attribute("pads", "ints", (0, 0, 0, 0), "padding", 4, low=0, doc="Zero padding: top, left, bottom, right."),
        Attribute("dilations", "ints", (1, 1), "dilation", 2, low=1, doc="Distance between taps (h, w), in pixels."),
    )


def _kernel_shape() -> Attribute:
    return Attribute("kernel_shape", "ints", None, "kernel_size", 2, low=1, doc="Extent of the window (h, w) in taps.")


def _switch(name: str, default: int, doc: str) -> Attribute:
    return Attribute(name, "int", default, name, low=0, high=1, doc=doc)


_RELU = _switch("relu", 0, "Apply max(y, 0) to the output.")

SPECS: tuple[OpSpec, ...] = (
    OpSpec(
        folder="dcnv2",
        title="Modulated deformable convolution (DCNv2)",
        name="ModulatedDeformConv2d",
        torch_name="modulated_deform_conv2d",
        inputs=(
            Tensor("X", ("N", "C", "H", "W")),
            Tensor(
                "offset_mask",
                ("N", "3*offset_group*K", "Ho", "Wo"),
                "2*G*K offsets in pixels, (y, x) interleaved per tap and group, then G*K masks.",
            ),
            Tensor("W", ("O", "C//group", "kh", "kw")),
            Tensor("B", ("O",)),
        ),
        output=Tensor("Y", ("N", "O", "Ho", "Wo")),
        attributes=(
            *_window(),
            Attribute("group", "int", 1, "groups", low=1, doc="Groups of the convolution."),
            Attribute(
                "offset_group", "int", 1, "offset_groups", low=1, doc="Channel groups with offsets of their own."
            ),
            _switch("sigmoid", 1, "The mask is mask_scale * sigmoid(m) (1) or mask_scale * m (0)."),
            Attribute("mask_scale", "float", 1.0, "mask_scale", doc="2.0 for checkpoints of the original MXNet code."),
            _RELU,
        ),
        divisible=(("C", "group"), ("O", "group"), ("C", "offset_group")),
        kernel="weight:W",
        macs="N*O*Ho*Wo*(C//group)*K",
        extras="5*N*C*K*Ho*Wo",
    ),
    OpSpec(
        folder="ddf",
        title="Decoupled dynamic filter (DDF, DDF-Up)",
        name="DecoupledDynamicFilter",
        torch_name="decoupled_dynamic_filter",
        inputs=(
            Tensor("X", ("N", "C", "H", "W")),
            Tensor("channel_filter", ("N", "scale*scale*C*K"), "Raw channel filters, [sub-pixel][channel][tap]."),
            Tensor(
                "spatial_filter",
                ("N", "scale*scale*heads*K", "Ho", "Wo"),
                "Raw spatial filters, [sub-pixel][head][tap].",
            ),
            Tensor("channel_gain", ("scale*scale*C*K",), "Learned gain of the channel filters, after FilterNorm."),
        ),
        output=Tensor("Y", ("N", "C", "scale*Ho", "scale*Wo")),
        attributes=(
            _kernel_shape(),
            *_window(),
            Attribute("heads", "int", 1, "heads", low=1, doc="Channel groups with spatial filters of their own."),
            Attribute("scale", "int", 1, "scale", low=1, doc="1 is DDF; s > 1 is DDF-Up, s*s filters per input pixel."),
            _switch("combine", 0, "Filters are multiplied (0) or added (1)."),
            _switch("filter_norm", 1, "Normalise every filter over its K taps (FilterNorm)."),
            Attribute("spatial_gain", "float", 1.0, "spatial_gain", doc="Fixed gain of the spatial filters."),
            _RELU,
        ),
        divisible=(("C", "heads"),),
        kernel="kernel_shape",
        macs="N*C*scale*scale*Ho*Wo*K",
        extras="N*C*scale*scale*Ho*Wo*K",
    ),
    OpSpec(
        folder="drconv",
        title="Dynamic region-aware convolution (DRConv)",
        name="DynamicRegionAwareConv2d",
        torch_name="dynamic_region_aware_conv2d",
        inputs=(
            Tensor("X", ("N", "C", "H", "W")),
            Tensor("filters", ("N", "regions*O", "C*K"), "One filter bank per sample and region, [region][O][C][tap]."),
            Tensor("guide", ("N", "regions", "Ho", "Wo"), "Logits; the filter of a pixel is that of its largest one."),
            Tensor("B", ("O",)),
        ),
        output=Tensor("Y", ("N", "O", "Ho", "Wo")),
        attributes=(
            _kernel_shape(),
            *_window(),
            Attribute("regions", "int", 8, "regions", low=1, high=32, doc="Number of regions m."),
            _RELU,
        ),
        kernel="kernel_shape",
        choice="guide",
        macs="N*O*Ho*Wo*C*K",
    ),
    OpSpec(
        folder="drconv",
        variant="mix",
        title="Dynamic region-aware convolution with mixed filters (DRConv)",
        name="MixedRegionAwareConv2d",
        torch_name="mixed_region_aware_conv2d",
        inputs=(
            Tensor("X", ("N", "C", "H", "W")),
            Tensor("share", ("N", "regions", "bases"), "How much of every bank a region's filters have."),
            Tensor("banks", ("bases*O", "C*K"), "Filter banks that all samples and regions share, [base][O][C][tap]."),
            Tensor("guide", ("N", "regions", "Ho", "Wo"), "Logits; the filter of a pixel is that of its largest one."),
            Tensor("B", ("O",)),
        ),
        output=Tensor("Y", ("N", "O", "Ho", "Wo")),
        attributes=(
            _kernel_shape(),
            *_window(),
            Attribute("regions", "int", 8, "regions", low=1, high=32, doc="Number of regions m."),
            _RELU,
        ),
        kernel="kernel_shape",
        choice="guide",
        macs="N*O*C*K*(Ho*Wo+regions*bases)",
        generation="N*O*C*K*regions*bases",
    ),
    OpSpec(
        folder="dgc",
        title="Dynamic group convolution (DGC)",
        name="DynamicGroupConv2d",
        torch_name="dynamic_group_conv2d",
        inputs=(
            Tensor("X", ("N", "C", "H", "W"), "After BatchNorm and ReLU."),
            Tensor("saliency", ("N", "heads*C"), "After ReLU, [head][channel]."),
            Tensor("W", ("O", "C", "kh", "kw"), "Rows [head][O/heads], each over all C channels."),
            Tensor("B", ("O",), "In the order of the rows of W."),
        ),
        output=Tensor("Y", ("N", "O", "Ho", "Wo")),
        attributes=(
            *_window(),
            Attribute("heads", "int", 4, "heads", low=1, doc="Groups of output channels with a gate of their own."),
            Attribute(
                "inactive", "int", 0, "inactive", low=-1, doc="Channels dropped per head; -1: those <= threshold."
            ),
            Attribute(
                "threshold", "float", 0.0, "threshold", doc="Network-wise threshold (DGC-G), with inactive = -1."
            ),
            _switch("shuffle", 1, "Interleave the heads: output channel = row_in_head * heads + head."),
            _RELU,
        ),
        divisible=(("O", "heads"),),
        at_most=(("inactive", "C"),),
        kernel="weight:W",
        choice="saliency",
        macs="N*O*Ho*Wo*(C-inactive if inactive >= 0 else C)*K",
        extras="N*heads*C",
    ),
    OpSpec(folder="scconv", title="Self-calibrated convolution (SCConv)"),
)


def spec_of(key: str) -> OpSpec:
    """The spec of a key ("dcnv2", "drconv_mix"), an ONNX op type or a torch op name.

    Raises:
        DynError: nothing is called so.
    """
    for spec in SPECS:
        if key in (spec.key, spec.name, spec.torch_name):
            return spec
    raise DynError(f"There is no operator {key!r}.", fix=f"one of {', '.join(s.key for s in SPECS)}")


def custom_ops() -> tuple[OpSpec, ...]:
    """The specs that are custom ops in torch and ONNX."""
    return tuple(s for s in SPECS if s.name)
