"""Which package serves a target, and how the plugin library gets into its registry.

The Python APIs of TensorRT and TensorRT for RTX are alike; what differs is in `Target`. Tests give a module of their
own.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyndeploy.errors import DynError, MissingPackageError, nearest
from dyndeploy.native.library import library_path
from dyndeploy.ops._spec import DOMAIN, VERSION, custom_ops


@dataclass(frozen=True)
class Target:
    """Something that engines are built for.

    Attributes:
        name: "tensorrt" or "tensorrt-rtx".
        title: its name in prose.
        package: the module to import.
        extra: the extra of dyndeploy that installs it.
        minimum: the lowest version that takes plugins in exported files.
        libraries: the module whose folder has the vendor's shared libraries.
        library: the vendor's library, without a version.
        needs_gpu: engines are timed on the GPU they are for; otherwise they are compiled there when they are loaded.
    """

    name: str
    title: str
    package: str
    extra: str
    minimum: str
    libraries: str
    library: str
    needs_gpu: bool


TARGETS: dict[str, Target] = {
    "tensorrt": Target(
        "tensorrt", "TensorRT", "tensorrt", "tensorrt", "10.12", "tensorrt_libs", "libnvinfer.so", needs_gpu=True
    ),
    "tensorrt-rtx": Target(
        "tensorrt-rtx",
        "TensorRT for RTX",
        "tensorrt_rtx",
        "tensorrt-rtx",
        "1.7.1",
        "tensorrt_rtx_libs",
        "libtensorrt_rtx.so",
        needs_gpu=False,
    ),
}


@dataclass(frozen=True)
class Creator:
    """What a plugin is found by."""

    name: str
    version: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.name} (version {self.version!r}, namespace {self.namespace!r})"


#: The plugins of the node types that an export writes.
OWN_CREATORS = tuple(Creator(str(spec.name), str(VERSION), DOMAIN) for spec in custom_ops())


def target_of(name: str) -> Target:
    """The target of this name.

    Raises:
        DynError: there is none.
    """
    if name not in TARGETS:
        raise DynError(f"There is no target {name!r}.", fix=nearest(name, TARGETS))
    return TARGETS[name]


@dataclass(frozen=True)
class Vendor:
    """An imported package.

    Attributes:
        target: what it serves.
        module: the module.
    """

    target: Target
    module: Any

    @property
    def version(self) -> str:
        """Its version."""
        return str(self.module.__version__)

    def load_plugins(self, path: Path | None = None, registry: Any = None) -> Path:
        """Put the plugins into a registry; harmless where they are there already.

        Args:
            path: of the library; by default this installation's.
            registry: an IPluginRegistry; by default the one of the process, in which builders and runtimes look too.

        Returns:
            The library's path.

        Raises:
            DynError: the library is missing or is not taken.
        """
        registry = self.module.get_plugin_registry() if registry is None else registry
        if path is None:
            path = library_path("tensorrt")
        if not path.is_file():
            raise DynError(f"There is no plugin library {path}.", fix="dyndeploy doctor")
        if registry.load_library(str(path)) is None and missing_creators(registry):
            lacks = ", ".join(map(str, missing_creators(registry)))
            raise DynError(
                f"{self.target.title} {self.version} does not take the plugin library {path}.",
                why=f"{_why_not(path)} Missing: {lacks}.",
                fix=f"{self.target.title} >= {self.target.minimum}, and the library that dyndeploy was installed with: "
                "dyndeploy doctor",
            )
        return path


def load(target: str | Target) -> Vendor:
    """Import the package that serves a target.

    Raises:
        MissingPackageError: it is not installed.
        DynError: there is no such target, the package is too old, or it does not load.
    """
    found = target_of(target) if isinstance(target, str) else target
    try:
        module = importlib.import_module(found.package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != found.package:
            raise _broken(found, error) from error
        raise MissingPackageError(found.package, f"The target {found.name!r}", found.extra) from None
    except (ImportError, OSError, RuntimeError) as error:  # a shared library is missing, or is a stub
        raise _broken(found, error) from error
    vendor = Vendor(found, module)
    if _numbers(vendor.version) < _numbers(found.minimum):
        raise DynError(
            f"{found.package} {vendor.version} is older than {found.minimum}.",
            why=f"Plugins in exported files need {found.title} >= {found.minimum}.",
            fix=f'pip install --upgrade "dyndeploy[{found.extra}]"',
        )
    return vendor


def _broken(target: Target, error: Exception) -> DynError:
    return DynError(
        f"The package {target.package!r} does not load.",
        why=str(error),
        fix=f"pip install --force-reinstall {target.package}",
    )


def creators(registry: Any) -> list[Creator]:
    """What a registry and those behind it have, without the vendor's internal ones."""
    found = set()
    for creator in registry.all_creators_recursive:
        name = getattr(creator, "name", "")
        if name and not name.startswith("Cask"):  # asking these for more can crash
            found.add(Creator(name, str(creator.plugin_version), str(creator.plugin_namespace)))
    return sorted(found, key=lambda c: (c.namespace != DOMAIN, c.name, c.version))


def missing_creators(registry: Any) -> list[Creator]:
    """Those of our plugins that a registry lacks."""
    return [c for c in OWN_CREATORS if registry.get_creator(c.name, c.version, c.namespace) is None]


def missing_link(target: Target) -> Path | None:
    """The vendor's library, where the wheel lacks the name by which it opens itself; None where nothing is missing.

    To add a plugin, TensorRT for RTX 1.7.1 opens libtensorrt_rtx.so; its wheel has libtensorrt_rtx.so.1, and the
    process ends.
    """
    if target.needs_gpu:  # TensorRT does not do so
        return None
    spec = importlib.util.find_spec(target.libraries)
    for folder in map(Path, (spec.submodule_search_locations or ()) if spec else ()):
        versioned = sorted(folder.glob(f"{target.library}.*"))
        if versioned and not any((place / target.library).exists() for place in (folder, *_library_path())):
            return versioned[0]
    return None


def environment(target: Target, folder: Path) -> dict[str, str]:
    """The variables of a process that builds plugins into engines: `folder` gets the missing link."""
    variables = dict(os.environ)
    library = missing_link(target)
    if library is not None:
        (folder / target.library).symlink_to(library)
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, (folder, *_library_path())))
    return variables


def _library_path() -> list[Path]:
    return [Path(p) for p in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if p]


def _why_not(path: Path) -> str:
    """Why a file cannot be a plugin library, as far as can be seen from outside."""
    import ctypes

    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"{error}."
    lacks = [name for name in ("getCreators", "setLoggerFinder") if not hasattr(library, name)]
    return f"It has no function {' and no '.join(lacks)}." if lacks else "It loads, but its plugins were not taken."


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version))
