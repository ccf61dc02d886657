"""The network of a recipe: its factory is found and called, its weights are loaded."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from dyndeploy.checkpoints import load_checkpoint
from dyndeploy.errors import DynError, nearest


def build(folder: Path, path: str, options: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> nn.Module:
    """The network that a recipe describes, in eval mode.

    Args:
        folder: the recipe's folder.
        path: "module:callable"; the module lies in the folder, or is importable.
        options: keyword arguments of the callable.
        weights: the checkpoint's "file", relative to the folder, and further arguments of `load_checkpoint`.

    Raises:
        DynError: the callable is not found, does not take the options or returns no module, or the weights
            are not those of the network.
    """
    factory = _find(folder, path)
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise DynError(
            f"model.options = {dict(options)} are not arguments of {path}.",
            why=str(error),
            fix=f"{path}{inspect.signature(factory)}",
        ) from None
    model = factory(**options)
    if not isinstance(model, nn.Module):
        raise DynError(
            f"model.factory = {path!r} returned a {type(model).__name__}.",
            fix="It has to return a torch.nn.Module.",
        )
    if weights is not None:
        _load_weights(model, folder, **weights)
    return model.eval()


def _find(folder: Path, path: str) -> Callable[..., Any]:
    where, _, name = path.partition(":")
    found: Any = _import_beside(folder, where) if _is_beside(folder, where) else _import(where)
    for part in name.split("."):
        if not hasattr(found, part):
            public = [n for n in dir(found) if not n.startswith("_") and callable(getattr(found, n))]
            raise DynError(f"model.factory = {path!r}: {where} has no {part!r}.", fix=nearest(part, public))
        found = getattr(found, part)
    if not callable(found):
        raise DynError(f"model.factory = {path!r} is a {type(found).__name__}, not a callable.")
    return found  # type: ignore[no-any-return]


def _is_beside(folder: Path, module: str) -> bool:
    place = folder.joinpath(*module.split("."))
    return place.with_name(place.name + ".py").is_file() or (place / "__init__.py").is_file()


def _import_beside(folder: Path, module: str) -> ModuleType:
    """Import a module of the recipe's folder as part of a package of its own.

    Every recipe has a model.py: under its plain name the second would be the first. In a package it can
    import its neighbours (`from .layers import …`), and sys.path stays as it is. It is read anew each time,
    because a user who edits it in the same process expects the new one.
    """
    package = f"dyndeploy_recipe_{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    parent = ModuleType(package, f"The folder {folder}.")
    parent.__path__ = [str(folder)]
    sys.modules[package] = parent
    try:
        return importlib.import_module(f"{package}.{module}")
    except ModuleNotFoundError as error:
        if error.name and _is_beside(folder, error.name):
            raise DynError(
                f"{folder / module.replace('.', '/')}.py imports {error.name!r}, which lies beside it.",
                why="The folder of a recipe is a package, it is not on sys.path.",
                fix=f"from .{error.name} import …",
            ) from error
        raise


def _import(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and something that it imports is not
        raise DynError(
            f"model.factory: there is no module {module!r}.",
            fix=f"Put {module.replace('.', '/')}.py beside recipe.toml, or install the package.",
        ) from None


def _load_weights(model: nn.Module, folder: Path, file: str, **how: Any) -> None:
    path = folder / file
    if not path.is_file():
        raise DynError(f"model.weights: there is no {path}.", fix="Put it there, or take the line out.")
    try:
        load_checkpoint(model, path, **how)
    except DynError as error:
        raise DynError(f"model.weights = {path.name!r}: {error.what}", why=error.why, fix=error.fix) from error
