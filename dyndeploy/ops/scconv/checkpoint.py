"""Checkpoints of MCG-NKU/SCNet. Its SCConv has our names; its bottleneck holds the parts of the paper's layer."""

from __future__ import annotations

import re

from dyndeploy.ops._checkpoint import Conversion, Entries
from dyndeploy.ops.scconv.module import SCConv2d


def bottleneck(layer: SCConv2d, entries: Entries) -> Conversion | None:
    """SCBottleneck, for `split=True`: K1 stands beside the SCConv with K2 to K4. Its 1x1 convolutions are left out."""
    if not layer.split or not any(key.startswith(".scconv.") for key in entries):
        return None
    conversion = Conversion("SCNet bottleneck", entries)
    for key in entries:
        if key.startswith(".scconv."):
            conversion.move(key, key.removeprefix(".scconv"))
        elif re.match(r"\.((conv|bn)(1_a|1_b|3)|downsample\.\d+)\.", key):
            conversion.drop(key, "of the bottleneck around the layer")
    return conversion


LAYOUTS = {SCConv2d: (bottleneck,)}
