"""Checkpoints of theFoxofSky/ddfnet."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from dyndeploy.errors import DynError
from dyndeploy.ops._checkpoint import Conversion, Entries
from dyndeploy.ops.ddf.module import DDF, DDFUp

_NAME = "ddfnet"


def pack(layer: DDF, entries: Entries) -> Conversion | None:
    """DDFPack: branches with a pooling in front, and FilterNorm, which has the gain, behind."""
    if not any(re.match(r"\.(spatial_branch\.0|channel_branch\.[134])\.", key) for key in entries):
        return None
    if any(key.startswith(".channel_branch.0.") for key in entries):
        return None  # ours; their first module is a pooling
    conversion = Conversion(_NAME, entries)
    for kind in ("weight", "bias"):
        conversion.move(f".spatial_branch.0.{kind}", f".spatial_branch.{kind}")
        conversion.move(f".channel_branch.1.{kind}", f".channel_branch.0.{kind}")
        conversion.move(f".channel_branch.3.{kind}", f".channel_branch.2.{kind}")
    conversion.move(".channel_branch.4.std", ".channel_gain")
    return conversion


def up_pack(layer: DDFUp, entries: Entries) -> Conversion | None:
    """DDFUpPack: a list of branches, which are the groups of one convolution here.

    Raises:
        DynError: the branches are of another scale, read a guide or not, have depth-wise convolutions of another size,
            or their shapes differ.
    """
    found = {int(m[1]) for key in entries if (m := re.match(r"\.channel_branch\.(\d+)\.[134]\.", key))}
    if not found:
        return None
    branches = range(layer.scale**2)
    if found != set(branches):
        raise DynError(
            f"The checkpoint has {len(found)} branches, and scale={layer.scale} has {len(branches)}.",
            why="There is one per sub-pixel.",
            fix=f"DDFUp(…, scale={round(len(found) ** 0.5)})" if round(len(found) ** 0.5) ** 2 == len(found) else None,
        )
    guided = ".spatial_branch.0.1.0.weight" not in entries
    if guided != (layer.depthwise is None):
        raise DynError(
            f"The checkpoint's branches {'read a guide' if guided else 'have a depth-wise convolution'}, the layer's "
            f"{'have a depth-wise convolution' if guided else 'read a guide'}.",
            fix=f"DDFUp(…, guide_channels={layer.channels if guided else None})",
        )
    first = entries.get(".spatial_branch.0.0.weight")
    if layer.depthwise is not None and first is not None and first.shape[2:] != layer.depthwise.weight.shape[2:]:
        raise DynError(
            f"The checkpoint's depth-wise convolutions are {list(first.shape[2:])}, the layer's "
            f"{list(layer.depthwise.weight.shape[2:])}.",
            fix=f"DDFUp(…, depthwise_size={first.shape[-1]})",
        )
    conversion = Conversion(_NAME, entries)
    pointwise = "0" if guided else "1.0"
    for kind in ("weight", "bias"):
        conversion.join([f".spatial_branch.{i}.{pointwise}.{kind}" for i in branches], f".spatial_branch.{kind}")
        conversion.join([f".channel_branch.{i}.1.{kind}" for i in branches], f".channel_branch.0.{kind}")
        conversion.join([f".channel_branch.{i}.3.{kind}" for i in branches], f".channel_branch.2.{kind}")
        if not guided:
            conversion.join([f".spatial_branch.{i}.0.{kind}" for i in branches], f".depthwise.{kind}", _by_channel)
    conversion.join([f".channel_branch.{i}.4.std" for i in branches], ".channel_gain")
    return conversion


def _by_channel(branches: list[Tensor]) -> Tensor:
    """The outputs of a depth-wise convolution are those of a channel side by side: [C][branch]."""
    return torch.stack(branches, dim=1).flatten(0, 1)


LAYOUTS = {DDF: (pack,), DDFUp: (up_pack,)}
