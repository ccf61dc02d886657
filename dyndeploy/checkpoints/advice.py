"""What to type where a checkpoint does not fit: another prefix, another part of the model, other options."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dyndeploy.checkpoints.fit import Entry, Fit, fit, places, under
from dyndeploy.errors import DynError
from dyndeploy.models import Backbone


def advice(target: nn.Module, result: Fit, entries: Mapping[str, Tensor], prefix: str) -> str | None:
    """The fix for entries that do not fit, as far as can be seen; None if it cannot."""
    if result.missing and (found := place(target, entries, prefix)):
        return found
    if isinstance(target, Backbone):
        return _head(target, result) or (
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


def _head(target: Backbone, result: Fit) -> str | None:
    """The fix where only the classifier differs."""
    if result.unexpected and target.features_only and not result.missing and not result.misshapen:
        heads = dict.fromkeys(name.partition(".")[0] for name in result.unexpected)
        patterns = ", ".join(repr(f"{head}.*") for head in heads)
        return f"ignore=({patterns},): with features_only=True there is no classifier."
    linears = {f"{p}.{k}" for p, m in target.named_modules() if isinstance(m, nn.Linear) for k in ("weight", "bias")}
    top = {name for name in linears if name.count(".") == 1}
    if result.misshapen and result.misshapen.keys() <= top and not result.missing and not result.unexpected:
        return f"num_classes={result.entries[next(iter(result.misshapen))].tensor.shape[0]}"
    if result.missing and not result.unexpected and not result.misshapen and set(result.missing) <= top:
        return "features_only=True: the checkpoint has no classifier."
    return None
