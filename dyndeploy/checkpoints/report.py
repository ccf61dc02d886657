"""What `load_checkpoint` did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class CheckpointReport:
    """What was recognised, and what became of every entry. str() is a text for people.

    Attributes:
        source: the file's name, or what was given.
        target: class of the module that was filled.
        container: entries that were opened to get at the state dict, outermost first: ("state_dict",).
        others: state dicts beside it, which `entry=` chooses.
        stripped: what was taken off all names: "module.".
        prefix: as given.
        recognised: layouts, and how many modules had them. "own names": layers with nothing to convert.
        read: entries of the state dict.
        used: those that went into the module.
        outside: those that are not under `prefix`.
        ignored: those that `ignore` left out.
        dropped: those that are not needed, and why.
        assumed: entries of the module that the checkpoint does not have, and why they are known.
        added: parameters that the module lacked and was given.
        not_finite: entries of the module that have NaN or infinite values.
    """

    source: str
    target: str
    container: tuple[str, ...]
    others: tuple[str, ...]
    stripped: str
    prefix: str
    recognised: Mapping[str, int]
    read: int
    used: int
    outside: int
    ignored: tuple[str, ...]
    dropped: Mapping[str, str]
    assumed: Mapping[str, str]
    added: tuple[str, ...]
    not_finite: tuple[str, ...]

    def __str__(self) -> str:
        where = "".join(f"[{name!r}]" for name in self.container)
        lines = [f"{self.target} from {self.source}{where}: {self.used} of {self.read} entries"]
        if self.stripped:
            lines.append(f"taken off all names: {self.stripped}")
        if self.prefix:
            lines.append(f"under {self.prefix}, and {self.outside} elsewhere")
        if self.recognised:
            counts = (f"{name} ({count} module{'s' * (count > 1)})" for name, count in self.recognised.items())
            lines.append(f"recognised: {', '.join(counts)}")
        if self.ignored:
            lines.append(f"ignored: {listed(self.ignored)}")
        lines += [f"dropped: {names}: {why}" for why, names in _by_reason(self.dropped)]
        lines += [f"not in the checkpoint: {names}: {why}" for why, names in _by_reason(self.assumed)]
        if self.added:
            lines.append(f"added to the module: {listed(self.added)}")
        if self.not_finite:
            lines.append(f"warning: NaN or infinite values in {listed(self.not_finite)}")
        if self.others:
            lines.append(f"also there: {', '.join(self.others)} (entry=)")
        return "\n  ".join(lines)


def listed(names: list[str] | tuple[str, ...], most: int = 8) -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _by_reason(reasons: Mapping[str, str]) -> list[tuple[str, str]]:
    return [
        (why, listed([name for name, reason in reasons.items() if reason == why], most=3))
        for why in Counter(reasons.values())
    ]
