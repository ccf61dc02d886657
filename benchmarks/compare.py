"""What is compared with what, and by which bar it is judged: the tables of the kernels' benchmarks, CPU and GPU."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gate import Timing
from problems import Network, Problem
from rich.console import Console
from rich.text import Text

from dyndeploy.cli._render import heading, number, table

Item = Problem | Network
_PER_MS = {"ms": 1, "us": 1000}


@dataclass(frozen=True)
class Bar:
    """What is demanded of one of our engines.

    Attributes:
        ours: the engine.
        rivals: engines; the fastest of them counts.
        factor: ours is so many times faster; with `at_most`, takes at most so many times as long.
        geometric_mean: demanded of the ratios over all problems.
        where: the problems it holds for.
        elsewhere: its ratio is shown for the other problems as well.
        bandwidth: bytes a second are compared, not times.
    """

    ours: str
    rivals: tuple[str, ...]
    factor: float
    at_most: bool = False
    geometric_mean: float | None = None
    where: Callable[[Item], bool] = lambda item: True
    elsewhere: bool = True
    bandwidth: bool = False

    def ratio(self, row: Row) -> float | None:
        """How many times faster ours is or, with `at_most`, how many times as long it takes."""
        times = row.comparable((self.ours, *self.rivals))
        if self.bandwidth:
            needs = {name: timing.median_ms / row.work[name][1] for name, timing in times.items()}
        else:
            needs = {name: timing.median_ms for name, timing in times.items()}
        rivals = [needs[name] for name in self.rivals if name in needs]
        if self.ours not in needs or not rivals:
            return None
        return needs[self.ours] / min(rivals) if self.at_most else min(rivals) / needs[self.ours]

    def excess(self, ratio: float) -> float:
        """By which share ours takes longer than the bar allows; up to 0 it is met."""
        return (ratio / self.factor if self.at_most else self.factor / ratio) - 1


@dataclass(frozen=True)
class Comparison:
    """One table: problems, and the engines that solve them.

    Attributes:
        name: for --operators.
        title: of the table.
        items: problems or networks.
        columns: heading -> engines; the fastest of them stands in the table.
        bars: heading of a ratio -> bar.
        rate: what limits ours: "GFLOP/s" or "GB/s"; "" where it is not counted.
        notes: heading of another column beside the ratios -> what stands in it.
        unit: of the times: "ms" or "us".
    """

    name: str
    title: str
    items: tuple[Item, ...]
    columns: Mapping[str, tuple[str, ...]]
    bars: Mapping[str, Bar]
    rate: str = ""
    notes: Mapping[str, Callable[[Row], str]] = field(default_factory=dict)
    unit: str = "ms"

    @property
    def engines(self) -> tuple[str, ...]:
        """All engines of the columns."""
        return tuple(dict.fromkeys(name for names in self.columns.values() for name in names))


@dataclass(frozen=True)
class Row:
    """What one problem gave.

    Attributes:
        item: the problem.
        times: engine -> time.
        left_out: engine -> why it is left out.
        work: engine -> multiply-accumulates and bytes.
        otherwise: engine -> time by another way of calling, which more engines know.
    """

    item: Item
    times: Mapping[str, Timing]
    left_out: Mapping[str, str]
    work: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    otherwise: Mapping[str, Timing] = field(default_factory=dict)

    def comparable(self, names: Iterable[str]) -> dict[str, Timing]:
        """Times of these engines, all by the same way of calling."""
        known = [name for name in names if name in self.times or name in self.otherwise]
        times = self.times if all(name in self.times for name in known) else self.otherwise
        return {name: times[name] for name in known if name in times}

    def rates(self, name: str) -> dict[str, float]:
        """What an engine reaches: two operations per multiply-accumulate, and every byte moved once."""
        (macs, moved), ms = self.work[name], self.times[name].median_ms
        return {"GFLOP/s": 2e-6 * macs / ms, "GB/s": 1e-6 * moved / ms}


def print_comparison(console: Console, comparison: Comparison, measured: Sequence[Row]) -> None:
    """The times, the ratios, and what became of every bar."""
    print_times(console, comparison, measured)
    columns = {title: functools.partial(_ratio, bar) for title, bar in comparison.bars.items()}
    if comparison.rate:
        columns[comparison.rate] = functools.partial(_rate, comparison)
    columns |= comparison.notes
    console.print(heading(f"{comparison.title}: ratios"))
    rows = ((str(row.item), *(text(row) for text in columns.values())) for row in measured)
    console.print(table(("", *columns), rows))
    for line in verdicts(comparison, measured):
        console.print(line, soft_wrap=True)
    for line in _remarks(comparison, measured):
        console.print(line, style="dim", soft_wrap=True)


def print_times(console: Console, comparison: Comparison, measured: Sequence[Row], how: str = "") -> None:
    """The times, taken in some way."""
    console.print(heading(f"{comparison.title}{how}: {comparison.unit}"))
    times = ((str(row.item), *(_best(comparison, row, n) for n in comparison.columns.values())) for row in measured)
    console.print(table(("", *comparison.columns), times))


def _best(comparison: Comparison, row: Row, names: Iterable[str]) -> str:
    measured = [row.times[name].median_ms for name in names if name in row.times]
    return number(_PER_MS[comparison.unit] * min(measured), 4) if measured else "-"


def _ratio(bar: Bar, row: Row) -> Text:
    ratio = bar.ratio(row)
    if ratio is None or not (bar.elsewhere or bar.where(row.item)):
        return Text("-")
    missed = bar.where(row.item) and bar.excess(ratio) > 0
    return Text(f"{ratio:.2f}" + ("!" if missed else ""), style="red" if missed else "")


def _rate(comparison: Comparison, row: Row) -> str:
    name = next((name for name in comparison.engines if name.startswith("ours") and name in row.times), None)
    return number(row.rates(name)[comparison.rate]) if name else "-"


def verdicts(comparison: Comparison, measured: Sequence[Row]) -> Iterator[str]:
    """A line for every bar: met or missed, and by how much."""
    for title, bar in comparison.bars.items():
        judged = [(row, bar.ratio(row)) for row in measured if bar.where(row.item)]
        ratios = {str(row.item): ratio for row, ratio in judged if ratio is not None}
        sign = "<=" if bar.at_most else ">="
        if not ratios:
            yield f"{title} {sign} {bar.factor:g}: not measured"
            continue
        excess = {item: bar.excess(ratio) for item, ratio in ratios.items()}
        missed = sum(share > 0 for share in excess.values())
        worst = max(excess, key=excess.__getitem__)
        mean = statistics.geometric_mean(ratios.values())
        line = f"{title} {sign} {bar.factor:g}: {'missed' if missed else 'met'} at {missed or len(ratios)}"
        line += f" of {len(ratios)}, worst {ratios[worst]:.2f} at {worst}"
        line += f" ({100 * excess[worst]:.0f} % off)" if missed else ""
        line += f"; geometric mean {mean:.2f}"
        if bar.geometric_mean:
            line += f" ({'met' if mean >= bar.geometric_mean else 'missed'}: >= {bar.geometric_mean:g})"
        absent = [name for name in bar.rivals if all(not row.comparable([name]) for row in measured)]
        line += f"; without {', '.join(absent)}" if absent else ""
        yield line


def _remarks(comparison: Comparison, measured: Sequence[Row]) -> Iterator[str]:
    for title, names in comparison.columns.items():
        if names != (title,):
            yield f"{title}: {'the fastest of ' if len(names) > 1 else ''}{'; '.join(names)}"
    yield "ratios: how many times faster ours is; 'of': how many times as long it takes; !: the bar is missed"
    absent: dict[str, dict[str, None]] = {}
    for name, reason in (pair for row in measured for pair in row.left_out.items()):
        absent.setdefault(reason, {})[name] = None
    for reason, left_out in absent.items():
        yield f"left out: {'; '.join(left_out)}: {reason}"
    timings = [timing for row in measured for timing in row.times.values()]
    busy, turns = sum(timing.busy for timing in timings), sum(timing.turns for timing in timings)
    if busy:
        yield f"{busy} of {turns} turns were measured on a busy machine: do not rely on these numbers"


def as_json(comparison: Comparison, measured: Sequence[Row]) -> dict[str, object]:
    """One table for the record."""
    return {
        "comparison": comparison.title,
        "bars": list(verdicts(comparison, measured)),
        "rows": [
            {
                "problem": str(row.item),
                "engines": {
                    name: {**dataclasses.asdict(timing), **row.rates(name)} for name, timing in row.times.items()
                },
                "ratios": {title: bar.ratio(row) for title, bar in comparison.bars.items()},
                "left_out": dict(row.left_out),
            }
            for row in measured
        ],
    }
