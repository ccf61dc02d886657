"""Networks by name."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import ConfigDict, ValidationError, validate_call
from torch import nn

from dyndeploy.errors import DynError, nearest

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])


class _Entry(NamedTuple):
    """A function that makes networks, and the options with which it makes the one of this name."""

    base: Callable[..., nn.Module]
    preset: Mapping[str, Any]


_MODELS: dict[str, _Entry] = {}


def register(factory: Factory) -> Factory:
    """Make a function that returns a network known under its name."""
    _MODELS[factory.__name__] = _Entry(factory, {})
    return factory


def variant(base: Callable[..., nn.Module], name: str, doc: str, **preset: Any) -> Callable[..., nn.Module]:
    """Register `base` with other defaults under another name."""

    def factory(**options: Any) -> nn.Module:
        return base(**(preset | options))

    signature = inspect.signature(base)
    known = [p.replace(default=preset.get(p.name, p.default)) for p in signature.parameters.values()]
    factory.__name__ = factory.__qualname__ = name
    factory.__module__, factory.__doc__ = base.__module__, f"{doc}; the options are those of `{base.__name__}`."
    factory.__signature__ = signature.replace(parameters=known)  # type: ignore[attr-defined]
    _MODELS[name] = _Entry(base, preset)
    return factory


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` takes, sorted.

    Args:
        pattern: shell-style, "scnet*", in upper or lower case.

    Example:
        >>> list_models("scnet50*")
        ['scnet50', 'scnet50_v1d']
    """
    return sorted(fnmatch.filter(_MODELS, pattern.lower()))


def create_model(name: str, **options: Any) -> nn.Module:
    """A network of one of the papers, with fresh weights, in training mode.

    `help(dyndeploy.models.<name>)` says what its options are. `dyndeploy.load_checkpoint` reads weights.

    Args:
        name: one of `list_models()`, in upper or lower case.
        options: keyword arguments of the network; every backbone has `num_classes`, `in_channels` and `features_only`.

    Raises:
        DynError: the name or an option is unknown, or a value is of another type or out of range.

    Example:
        >>> sum(p.numel() for p in create_model("ddf_resnet50").parameters())
        16843748
    """
    entry = _MODELS.get(str(name).lower())
    if entry is None:
        raise DynError(f"There is no model {name!r}.", fix=nearest(str(name).lower(), list_models()))
    known = inspect.signature(entry.base).parameters
    for option in options:
        if option not in known:
            raise DynError(f"{name} has no option {option!r}.", fix=nearest(option, known))
    make: Callable[..., nn.Module] = validate_call(config=ConfigDict(strict=True))(entry.base)
    try:
        return make(**{**entry.preset, **options})
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0])
        raise DynError(f"{name}: {option}={options[option]!r} is not allowed.", why=str(first["msg"])) from None
