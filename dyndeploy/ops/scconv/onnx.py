"""SCConv in ONNX: standard ops only, so there is neither a schema nor a function body.

`torch.onnx.export` writes the layer as it stands. The convolutions carry their BatchNorms; the pooled map
grows by two Gathers (nearest) or one Resize (bilinear), whose indices and sizes follow the input's shape at
run time. With `split`, a Split and a Concat are around it.
"""

from __future__ import annotations

from dyndeploy.ops._spec import spec_of

SPEC = spec_of("scconv")

#: What the feature maps go through.
ONNX_OPS = ("AveragePool", "Conv", "Gather", "Resize", "Add", "Sigmoid", "Mul", "Split", "Concat")
#: What computes sizes and indices, int64 vectors as long as a side; a fixed size folds them into constants.
INDEX_OPS = (
    "Shape",
    "Squeeze",
    "Range",
    "Mul",
    "Div",
    "Mod",
    "Sub",
    "Less",
    "Greater",
    "Equal",
    "And",
    "Cast",
    "Reshape",
    "Concat",
)
