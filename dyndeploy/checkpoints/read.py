"""From a file, or what is in memory, to named tensors. Nothing but tensors and plain data is read; no code runs."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dyndeploy.errors import DynError, nearest

#: Where training code keeps its state dict, the likeliest first.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module")
#: Objects beside the weights that training code saves (arguments, paths, dates, accuracies, logs). They are not read.
_BESIDE = (
    "argparse.Namespace",
    *(f"builtins.{name}" for name in ("dict", "float", "frozenset", "getattr", "int", "list", "range", "slice", "str")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
    ),
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(f"numpy.{place}.multiarray.{name}" for place in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.dtypes.{name}DType" for name in ("Bool", "Int32", "Int64", "Float32", "Float64")),
)


class NotRead:
    """Stands in a checkpoint where an object was that is no tensor; its class is neither imported nor called."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _plain_dict(*default_factory: object) -> dict[object, object]:
    """Stands for `collections.defaultdict`: its entries are read, its factory is not."""
    return {}


@dataclass(frozen=True)
class Checkpoint:
    """What was found.

    Attributes:
        source: the file's name, or what was given.
        container: the entries that were opened to get at the state dict, outermost first.
        others: other state dicts beside it, which `entry=` chooses.
        entries: the state dict; its values should be tensors.
    """

    source: str
    container: tuple[str, ...]
    others: tuple[str, ...]
    entries: Mapping[str, Any]


def read(source: str | os.PathLike[str] | Mapping[str, Any] | nn.Module, entry: str | None = None) -> Checkpoint:
    """Open a checkpoint.

    Args:
        source: a file of safetensors (`.safetensors`) or of torch.save, a mapping of tensors, or a module.
        entry: the state dict to take where there are several.

    Raises:
        DynError: the file is missing, broken or would need code to be read, or there is no such entry.
    """
    if isinstance(source, nn.Module):
        name, found = f"the state dict of a {type(source).__name__}", dict(source.state_dict())
    elif isinstance(source, Mapping):
        name, found = "the state dict", dict(source)
    else:
        path = _path(source)
        name, found = path.name, _open(path)
    return _unpack(name, found, entry)


def kind(value: object) -> str:
    """What a value is, for messages."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "an object that is not read" if isinstance(value, NotRead) else type(value).__name__


def _path(source: object) -> Path:
    path = os.fspath(source) if isinstance(source, os.PathLike) else source
    if not isinstance(path, str) or not path:
        raise DynError(
            f"This is no checkpoint: {'an empty path' if path == '' else kind(source)}.",
            fix="The path of a file, a mapping of names to tensors, or a module.",
        )
    return Path(path)


def _open(path: Path) -> Any:
    if path.is_dir():
        inside = ", ".join(sorted(file.name for file in path.iterdir())[:8])
        raise DynError(f"{path} is a directory.", fix=f"The path of one file: {inside}" if inside else None)
    if not path.is_file():
        raise DynError(f"There is no file {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        damaged = _damaged(path)
        if damaged is None:
            stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
                *((NotRead, name) for name in _BESIDE),
                (_plain_dict, "collections.defaultdict"),
            ]
            with torch.serialization.safe_globals(stand_ins):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle may raise anything
        raise _unreadable(path, str(error)) from None
    raise DynError(
        f"{path} is damaged: {damaged}.",
        why="The checksum of this part is not that of its bytes.",
        fix="Copy or download it again.",
    )


def _damaged(path: Path) -> str | None:
    """The first part of an archive whose checksum is wrong: torch does not compare them, and would read other values.

    All of them are 0 where torch.save was told not to compute them.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() if any(part.CRC for part in archive.infolist()) else None


def _unreadable(path: Path, reason: str) -> DynError:
    trusted = "If you trust it: "
    needed = re.search(r"GLOBAL ([\w.]+)", reason)
    if "TorchScript" in reason:
        return DynError(
            f"{path} is a TorchScript archive.",
            why="It holds a program, and only tensors are read, never code.",
            fix=f"{trusted}torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')",
        )
    if path.suffix == ".pkl":
        return DynError(
            f"{path} is a bare pickle.",
            why="Only tensors are read, never code, and a bare pickle is a program.",
            fix=f"{trusted}weights = pickle.load(open({path.name!r}, 'rb'), encoding='latin1')['model']; "
            "torch.save({k: torch.as_tensor(v) for k, v in weights.items()}, 'weights.pth')",
        )
    if needed or "Trying to call" in reason or "Can only" in reason:
        return DynError(
            f"{path} holds more than tensors{f': {needed[1]}' if needed else ''}.",
            why="Only tensors are read, never code, and such an object is made by code.",
            fix=f"{trusted}found = torch.load({path.name!r}, map_location='cpu', weights_only=False); "
            "torch.save(found['state_dict'], 'weights.pth'), or found.state_dict() where it is a module.",
        )
    first = reason.strip().partition("\n")[0]
    why = "It is not what torch.save writes." if "Weights only" in first else first or "It ends too early."
    return DynError(f"{path} cannot be read.", why=why, fix="Copy or download it again.")


def _unpack(source: str, found: Any, entry: str | None) -> Checkpoint:
    """Open containers until there is a state dict."""
    container: list[str] = []
    others: tuple[str, ...] = ()
    while True:
        if isinstance(found, nn.Module):
            found = found.state_dict()
        if not isinstance(found, Mapping):
            raise DynError(f"There is a {type(found).__name__} in {source}, not a state dict.")
        inside = [key for key, value in found.items() if isinstance(key, str) and _holds_tensors(value)]
        if entry is not None and not container:
            if entry not in inside:
                raise DynError(f"There is no state dict {entry!r} in {source}.", fix=nearest(entry, inside))
            chosen = entry
        else:
            known = [key for key in _CONTAINERS if key in inside]
            if not known and any(isinstance(value, Tensor) for value in found.values()):
                break
            if not known and len(inside) > 1:
                raise DynError(f"There are {len(inside)} state dicts in {source}.", fix=f"entry=: {', '.join(inside)}")
            if not inside:
                raise DynError(f"There are no tensors in {source}.", why=_contents(found), fix=_arrays(found))
            chosen = (known or inside)[0]
        container.append(chosen)
        others = others or tuple(key for key in inside if key != chosen)
        found = found[chosen]
    return Checkpoint(source, tuple(container), others, {str(key): value for key, value in found.items()})


def _holds_tensors(value: object) -> bool:
    """Whether this is a state dict, or has one inside. That of an optimizer has numbers for keys."""
    if isinstance(value, nn.Module):
        return True
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    return any(isinstance(inner, Tensor) or _holds_tensors(inner) for inner in value.values())


def _contents(found: Mapping[Any, Any]) -> str:
    listed = [f"{key} ({kind(value)})" for key, value in list(found.items())[:8]]
    return f"It has {', '.join(listed)}." if listed else "It is empty."


def _arrays(found: Mapping[Any, Any]) -> str | None:
    """The fix where the weights are arrays of NumPy; those of a file are not read, whatever they are."""
    inside = next((value for value in found.values() if isinstance(value, Mapping) and _arrays(value)), None)
    if inside is not None:
        return _arrays(inside)
    if any(hasattr(value, "__array__") for value in found.values()):
        return "{name: torch.as_tensor(value) for name, value in weights.items()}"
    if any(isinstance(value, NotRead) for value in found.values()):
        return (
            "If these are NumPy's arrays, and you trust the file: weights = torch.load(…, weights_only=False), and "
            "{name: torch.as_tensor(value) for name, value in weights.items()}"
        )
    return None
