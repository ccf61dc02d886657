"""GPUs: which one is here, and what the generations are called."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Sequence

from dyndeploy.errors import DynError, nearest
from dyndeploy.tensorrt.record import Gpu
from dyndeploy.tensorrt.vendor import Target, Vendor

#: Generation -> compute capabilities.
GENERATIONS: dict[str, tuple[str, ...]] = {
    "turing": ("7.5",),
    "ampere": ("8.0", "8.6"),
    "ada": ("8.9",),
    "hopper": ("9.0",),
    "blackwell": ("12.0", "12.1"),
}

# In a process of its own: what asks the driver once keeps a context on the GPU.
_PROBE = """
import ctypes, json
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    if status:
        raise SystemExit(f"{name} returned {status}")
device, name, major, minor = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDeviceGetName", name, 256, device)
call("cuDeviceGetAttribute", ctypes.byref(major), 75, device)
call("cuDeviceGetAttribute", ctypes.byref(minor), 76, device)
print(json.dumps({"name": name.value.decode(), "compute_capability": f"{major.value}.{minor.value}"}))
"""


def current_gpu() -> Gpu:
    """The first GPU that the driver shows to this process.

    Raises:
        DynError: there is none, or no driver.
    """
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, cwd=sys.prefix, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["unknown"])[-1]
        raise DynError("There is no GPU here that can be used.", why=reason, fix="nvidia-smi")
    return Gpu(**json.loads(done.stdout.splitlines()[-1]))


def capabilities(gpus: str | Sequence[str] | None, known: Collection[str]) -> tuple[str, ...]:
    """Compute capabilities ("8.6") of generations ("ampere") and other ways to write them ("sm_86", "86").

    Args:
        gpus: a list, or its items joined by commas; None is every one in `known` from Ampere on.
        known: those that engines can be built for.

    Raises:
        DynError: an item is neither, or cannot be built for.

    Example:
        >>> capabilities("ampere, sm_89", ["7.5", "8.0", "8.6", "8.9", "12.0"])
        ('8.0', '8.6', '8.9')
    """
    if gpus is None:
        return tuple(c for c in sorted(known, key=_number) if _number(c) >= (8, 0))
    items = gpus.split(",") if isinstance(gpus, str) else gpus
    found: set[str] = set()
    for item in (str(i).strip().lower() for i in items):
        number = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", item)
        wanted = (f"{number[1]}.{number[2]}",) if number else GENERATIONS.get(item)
        if wanted is None:
            raise DynError(f"gpus has {item!r}, which is no generation of GPUs.", fix=nearest(item, GENERATIONS))
        found |= {c for c in wanted if c in known}
        if not found & set(wanted):
            raise DynError(
                f"Engines cannot be built for {item} (compute capability {', '.join(wanted)}).",
                why=f"This version builds for {', '.join(sorted(known, key=_number))}.",
                fix="Another generation, or --target tensorrt on such a GPU.",
            )
    if not found:
        raise DynError("gpus is empty.", fix=nearest("", GENERATIONS))
    return tuple(sorted(found, key=_number))


def gpu_to_time_on(target: Target) -> Gpu:
    """The GPU that an engine is timed on.

    Raises:
        DynError: there is none.
    """
    try:
        return current_gpu()
    except DynError as error:
        raise DynError(
            f"{target.title} builds on the GPU that the engine is for, and there is none here.",
            why=f"It measures its kernels while it builds. {error.why}",
            fix="Build on a machine with that GPU; or --target tensorrt-rtx, whose "
            "engines are compiled where they are loaded.",
        ) from None


def capabilities_for(loaded: Vendor, gpus: str | Sequence[str] | None, *, plugins: bool) -> tuple[str, ...]:
    """The compute capabilities to build for; none where the GPU that is here counts.

    Args:
        loaded: the vendor's package.
        gpus: as `capabilities` takes them.
        plugins: the engine has plugins.

    Raises:
        DynError: engines for these GPUs cannot be built.
    """
    if loaded.target.needs_gpu:
        if gpus is not None:
            raise DynError(
                f"gpus={gpus!r} is not for {loaded.target.name}.",
                why=f"{loaded.target.title} builds for the GPU that is here.",
                fix="Leave it out, or --target tensorrt-rtx.",
            )
        return ()
    members = loaded.module.ComputeCapability.__members__
    known = [f"{n[2:-1]}.{n[-1]}" for n in members if n.startswith("SM")]
    names = capabilities(gpus, known)
    if plugins and any(c.startswith("7.") for c in names):
        raise DynError(
            "The plugins have no kernels for Turing (sm_75).",
            why="They are compiled for sm_80 and later.",
            fix="--gpus without turing, or --no-plugins",
        )
    return names


def _number(capability: str) -> tuple[int, ...]:
    return tuple(map(int, capability.split(".")))
