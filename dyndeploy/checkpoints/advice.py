"""What to type where a checkpoint does not fit: another prefix, another part of the model, other options."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from dyndeploy.checkpoints.fit import Entry, Fit, fit, places, under
from dyndeploy.errors import DynError
from dyndeploy.models import Backbone
from dyndeploy.nn import ModulatedDeformConv2d

#: What classifiers are called, ours and those of other code: what a backbone alone does without.
_HEADS = {"fc", "classifier", "conv_last", "linear", "head"}


def advice(target: nn.Module, result: Fit, entries: Mapping[str, Tensor], prefix: str) -> str | None:
    """The fix for entries that do not fit, as far as can be seen; None if it cannot."""
    if (result.missing or result.unexpected) and (found := place(target, entries, prefix)):
        return found
    if found := _averages(result) or _predictors(target, result, prefix):
        return found
    if isinstance(target, Backbone) and (result.missing or result.unexpected or result.misshapen):
        return _head(target, result, prefix) or (
            "Build the network as the checkpoint's was (num_classes=, width=, layers=, …), or take another checkpoint."
        )
    if not (result.unexpected or result.misshapen or result.unusable) and set(result.missing) <= {"bias"}:
        return f"{type(target).__name__}(…, bias=False): the checkpoint has none."
    return None


def place(target: nn.Module, entries: Mapping[str, Tensor], prefix: str) -> str | None:
    """Where in the checkpoint the module is, or of which part of the module the checkpoint is; None if neither.

    Args:
        target: the module.
        entries: of the whole checkpoint.
        prefix: as given: with one, the user has said where.
    """
    if prefix:
        return None
    state = target.state_dict()
    candidates = ((path, under(entries, path)) for path in places(entries))
    fitting = [path for path, inside in candidates if 2 * len(inside) > len(state) and _fits(target, inside)]
    if fitting:
        return f"prefix={' or '.join(map(repr, fitting[:3]))}"
    for path in dict.fromkeys(name.partition(".")[0] for name in state):
        if all(f"{path}.{name}" in state for name in entries):
            return f"load_checkpoint(model.{path}, …): these are its weights."
    return None


def _fits(target: nn.Module, entries: Mapping[str, Entry]) -> bool:
    try:
        return bool(entries) and not fit(target, entries).problems()
    except DynError:
        return False


def _averages(result: Fit) -> str | None:
    """The fix where running averages stand beside the weights, as mmdetection's hook saves them."""
    if result.unexpected and all(name.startswith("ema_") for name in result.unexpected):
        return "ignore=('ema_*',): running averages of weights that are there, too."
    return None


def _predictors(target: nn.Module, result: Fit, prefix: str) -> str | None:
    """The fix where predictors of offsets differ, and the classifier at most: other layers are deformable, or none."""
    missing = [name for name in result.missing if _top(name) not in _HEADS]
    unexpected = [name for name in result.unexpected if _top(name, prefix) not in _HEADS]
    paths = [path for path, m in target.named_modules() if isinstance(m, ModulatedDeformConv2d)]
    lacking = [path for path in paths if f"{path}.predictor.weight".removeprefix(".") in result.missing]
    explained = {f"{path}.predictor.{part}".removeprefix(".") for path in lacking for part in ("weight", "bias")}
    left = {_stage(name) if re.search("offset|predictor|mask", name) else None for name in unexpected}
    if not (missing or unexpected) or None in left or not explained.issuperset(missing):
        return None
    if not paths or result.misshapen or result.unusable:
        return None
    if left & {_stage(path) for path in lacking}:
        return "offset_groups=, as the checkpoint's: its predictors of offsets are of another size."
    stages = {stage for stage in left | {_stage(path) for path in paths if path not in lacking} if stage}
    if stages:
        return f"stages={tuple(sorted(stages))}: there the checkpoint's convolutions are deformable."
    return (
        "In the checkpoint these convolutions are plain. To start from it: load_checkpoint(plain, …), for the same "
        "network with plain ones (stages=()), then model.load_state_dict(plain.state_dict(), strict=False); the "
        "predictors start at zero."
    )


def _top(name: str, prefix: str = "") -> str:
    """The part of the network that has it."""
    return name.removeprefix(f"{prefix}.").partition(".")[0]


def _stage(name: str) -> int | None:
    """conv2 to conv5 of the paper: layer1 to layer4 here, res2 to res5 in detectron2."""
    found = re.search(r"(layer|res)(\d)\.\d+\.conv2(\.|_|$)", name)
    return int(found[2]) + (found[1] == "layer") if found else None


def _head(target: Backbone, result: Fit, prefix: str) -> str | None:
    """The fix where only the classifier differs."""
    if result.unexpected and target.features_only and not result.missing and not result.misshapen:
        path = f"{prefix}." if prefix else ""
        heads = dict.fromkeys(_top(name, prefix) for name in result.unexpected)
        if not heads.keys() <= _HEADS:
            return None
        patterns = ", ".join(repr(f"{path}{head}.*") for head in heads)
        return f"ignore=({patterns},): with features_only=True there is no classifier."
    if result.missing and not (result.unexpected or result.misshapen):
        tops = {_top(name) for name in result.missing}
        return "features_only=True: the checkpoint has no classifier." if tops <= _HEADS else None
    if result.misshapen and not (result.missing or result.unexpected):
        given = {name: list(result.entries[name].tensor.shape) for name in result.misshapen}
        classes = {shape[0] for shape in given.values() if shape}
        linears = {p for p, m in target.named_modules() if isinstance(m, nn.Linear) and "." not in p}
        if (
            {name.rpartition(".")[0] for name in given} <= linears
            and all(
                len(given[name]) == len(ours) and given[name][1:] == ours[1:] for name, ours in result.misshapen.items()
            )
            and len(classes) == 1
        ):
            return f"num_classes={classes.pop()}"
    return None
