"""The models of a server, by name: loaded, replaced and unloaded while requests come in."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dyndeploy.bundle import MANIFEST, Bundle, Manifest
from dyndeploy.errors import DynError
from dyndeploy.serving.errors import RequestError, UnavailableModelError, UnknownModelError, one_line
from dyndeploy.serving.models.model import Model
from dyndeploy.serving.models.statistics import Statistics
from dyndeploy.serving.models.traffic import Traffic
from dyndeploy.serving.protocol.metadata import MODEL_VERSION
from dyndeploy.serving.settings import Settings

State = Literal["LOADING", "READY", "UNAVAILABLE"]
_log = logging.getLogger(__name__)


@dataclass
class Entry:
    """A name that is served.

    Attributes:
        name, path: of the bundle.
        model: what answers; None while nothing does.
        state: as the repository extension calls it.
        reason: why it is not ready, or why the last reload failed.
        statistics: of all models that ever answered under the name.
    """

    name: str
    path: Path
    model: Model | None = None
    state: State = "LOADING"
    reason: str = ""
    statistics: Statistics = field(default_factory=Statistics)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    failed: bool = False


class Registry:
    """Bundles under the names of their folders. Used on the event loop only.

    Args:
        bundles: name -> folder.
        settings: of the server.
    """

    def __init__(self, bundles: Mapping[str, Path], settings: Settings) -> None:
        self._settings = settings
        self.entries = {name: Entry(name, path) for name, path in bundles.items()}
        self._retiring: set[asyncio.Task[None]] = set()
        self._traffic = Traffic(settings.spin_us)
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether every model that is meant to be there takes requests."""
        return not self.draining and all(e.model is not None or e.reason == _UNLOADED for e in self.entries.values())

    def entry(self, name: str, version: str = "") -> Entry:
        """The entry of a model.

        Raises:
            UnknownModelError: there is none, or the version is not the one that there is.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise UnknownModelError(f"There is no model {name[:80]!r}.", fix=f"one of {', '.join(self.entries)}")
        if version and version != MODEL_VERSION:
            raise UnknownModelError(f"{name} has no version {version[:80]!r}, only {MODEL_VERSION}.")
        return entry

    def model(self, name: str, version: str = "") -> Model:
        """The model that answers under a name.

        Raises:
            UnknownModelError: see `entry`.
            UnavailableModelError: it takes no requests now.
        """
        entry = self.entry(name, version)
        if self.draining:
            raise UnavailableModelError("The server is shutting down.")
        if entry.model is None:
            raise UnavailableModelError(f"{name} is not ready: {entry.reason or 'it is being loaded'}.")
        return entry.model

    async def load(self, name: str) -> Model:
        """Load a bundle, or load it again. The model that was there answers until the new one is ready.

        Raises:
            UnknownModelError: there is no such name.
            DynError: the bundle cannot be served; if another one was there, it still is.
        """
        entry = self.entry(name)
        async with entry.lock:
            try:
                new = await asyncio.to_thread(Model.prepare, name, entry.path, self._settings)
            except DynError as error:
                entry.statistics.failed_reloads += entry.model is not None
                entry.reason, entry.failed = one_line(error), True
                entry.state = "READY" if entry.model else "UNAVAILABLE"
                _log.error("load failed", extra={"model": name, "reason": entry.reason, "serving": bool(entry.model)})
                raise
            if self.draining:  # meanwhile
                await asyncio.to_thread(new.close)
                raise UnavailableModelError("The server is shutting down.")
            old, entry.model = entry.model, new
            new.start(entry.statistics, self._traffic)
            entry.state, entry.reason, entry.failed = "READY", "", False
            entry.statistics.reloads += old is not None
            _log.info("model ready", extra={"model": name, "self_test": new.self_test, "reloaded": old is not None})
            if new.batching_note:
                _log.warning("no batching", extra={"model": name, "reason": new.batching_note})
            self._retire(old)
            return new

    async def unload(self, name: str) -> None:
        """Take no more requests for a model, until it is loaded again.

        Raises:
            UnknownModelError: there is no such name.
        """
        entry = self.entry(name)
        async with entry.lock:
            old, entry.model = entry.model, None
            entry.state, entry.reason = "UNAVAILABLE", _UNLOADED
            _log.info("model unloaded", extra={"model": name})
            self._retire(old)

    async def reload_all(self) -> None:
        """Load every bundle again that is not what is served; failures are logged."""
        for entry in self.entries.values():
            if entry.reason != _UNLOADED and (entry.failed or await asyncio.to_thread(self._changed, entry)):
                with suppress(DynError):
                    await self.load(entry.name)

    def _changed(self, entry: Entry) -> bool:
        if entry.model is None:
            return True
        try:
            return _identity(Bundle.open(entry.path).manifest) != _identity(entry.model.bundle.manifest)
        except DynError:
            return True  # loading it says why

    async def watch(self, interval_s: float) -> None:
        """Load bundles again when they are exported again; never returns."""
        seen: dict[str, tuple[int, int, int] | None] = {}  # so that the first look is at what they are
        while True:
            await asyncio.sleep(interval_s)
            for name, entry in self.entries.items():
                stamp = await asyncio.to_thread(_stamp, entry.path)
                if name in seen and stamp == seen[name]:
                    continue
                seen[name] = stamp
                if stamp is not None and entry.reason != _UNLOADED and await asyncio.to_thread(self._changed, entry):
                    with suppress(DynError):
                        await self.load(name)

    def _retire(self, model: Model | None) -> None:
        if model is not None:
            task = asyncio.get_running_loop().create_task(model.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def close(self, timeout_s: float) -> None:
        """Let requests that have begun end, refuse the rest after `timeout_s` seconds, and close all models."""
        self.draining = True
        models = [entry.model for entry in self.entries.values() if entry.model is not None]
        for entry in self.entries.values():
            entry.model, entry.state, entry.reason = None, "UNAVAILABLE", "the server is shutting down"
        for model in models:
            self._retire(model)
        if self._retiring:
            _, late = await asyncio.wait(set(self._retiring), timeout=timeout_s)
            if late:
                for model in models:
                    model.give_up()
                _, late = await asyncio.wait(late, timeout=1)
                for task in late:
                    task.cancel()


_UNLOADED = "unloaded"


def _identity(manifest: Manifest) -> Manifest:
    """What a model is made of; a check writes its verdict into the manifest and changes nothing else."""
    return manifest.model_copy(update={"check": None})


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path / MANIFEST)
    except OSError:  # just being replaced
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def refuse_parameters(parameters: Mapping[str, object]) -> None:
    """Raise where a request to load brings files or a configuration: what is served was decided when it began.

    Raises:
        RequestError: it does.
    """
    given = [name for name in parameters if name != "unload_dependents"]
    if given:
        raise RequestError(
            f"A model is loaded from the folder that the server began with; {given[0][:40]!r} cannot change that.",
            fix="Leave the parameters out.",
        )
