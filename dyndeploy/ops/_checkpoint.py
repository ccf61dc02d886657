"""How a module's entries in a checkpoint of other code become its own.

A layout knows one way of naming and storing them. Those of a layer stand in its operator's checkpoint.py, those of the
networks in models/checkpoint.py; `dyndeploy.load_checkpoint` asks them from the outermost module inwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dyndeploy.errors import DynError

#: What a checkpoint holds for one module. Keys are what follows the module's path, ".weight", and begin with "." or
#: with "_", so that a sibling is seen: for a layer at "conv2", "conv2_offset.weight" is "_offset.weight".
Entries = Mapping[str, Tensor]


class Made(NamedTuple):
    """One of our entries: its value, and the entries that it was made from."""

    tensor: Tensor
    theirs: tuple[str, ...]


class Conversion:
    """What a layout makes of a module's entries. Entries that it does not mention stay as they are.

    Args:
        layout: its name, for the report.
        entries: those of the module.

    Attributes:
        made: ours, by their keys.
        dropped: entries that are not needed, and why.
        assumed: those of ours that the checkpoint does not have, or only in part, and why their value is known.
        added: those of ours that the module lacks and is given.
    """

    def __init__(self, layout: str, entries: Entries) -> None:
        self.layout, self.entries = layout, entries
        self.made: dict[str, Made] = {}
        self.dropped: dict[str, str] = {}
        self.assumed: dict[str, str] = {}
        self.added: list[str] = []

    def move(self, theirs: str, ours: str, convert: Callable[[Tensor], Tensor] | None = None) -> None:
        """One entry becomes one of ours, if it is there."""
        if theirs in self.entries:
            tensor = self.entries[theirs]
            self.made[ours] = Made(tensor if convert is None else convert(tensor), (theirs,))

    def join(self, theirs: Sequence[str], ours: str, convert: Callable[[list[Tensor]], Tensor] = torch.cat) -> None:
        """Several entries become one of ours, if all of them are there.

        Raises:
            DynError: their shapes do not fit together.
        """
        if not all(key in self.entries for key in theirs):
            return
        tensors = [self.entries[key] for key in theirs]
        try:
            self.made[ours] = Made(convert(tensors), tuple(theirs))
        except RuntimeError:
            shapes = ", ".join(f"{key[1:]} {list(tensor.shape)}" for key, tensor in zip(theirs, tensors))
            raise DynError(f"Entries of different shapes belong together: {shapes}.") from None

    def drop(self, theirs: str, why: str) -> None:
        """One entry is not needed."""
        self.dropped[theirs] = why

    def assume(self, ours: str, tensor: Tensor, why: str, theirs: Sequence[str] = ()) -> None:
        """One of ours is not in the checkpoint, or only in part (theirs), and its value is known all the same."""
        if theirs or ours not in self.entries:
            self.made[ours] = Made(tensor, tuple(theirs))
            self.assumed[ours] = why

    def add(self, theirs: str, ours: str) -> None:
        """One entry becomes a parameter that the module lacks; it is given one."""
        self.move(theirs, ours)
        self.added.append(ours)


#: (module, its entries) -> what they become, or None where the layout is not there. A DynError says why a layout that
#: is there does not fit the module.
Layout = Callable[[Any, Entries], Conversion | None]
