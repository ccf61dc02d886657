"""What the papers and their official code say about their networks: parameters and multiply-accumulates."""

from __future__ import annotations

from dataclasses import dataclass

_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}

PAPER = "the paper"
README = "README of the official code"
COUNTER = "counted by the official code"
CALCULATED = "calculated from the official code"
DESCRIBED = "calculated from the paper's description; it gives no figure for this network"
NOWHERE = "neither the paper nor its code gives a figure for this network"


@dataclass(frozen=True)
class Published:
    """The figures of one network, as they are written where they come from.

    Attributes:
        parameters: "16.8 M" or "16,843,748"; None where there is no figure.
        macs: multiply-accumulates at `input_shapes`, likewise.
        source: where they come from.
        note: why ours differ.
        input_shapes: of every input, for one image.
        elementwise: `macs` counts operations on single elements, too; ours are compared with those added.
    """

    parameters: str | None = None
    macs: str | None = None
    source: str = ""
    note: str = ""
    input_shapes: tuple[tuple[int, ...], ...] = ((1, 3, 224, 224),)
    elementwise: bool = False


def value_of(figure: str) -> float:
    """The number that a figure stands for.

    Example:
        >>> value_of("16.8 M"), value_of("1,000")
        (16800000.0, 1000.0)
    """
    digits, _, unit = figure.replace(",", "").partition(" ")
    return float(digits) * _UNITS.get(unit, 1)


_DDF = (
    "The paper's figure has more than multiply-accumulates in it. Activations, pooling, biases and the products that "
    "combine the two filters, which ours lists as elementwise, are most of the difference."
)
_DRCONV_46M = (
    "The paper's 46 M are not reproduced: DRConvs for both 1x1 convolutions of every right branch, as in the official "
    "code, take 50.1 M, and which of them the paper replaces is not known."
)
_SCNET = "The README does not say what it counts beside convolutions and the classifier."
_DGC = (
    "The official counter adds an operation for every element of activations, pooling and biases. It is compared with "
    "ours and those that ours lists as elementwise together: they agree to the last one."
)
_DGC_KEPT = (
    f"{_DGC[:-1]}, but for this: it lets a head keep 28.8 of 64 channels, where its own layer and ours keep 29 "
    "(57.6 and 58, 115.2 and 115, 230.4 and 230 in the later stages)."
)

PUBLISHED = {
    "resnet50_dcnv2": Published("26,428,295", "4.278 G", DESCRIBED),
    "resnet101_dcnv2": Published("46,478,418", "8.198 G", DESCRIBED),
    "ddf_resnet50": Published("16.8 M", "2.298 G", PAPER, _DDF),
    "ddf_resnet101": Published("28.1 M", "4.1 G", PAPER, _DDF),
    "ddf_resnet152": Published("37,462,900", None, CALCULATED),
    "ddf_joint_upsampler": Published(source=NOWHERE, input_shapes=((1, 1, 56, 56), (1, 3, 224, 224))),
    "fpn": Published(source=NOWHERE),
    "drconv_shufflenetv2_x0_5": Published("2,293,792", "46 M", f"parameters {CALCULATED}; MACs: {PAPER}", _DRCONV_46M),
    "drconv_shufflenetv2_x1_0": Published("7,273,976", "193.5 M", CALCULATED),
    "drconv_shufflenetv2_x1_5": Published("14,778,656", "404.8 M", CALCULATED),
    "drconv_shufflenetv2_x2_0": Published("28,835,576", "790.3 M", CALCULATED),
    "drconv_mobilenetv1": Published("26.6 M", "785 M", DESCRIBED),
    "scnet50": Published("25.56 M", "4.0 G", README, _SCNET),
    "scnet101": Published("44.57 M", "7.2 G", README, _SCNET),
    "scnet50_v1d": Published("25.58 M", "4.7 G", README, _SCNET),
    "scnet101_v1d": Published("44,689,192", None, CALCULATED),
    "dgc_resnet18": Published("12,335,144", "890,396,782", COUNTER, _DGC_KEPT, elementwise=True),
    "dgc_densenet86": Published("4,264,810", "71,037,118", COUNTER, _DGC, ((1, 3, 32, 32),), elementwise=True),
    "dgc_condensenet": Published("24,060,664", "549,273,592", COUNTER, _DGC, elementwise=True),
}
