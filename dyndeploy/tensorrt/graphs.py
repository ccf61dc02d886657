"""When a CUDA graph is captured, which are kept, and what became of requests: the policy, without any CUDA."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """What is kept for a key."""

    def close(self) -> None:
        """Destroy it."""


T = TypeVar("T", bound=Closable)

#: Keys that are remembered for each that is kept: arrays at ever new addresses must not fill the memory.
_REMEMBERED = 8


class GraphCache(Generic[T]):
    """Graphs by key, the least recently used one going first.

    A key is captured at its second sight: who comes once costs no capture. What cannot be captured is not tried again.

    Args:
        limit: how many are kept; 0 captures nothing.

    Example:
        >>> cache = GraphCache(1)
        >>> [cache.due("a"), cache.due("a"), cache.due("b")]
        [False, True, False]
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._seen: OrderedDict[Hashable, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> T | None:
        """What is kept for a key, which is now the most recently used."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def due(self, key: Hashable) -> bool:
        """Whether a key that has nothing is to be captured now; it counts as seen from here on."""
        if not self._limit or self._seen.get(key):
            return False
        due = key in self._seen
        self._remember(key, "")
        return due

    def refuse(self, key: Hashable, reason: str) -> None:
        """A key cannot be captured."""
        self._remember(key, reason)

    def put(self, key: Hashable, value: T) -> T | None:
        """Keep a value; returns the one that has to go, for the caller to close."""
        self._kept[key] = value
        return self._kept.popitem(last=False)[1] if len(self._kept) > self._limit else None

    def clear(self) -> list[T]:
        """Forget everything; returns what was kept, for the caller to close."""
        kept = list(self._kept.values())
        self._kept.clear()
        self._seen.clear()
        return kept

    def _remember(self, key: Hashable, reason: str) -> None:
        self._seen[key] = reason
        self._seen.move_to_end(key)
        while len(self._seen) > _REMEMBERED * self._limit:
            self._seen.popitem(last=False)


@dataclass
class Statistics:
    """What became of the requests of a session.

    Attributes:
        requests: that were run, failed ones among them.
        failed: that failed on the device or in TensorRT; a request that did not fit is in neither.
        replayed: that were one launch of a captured graph; the others were queued call by call.
        captured: graphs captured.
        evicted: graphs that had to go for others.
        refused: reason why there is no graph -> how often.
    """

    requests: int = 0
    failed: int = 0
    replayed: int = 0
    captured: int = 0
    evicted: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, other: Statistics) -> None:
        """Add those of another one."""
        self.requests += other.requests
        self.failed += other.failed
        self.replayed += other.replayed
        self.captured += other.captured
        self.evicted += other.evicted
        self.refused += other.refused
