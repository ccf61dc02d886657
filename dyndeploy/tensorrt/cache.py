"""Whether an engine is still the one that a build would make, and if not, why; and where timings are kept."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from dyndeploy.bundle import Bundle, file_digest
from dyndeploy.errors import DynError
from dyndeploy.tensorrt.record import Gpu, Runtime, find


def cache_folder() -> Path:
    """Where things are kept that can be made again: DYNDEPLOY_CACHE_DIR, or the user's folder of the system for it."""
    from platformdirs import user_cache_path

    given = os.environ.get("DYNDEPLOY_CACHE_DIR")
    return Path(given) if given else user_cache_path("dyndeploy")


def timing_cache(runtime: Runtime, gpu: Gpu) -> Path:
    """The file of timings of one runtime on one GPU, shared by all builds of this user."""
    name = re.sub(r"[^\w.]+", "_", f"{runtime.package}-{runtime.version}-{gpu.name}-{gpu.compute_capability}")
    return cache_folder() / "timings" / f"{name}.cache"


def kernel_cache(runtime: Runtime, gpu: str, engine: str) -> Path:
    """The file of the kernels that one runtime compiled for an engine (its digest) on one GPU."""
    name = re.sub(r"[^\w.]+", "_", f"{runtime.package}-{runtime.version}-{gpu}-{engine.removeprefix('sha256:')[:16]}")
    return cache_folder() / "kernels" / f"{name}.cache"


def key_of(parts: Mapping[str, str]) -> str:
    """The cache key: a digest of its parts."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()


def miss(bundle: Bundle, target: str, parts: Mapping[str, str]) -> str | None:
    """Why the engine that a bundle has is not the one to be built; None where it is.

    Args:
        bundle: the bundle.
        target: the target.
        parts: of the engine to be built.
    """
    try:
        record = find(bundle, target)
    except DynError as error:
        return "there is none yet" if "has no engine" in error.what else error.what
    if record.key != key_of(parts):
        names = [n for n in dict.fromkeys([*parts, *record.key_parts]) if record.key_parts.get(n) != parts.get(n)]
        # The graph is made from the others; it stands alone where another version of dyndeploy makes another graph.
        told = [_change(n, record.key_parts.get(n), parts.get(n)) for n in names if n != "graph" or names == ["graph"]]
        return "; ".join(told) or "its key is another"
    if file_digest(record.path(bundle)) != record.sha256:
        return f"{record.file} is damaged"
    return None


def _change(name: str, before: str | None, after: str | None) -> str:
    """What changed; digests say nothing to people."""
    if any(value and value.startswith("sha256:") for value in (before, after)):
        return f"{name} changed"
    return f"{name} changed from {before or 'none'} to {after or 'none'}"
