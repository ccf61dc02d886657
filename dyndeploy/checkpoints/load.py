"""`load_checkpoint`: read, convert, check, and only then write into the module."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from dyndeploy.checkpoints.advice import advice, place
from dyndeploy.checkpoints.fit import Fit, finite, fit, is_under, places, under
from dyndeploy.checkpoints.read import kind, read
from dyndeploy.checkpoints.report import CheckpointReport, listed
from dyndeploy.errors import DynError, nearest

#: What DataParallel and torch.compile put in front of all names.
_WRAPPERS = ("module.", "_orig_mod.")


def load_checkpoint(
    model_or_module: nn.Module,
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any] | nn.Module,
    *,
    prefix: str = "",
    ignore: Sequence[str] = (),
    entry: str | None = None,
) -> CheckpointReport:
    """Fill a network or a layer from a checkpoint, its own or that of the papers' official code.

    Layouts that are recognised, and converted without a change of a single number:

    - dcnv2: mmcv and mmdetection (`conv_offset`, or a sibling `…_offset`), detectron2 (a sibling, and its names of a
      ResNet's modules), the PyTorch ports and CenterNet (`conv_offset_mask`), separate predictors of offsets and
      masks as people write them around torchvision's op; for DCNv1 build the layer with `modulated=False`;
    - ddf: DDFPack, DDFUpPack and the ResNets of ddfnet;
    - drconv: the layer and the ShuffleNetV2 of megvii-research, the layer of shallowtoil;
    - dgc: the layer and the networks of hellozhuo, with the number of inactive channels;
    - scconv: MCG-NKU's names are ours; its bottleneck fits `SCConv2d(split=True)`.

    What a checkpoint does not hold cannot be seen: whether masks were 2*sigmoid (`mask_scale=2.0`), whether filters
    were added (`combine="add"`), where a stride was (`style="caffe"`). Build the module accordingly.

    Either everything fits or nothing is written. A BatchNorm's `num_batches_tracked` may be missing. Values are
    converted to the dtypes of the module.

    Args:
        model_or_module: what to fill. Wrappers (DataParallel, torch.compile) are looked through.
        path_or_state_dict: a file of safetensors (`.safetensors`) or of torch.save (any other name), of which only
            tensors are read, never code; or a mapping of tensors, or a module. A state dict inside of it
            ("state_dict", "model", …) is found, "module." in front of all names is taken off.
        prefix: path of the module in the checkpoint, "backbone" or "layer2.0.conv2": the rest is not used.
        ignore: shell-style patterns of names in the checkpoint that are left out, ("fc.*",).
        entry: which state dict, where there are several: "state_dict_ema".

    Returns:
        What was recognised and what became of every entry; print it.

    Raises:
        DynError: an argument is none of these; the file is damaged, or cannot be read without running code; names are
            missing, unexpected or of another shape; a value is too large for the module's dtype; a pattern matches
            nothing; prefix or entry are not there. The module is as it was.

    Example:
        >>> layer = nn.BatchNorm2d(4)
        >>> print(load_checkpoint(layer, {"model": {f"module.{k}": v for k, v in layer.state_dict().items()}}))
        BatchNorm2d from the state dict['model']: 5 of 5 entries
          taken off all names: module.
    """
    target = _unwrapped(model_or_module)
    checkpoint = read(path_or_state_dict, entry)
    stripped, named = _strip(checkpoint.entries, target.state_dict())
    prefix = prefix.removeprefix(stripped).removesuffix(".")
    inside = {name for name in named if is_under(name, prefix)}
    if not inside:
        raise _nothing_under(prefix, named)
    ignored = _ignored(inside, ignore)
    kept = {name: value for name, value in named.items() if name in inside and name not in ignored}
    entries = _tensors(kept, prefix)

    try:
        result = fit(target, under(entries, prefix))
    except DynError as error:
        raise DynError(error.what, why=error.why, fix=place(target, entries, prefix) or error.fix) from None
    if problems := result.problems():
        raise DynError(
            f"{type(target).__name__}: {checkpoint.source} does not hold its weights.",
            why="; ".join(problems),
            fix=advice(target, result, entries, prefix),
        )
    _write(target, result, checkpoint.source)
    used = {source for found in result.entries.values() for source in found.sources}
    return CheckpointReport(
        source=checkpoint.source,
        target=type(target).__name__,
        container=checkpoint.container,
        others=checkpoint.others,
        stripped=stripped,
        prefix=prefix,
        recognised=dict(result.recognised),
        read=len(named),
        used=len(used),
        outside=len(named) - len(used) - len(ignored) - len(result.dropped),
        ignored=tuple(ignored),
        dropped=result.dropped,
        assumed=result.assumed,
        added=tuple(name[1:] for name in result.added),
        not_finite=tuple(name for name, found in result.entries.items() if not finite(found.tensor).all()),
    )


def _unwrapped(module: object) -> nn.Module:
    while isinstance(module, nn.Module):
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):  # torch.compile
            module = inner
        else:
            return module
    raise DynError(
        f"What is to be filled is no module: {kind(module)}.",
        fix="load_checkpoint(model, checkpoint), the module first.",
    )


def _strip(entries: Mapping[str, Any], own: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """Take wrappers off the names, unless the module's own names have them, too."""
    stripped, own = "", list(own)
    while True:
        found = [w for w in _WRAPPERS if entries and all(name.startswith(w) for name in entries)]
        if not found or (own and all(name.startswith(stripped + found[0]) for name in own)):
            return stripped, dict(entries)
        stripped += found[0]
        entries = {name.removeprefix(found[0]): value for name, value in entries.items()}


def _ignored(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    patterns = [patterns] if isinstance(patterns, str) else patterns
    names = sorted(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise DynError(
                f"ignore={pattern!r} matches nothing.", fix=f"The names are {listed(names)}. '*' stands for anything."
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _tensors(entries: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    siblings = (f"{prefix}_",) if prefix else ()
    others = {name: v for name, v in entries.items() if name not in tensors and not name.startswith(siblings)}
    if others:
        names = [f"{name} ({kind(value)})" for name, value in others.items()]
        raise DynError(
            f"{len(others)} entries are no tensors: {listed(names)}.",
            fix="torch.as_tensor(…) where they are weights, ignore=(…) where they are not.",
        )
    return tensors


def _nothing_under(prefix: str, entries: Mapping[str, Any]) -> DynError:
    if not entries:
        return DynError("The state dict is empty.")
    all_places = list(places(entries))
    near = difflib.get_close_matches(prefix, all_places, n=3)
    tops = [path for path in all_places if "." not in path]
    return DynError(f"There is nothing under prefix={prefix!r}.", fix=nearest(prefix, dict.fromkeys([*near, *tops])))


def _write(target: nn.Module, result: Fit, source: str) -> None:
    """Copy the entries into the module; whatever goes wrong, it is as before."""
    before = {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in target.state_dict().items()}
    for name in result.added:
        owner, _, parameter = name[1:].rpartition(".")
        like = next(target.get_submodule(owner).parameters())
        value = torch.empty_like(result.entries[name[1:]].tensor, dtype=like.dtype, device=like.device)
        target.get_submodule(owner).register_parameter(parameter, nn.Parameter(value, like.requires_grad))
    given = {name: entry.tensor for name, entry in result.entries.items()}
    try:
        target.load_state_dict({**before, **given})
    except Exception as error:  # a module may have checks of its own
        for name in result.added:
            owner, _, parameter = name[1:].rpartition(".")
            target.get_submodule(owner).register_parameter(parameter, None)
        target.load_state_dict(before)
        raise DynError(f"{type(target).__name__} refuses the weights in {source}.", why=str(error)) from error
