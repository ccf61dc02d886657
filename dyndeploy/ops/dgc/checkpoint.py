"""Checkpoints of hellozhuo/dgc."""

from __future__ import annotations

import re

import torch

from dyndeploy.errors import DynError
from dyndeploy.ops._checkpoint import Conversion, Entries
from dyndeploy.ops.dgc.module import DGConv2d


def hellozhuo(layer: DGConv2d, entries: Entries) -> Conversion | None:
    """DynamicMultiHeadConv: a module per head, and the number of inactive channels as a float.

    Raises:
        DynError: there are other heads than the layer has, or it has a threshold instead of the number
            (`network_wise=True`), which the official code does not have.
    """
    found = {int(match[1]) for key in entries if (match := re.match(r"\.headconv_(\d+)\.", key))}
    if not found:
        return None
    if found != set(range(layer.heads)):
        raise DynError(
            f"The checkpoint has {len(found)} heads, the layer {layer.heads}.",
            fix=f"heads={len(found)}" if found == set(range(len(found))) else None,
        )
    if layer.network_wise:
        raise DynError(
            "The checkpoint has a number of inactive channels, the layer a threshold.", fix="network_wise=False"
        )
    heads = [f".headconv_{i}" for i in range(layer.heads)]
    conversion = Conversion("hellozhuo", entries)
    for key in entries:
        if key.startswith(".norm."):
            conversion.move(key, f".bn.{key.removeprefix('.norm.')}")
    conversion.join([f"{head}.conv.weight" for head in heads], ".weight")
    conversion.join([f"{head}.fc1.weight" for head in heads], ".saliency.squeeze.weight")
    conversion.join(
        [f"{head}.fc2.weight" for head in heads],
        ".saliency.expand.weight",
        lambda parts: torch.cat(parts)[..., None, None],
    )
    conversion.join([f"{head}.fc2.bias" for head in heads], ".saliency.expand.bias")
    conversion.move("._inactive_channels", ".inactive_channels", lambda number: number.reshape(number.shape[1:]))
    return conversion


LAYOUTS = {DGConv2d: (hellozhuo,)}
