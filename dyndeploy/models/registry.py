"""Networks by name."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from dyndeploy.errors import DynError, nearest

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])
_FACTORIES: dict[str, Callable[..., nn.Module]] = {}


def register(factory: Factory) -> Factory:
    """Make a function that returns a network known under its name."""
    _FACTORIES[factory.__name__] = factory
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
    return register(factory)


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` takes, sorted.

    Args:
        pattern: shell-style, "scnet*".

    Example:
        >>> list_models("scnet50*")
        ['scnet50', 'scnet50_v1d']
    """
    return sorted(fnmatch.filter(_FACTORIES, pattern))


def create_model(name: str, **options: Any) -> nn.Module:
    """A network of one of the papers, with fresh weights, in training mode.

    `help(dyndeploy.models.<name>)` says what its options are. `dyndeploy.load_checkpoint` reads weights.

    Args:
        name: one of `list_models()`, in upper or lower case.
        options: keyword arguments of the network; every backbone has `num_classes`, `in_channels` and `features_only`.

    Raises:
        DynError: the name or an option is unknown, or a value is out of range.

    Example:
        >>> sum(p.numel() for p in create_model("ddf_resnet50").parameters())
        16843748
    """
    factory = model_factory(name)
    known = inspect.signature(factory).parameters
    for option in options:
        if option not in known:
            raise DynError(f"{factory.__name__} has no option {option!r}.", fix=nearest(option, known))
    return factory(**options)


def model_factory(name: str) -> Callable[..., nn.Module]:
    """The function behind a name.

    Raises:
        DynError: the name is unknown.
    """
    factory = _FACTORIES.get(name.lower())
    if factory is None:
        raise DynError(f"There is no model {name!r}.", fix=nearest(name.lower(), list_models()))
    return factory
