"""Whether entries fit a module once its layouts have converted them; the module is only looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dyndeploy.checkpoints.report import listed
from dyndeploy.errors import DynError
from dyndeploy.models import Backbone
from dyndeploy.models import checkpoint as networks
from dyndeploy.ops._checkpoint import Conversion, Layout
from dyndeploy.ops._spec import SPECS


class Entry(NamedTuple):
    """A tensor, and the entries of the checkpoint that it is or was made of."""

    tensor: Tensor
    sources: tuple[str, ...]


@dataclass
class Fit:
    """Entries under a module's own names, and what is wrong with them.

    Attributes:
        entries: by name.
        recognised: layouts, and how many modules had them.
        dropped, assumed: as in `CheckpointReport`.
        added: parameters that the module lacks and is to be given.
        missing: names that only the module has.
        unexpected: names that only the checkpoint has, as it writes them.
        misshapen: names, and the shapes that the module has.
        unusable: names, and why not.
    """

    entries: dict[str, Entry]
    recognised: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, str] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: dict[str, list[int]] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """One line per kind of problem; none if it fits."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": [
                f"{self._called(name)} {list(self.entries[name].tensor.shape)}, not {shape}"
                for name, shape in self.misshapen.items()
            ],
            "unusable": [f"{self._called(name)} {why}" for name, why in self.unusable.items()],
        }
        return [f"{len(names)} {kind}: {listed(names)}" for kind, names in kinds.items() if names]

    def _called(self, name: str) -> str:
        sources = self.entries[name].sources
        return name if sources == (name,) or not sources else f"{name} (from {listed(sources, most=3)})"


def fit(target: nn.Module, entries: Mapping[str, Entry]) -> Fit:
    """Convert entries for a module, and compare them with its state dict.

    Args:
        target: the module.
        entries: by what follows its path in the checkpoint: ".conv1.weight", or "_offset.weight" for a sibling.

    Raises:
        DynError: a layout is there that does not fit its module.
    """
    state = {f".{name}": value for name, value in target.state_dict().items() if isinstance(value, Tensor)}
    result = Fit(dict(entries))
    for path, module in target.named_modules(remove_duplicate=False):
        _convert(result, f".{path}" if path else "", module, state)
    for name in result.added:
        state[name] = result.entries[name].tensor
    norms = {f".{path}".removesuffix(".") for path, m in target.named_modules() if hasattr(m, "num_batches_tracked")}
    for name, value in state.items():
        if name not in result.entries:
            # Old checkpoints and frozen BatchNorms have none; nothing depends on it in inference.
            if not (name.endswith(".num_batches_tracked") and name.rpartition(".")[0] in norms):
                result.missing.append(name[1:])
        elif is_lazy(value):
            result.unusable[name[1:]] = "is not initialised in the module: run a forward first"
        elif (given := result.entries[name].tensor).shape != value.shape:
            result.misshapen[name[1:]] = list(value.shape)
        elif why := _why_unusable(given, value):
            result.unusable[name[1:]] = why
    for name, entry in result.entries.items():
        if name not in state and name.startswith("."):
            result.unexpected += entry.sources
    result.entries = {name[1:]: entry for name, entry in result.entries.items() if name in state}
    return result


def _convert(result: Fit, path: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Let the layouts of one module convert its entries."""
    known = [layout for kind in type(module).__mro__ for layout in layouts().get(kind, ())]
    if not known:
        return
    names = {
        name[len(path) :]: name
        for name in result.entries
        # A sibling that is another module's own stays where it is.
        if is_under(name, path) and not (name.startswith(f"{path}_") and name in state)
    }
    tensors = {suffix: result.entries[name].tensor for suffix, name in names.items()}
    for layout in known:
        try:
            conversion = layout(module, tensors)
        except DynError as error:
            where = f" {path[1:]}" if path else ""
            raise DynError(f"{type(module).__name__}{where}: {error.what}", why=error.why, fix=error.fix) from None
        if conversion is not None:
            result.recognised[conversion.layout] += 1
            _apply(result, path, names, conversion)
            return
    if not isinstance(module, Backbone) and any(name in state for name in names.values()):
        result.recognised["own names"] += 1


def _apply(result: Fit, path: str, names: Mapping[str, str], conversion: Conversion) -> None:
    made = {
        path + ours: Entry(tensor, tuple(s for key in theirs for s in result.entries[names[key]].sources))
        for ours, (tensor, theirs) in conversion.made.items()
    }
    for key, why in conversion.dropped.items():
        result.dropped.update(dict.fromkeys(result.entries[names[key]].sources, why))
    for key in [*conversion.dropped, *(key for _, theirs in conversion.made.values() for key in theirs)]:
        result.entries.pop(names[key], None)
    for name in made.keys() & result.entries.keys():
        raise DynError(
            f"{listed(made[name].sources)} and {listed(result.entries[name].sources)} are both {name[1:]}.",
            why=f"The checkpoint has the entries of two layouts, {conversion.layout} and another.",
            fix="ignore=, with the names of those that are not meant.",
        )
    result.entries.update(made)
    result.assumed.update({(path + ours)[1:]: why for ours, why in conversion.assumed.items()})
    result.added += [path + ours for ours in conversion.added]


def _why_unusable(given: Tensor, value: Tensor) -> str | None:
    if given.is_meta:
        return "is on the meta device: it has no values"
    if value.is_meta:
        return "is on the meta device in the module: module.to_empty(device='cpu') first"
    if given.layout != torch.strided or given.is_quantized:
        return f"is {'quantized' if given.is_quantized else given.layout}"
    if given.is_complex() and not value.is_complex():
        return f"is {given.dtype}, not {value.dtype}"
    if value.is_floating_point() != given.is_floating_point():
        # An integer that was saved as a float is one; weights that were saved as integers lack their scale.
        whole = not value.is_floating_point() and bool((finite(given) & (given == given.round())).all())
        return None if whole else f"is {given.dtype}, and not {value.dtype}"
    if given.dtype != value.dtype and (lost := finite(given) & ~finite(given.to(value.dtype))).any():
        return f"has values, such as {given[lost][0].item():.3g}, that are infinite in {value.dtype}"
    return None


def finite(tensor: Tensor) -> Tensor:
    """Where values are neither NaN nor infinite; those of 8 bits are widened, as torch has no test for all of them."""
    return (tensor if tensor.itemsize > 1 else tensor.float()).isfinite()


@cache
def layouts() -> dict[type[nn.Module], tuple[Layout, ...]]:
    """Those of all operators and networks, by the class of module."""
    found: dict[type[nn.Module], tuple[Layout, ...]] = {}
    for spec in SPECS:
        found.update(import_module(f"dyndeploy.ops.{spec.folder}.checkpoint").LAYOUTS)
    return {**found, **networks.LAYOUTS}


def places(entries: Mapping[str, object]) -> Iterator[str]:
    """Every path of a module in a checkpoint, the shortest first."""
    paths = {name[:at]: None for name in entries for at, letter in enumerate(name) if letter == "."}
    return iter(sorted(paths, key=lambda path: path.count(".")))


def is_under(name: str, path: str) -> bool:
    """Whether an entry is of the module at a path, "" for all, or of a sibling, as conv2_offset is of conv2."""
    return not path or name.startswith((f"{path}.", f"{path}_"))


def under(entries: Mapping[str, Tensor], prefix: str) -> dict[str, Entry]:
    """Entries of the module at a path, "" for all, and of its siblings, as `fit` wants them."""
    if not prefix:
        return {f".{name}": Entry(tensor, (name,)) for name, tensor in entries.items()}
    return {name[len(prefix) :]: Entry(tensor, (name,)) for name, tensor in entries.items() if is_under(name, prefix)}
