"""The CPU kernels against everything else that computes the same, against plain convolutions, and in whole networks.

    python benchmarks/cpu_kernels.py
    python benchmarks/cpu_kernels.py --operators dcnv2 ddf --shape 1x256x14x14 --shape 1x128x100x167
    python benchmarks/cpu_kernels.py --end-to-end --save

gate.py has the measuring rule, problems.py the inputs, peers.py the engines; here is what is compared with what, and by
which bar it is judged. Before anything is timed, every engine's output is compared with the reference: a wrong one
stops the run. An engine that is not installed is left out, and a line says so. With --save the result is also written
to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import peers
import record
from gate import DISTURBED, IDLE, LeftOutError, Machine, Timing, Worker, measure
from problems import Network, Problem
from rich.console import Console
from rich.text import Text

from dyndeploy.cli._render import heading, number, out, progress, table
from dyndeploy.testing.numeric import compare

Item = Problem | Network
#: Relative L2 error up to which an engine computes the same; the right ones are below 1e-5.
AGREEMENT = 1e-3


@dataclass(frozen=True)
class Bar:
    """What is demanded of one of our engines.

    Attributes:
        ours: the engine.
        rivals: engines; the fastest of them counts.
        factor: ours is so many times faster; with `at_most`, takes at most so many times as long.
        geometric_mean: demanded of the ratios over all problems.
        where: the problems it holds for.
    """

    ours: str
    rivals: tuple[str, ...]
    factor: float
    at_most: bool = False
    geometric_mean: float | None = None
    where: Callable[[Item], bool] = lambda item: True

    def ratio(self, times: Mapping[str, Timing]) -> float | None:
        """How many times faster ours is or, with `at_most`, how many times as long it takes."""
        rivals = [times[name].median_ms for name in self.rivals if name in times]
        if self.ours not in times or not rivals:
            return None
        ours = times[self.ours].median_ms
        return ours / min(rivals) if self.at_most else min(rivals) / ours

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
    """

    name: str
    title: str
    items: tuple[Item, ...]
    columns: Mapping[str, tuple[str, ...]]
    bars: Mapping[str, Bar]
    rate: str = ""

    @property
    def engines(self) -> tuple[str, ...]:
        """All engines of the columns."""
        return tuple(dict.fromkeys(name for names in self.columns.values() for name in names))


@dataclass(frozen=True)
class Row:
    """What one problem gave: engine -> time, and engine -> why it is left out."""

    item: Item
    times: Mapping[str, Timing]
    left_out: Mapping[str, str]


CLASSIFICATION = ((1, 128, 28, 28), (1, 256, 14, 14), (1, 512, 7, 7), (8, 256, 14, 14))
DETECTION = ((1, 128, 100, 167), (1, 256, 50, 84), (1, 512, 25, 42))
STRIDED = ((1, 256, 56, 56), (1, 128, 100, 167))

NATIVE, FIRST, LAST = "ours in ONNX Runtime", "ours in torch, NCHW", "ours in torch, channels_last"
BODY, DEFORM_CONV = "function body in ONNX Runtime", "DeformConv of ONNX Runtime"
TORCH_CONV = ("conv2d of torch, NCHW", "conv2d of torch, channels_last")
CONV = (*TORCH_CONV, "conv2d of OpenVINO", "conv2d of ONNX Runtime")
UP_FIRST, UP_LAST = "4 calls of ours, NCHW", "4 calls of ours, channels_last"
NETWORKS = ("ddf_resnet50", "resnet50_dcnv2", "dgc_resnet18", "drconv_shufflenetv2_x1_0")


def comparisons(shapes: Sequence[tuple[int, int, int, int]], bundles: Path) -> list[Comparison]:
    """All tables.

    Args:
        shapes: of X, with stride 1, instead of the usual ones.
        bundles: folder for those of the networks.
    """

    def problems(operator: str, strided: bool = True, **more: object) -> tuple[Problem, ...]:
        plain = tuple(Problem(operator, shape, **more) for shape in shapes or (*CLASSIFICATION, *DETECTION))
        return plain + tuple(Problem(operator, s, 2, **more) for s in STRIDED if strided and not shapes)

    ours = {"ours": (FIRST,), "ours cl": (LAST,)}
    return [
        Comparison(
            "dcnv2",
            "dcnv2, offsets of 2 px",
            problems("dcnv2"),
            {
                "ours": (NATIVE,),
                "ORT": (DEFORM_CONV,),
                "body": (BODY,),
                "OpenVINO": ("OpenVINO",),
                "ncnn": ("ncnn",),
                "torchvision": ("torchvision",),
                "conv": CONV,
            },
            {
                "peers": Bar(NATIVE, (DEFORM_CONV, BODY, "OpenVINO", "ncnn"), 1.1, geometric_mean=1.25),
                "torchvision": Bar(NATIVE, ("torchvision",), 6),
                "of conv": Bar(NATIVE, CONV, 1.3, at_most=True, where=is_detection),
            },
            "GFLOP/s",
        ),
        Comparison(
            "dcnv2",
            "dcnv2, offsets of 0.5 and 8 px",
            tuple(p for px in (0.5, 8.0) for p in problems("dcnv2", offsets_px=px)),
            {"ours": (NATIVE,), "ORT": (DEFORM_CONV,), "body": (BODY,)},
            {"ORT": Bar(NATIVE, (DEFORM_CONV, BODY), 1.1)},
            "GFLOP/s",
        ),
        Comparison(
            "ddf",
            "ddf",
            problems("ddf"),
            {**ours, "depthwise": (TORCH_CONV[1],), "unfold": ("unfold",), "copy": ("copy of X",)},
            {
                "of depthwise": Bar(FIRST, TORCH_CONV[1:], 1.1, at_most=True),
                "cl of depthwise": Bar(LAST, TORCH_CONV[1:], 1.1, at_most=True),
                "unfold": Bar(FIRST, ("unfold",), 15),
                "unfold, cl": Bar(LAST, ("unfold",), 15),
            },
            "GB/s",
        ),
        Comparison(
            "ddf-up",
            "ddf-up, scale 2",
            problems("ddf", strided=False, scale=2),
            {**ours, "4 calls": (UP_FIRST,), "4 calls cl": (UP_LAST,)},
            {"4 calls": Bar(FIRST, (UP_FIRST,), 3), "4 calls cl": Bar(LAST, (UP_LAST,), 3)},
            "GB/s",
        ),
        Comparison(
            "drconv",
            "drconv, 8 regions",
            tuple(p for coherent in (False, True) for p in problems("drconv", coherent=coherent)),
            {**ours, "conv": TORCH_CONV, "select": ("all regions, then select",)},
            {
                "of conv": Bar(FIRST, TORCH_CONV, 1.3, at_most=True),
                "cl of conv": Bar(LAST, TORCH_CONV, 1.3, at_most=True),
                "select": Bar(FIRST, ("all regions, then select",), 5),
                "select, cl": Bar(LAST, ("all regions, then select",), 5),
            },
            "GFLOP/s",
        ),
        Comparison(
            "dgc",
            "dgc, 4 heads, a quarter of the channels kept",
            problems("dgc"),
            {**ours, "conv": TORCH_CONV, "masked": ("official masked form",)},
            {
                "of conv": Bar(FIRST, TORCH_CONV, 0.45, at_most=True),
                "cl of conv": Bar(LAST, TORCH_CONV, 0.45, at_most=True),
                "masked": Bar(FIRST, ("official masked form",), 3),
                "masked, cl": Bar(LAST, ("official masked form",), 3),
            },
            "GFLOP/s",
        ),
        Comparison(
            "networks",
            "networks, one image of 224x224",
            tuple(Network(name, bundles / name) for name in NETWORKS),
            {"ours": ("network, ours",), "bodies": ("network, function bodies",), "eager": ("network, torch eager",)},
            {
                "bodies": Bar("network, ours", ("network, function bodies",), 1),
                "eager": Bar("network, ours", ("network, torch eager",), 1),
            },
        ),
    ]


def is_detection(item: Item) -> bool:
    """Whether the map is as large as in detection."""
    return isinstance(item, Problem) and item.shape in DETECTION


def rows(comparison: Comparison, threads: int, rounds: int, patience: float, tell: Callable[[str], None]) -> list[Row]:
    """Measure a table.

    Raises:
        RuntimeError: an engine fails, or does not compute the same as the reference.
    """
    machine = Machine()
    workers = {name: Worker(peers.prepare) for name in comparison.engines}
    found = []
    try:
        for item in comparison.items:
            tell(f"{comparison.name} {item}")
            if isinstance(item, Network):
                item.export()
            for name, worker in workers.items():
                worker.give(name, item, threads)
            ready, left_out = _ready(item, workers)
            found.append(Row(item, measure({n: w.turn for n, w in ready.items()}, machine, rounds, patience), left_out))
    finally:
        for worker in workers.values():
            worker.close()
    return found


def _ready(item: Item, workers: Mapping[str, Worker]) -> tuple[dict[str, Worker], dict[str, str]]:
    """The workers whose output is right, and why the others are left out."""
    arrays = item.draw()
    computed = {name: peers.ENGINES[name][0] for name in workers}
    answers = {computes: item.answer(computes, arrays) for computes in set(computed.values())}
    ready, left_out = {}, {}
    for name, worker in workers.items():
        try:
            output = worker.answer()
        except LeftOutError as reason:
            left_out[name] = str(reason)
            continue
        error = compare(output, answers[computed[name]])
        if not error.relative_l2 <= AGREEMENT:
            raise RuntimeError(f"{name} at {item}: relative error {error.relative_l2:.1e}; it computes something else.")
        ready[name] = worker
    return ready, left_out


def print_comparison(console: Console, comparison: Comparison, measured: Sequence[Row]) -> None:
    """The times, the ratios, and what became of every bar."""
    console.print(heading(f"{comparison.title}: ms"))
    times = ((str(row.item), *(_best(row, names) for names in comparison.columns.values())) for row in measured)
    console.print(table(("", *comparison.columns), times))
    ratios = (
        (
            str(row.item),
            *(_ratio(bar, row) for bar in comparison.bars.values()),
            *([_rate(comparison, row)] if comparison.rate else []),
        )
        for row in measured
    )
    console.print(heading(f"{comparison.title}: ratios"))
    console.print(table(("", *comparison.bars, *([comparison.rate] if comparison.rate else [])), ratios))
    for line in verdicts(comparison, measured):
        console.print(line, soft_wrap=True)
    for line in _remarks(comparison, measured):
        console.print(line, style="dim", soft_wrap=True)


def _best(row: Row, names: Iterable[str]) -> str:
    measured = [row.times[name].median_ms for name in names if name in row.times]
    return number(min(measured), 4) if measured else "-"


def _ratio(bar: Bar, row: Row) -> Text:
    ratio = bar.ratio(row.times)
    if ratio is None:
        return Text("-")
    missed = bar.where(row.item) and bar.excess(ratio) > 0
    return Text(f"{ratio:.2f}" + ("!" if missed else ""), style="red" if missed else "")


def _rate(comparison: Comparison, row: Row) -> str:
    name = next((name for name in comparison.engines if name.startswith("ours") and name in row.times), None)
    return number(rates(row.item, name, row.times[name])[comparison.rate]) if name else "-"


def rates(item: Item, engine: str, timing: Timing) -> dict[str, float]:
    """What an engine reaches: two operations per multiply-accumulate, and every byte moved once."""
    macs, moved = item.work(peers.ENGINES[engine][0])
    return {"GFLOP/s": 2e-6 * macs / timing.median_ms, "GB/s": 1e-6 * moved / timing.median_ms}


def verdicts(comparison: Comparison, measured: Sequence[Row]) -> Iterator[str]:
    """A line for every bar: met or missed, and by how much."""
    for title, bar in comparison.bars.items():
        judged = [(row, bar.ratio(row.times)) for row in measured if bar.where(row.item)]
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
        absent = [name for name in bar.rivals if all(name not in row.times for row in measured)]
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
                    name: {**dataclasses.asdict(timing), **rates(row.item, name, timing)}
                    for name, timing in row.times.items()
                },
                "ratios": {title: bar.ratio(row.times) for title, bar in comparison.bars.items()},
                "left_out": dict(row.left_out),
            }
            for row in measured
        ],
    }


def peer_versions() -> dict[str, str]:
    """Of the peers that are installed."""
    found = {}
    for name in ("openvino", "ncnn", "torchvision"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(map(int, text.split("x")))
    if len(shape) != 4:
        raise ValueError(text)
    return shape


def main() -> None:
    names = list(dict.fromkeys(c.name for c in comparisons((), Path())))[:-1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operators", nargs="*", choices=names, help="these; without names all of them")
    parser.add_argument("--end-to-end", action="store_true", help="the networks")
    parser.add_argument("--shape", action="append", type=_shape, metavar="NxCxHxW", help="of X, not the usual ones")
    parser.add_argument("--threads", type=int, default=Machine().cpus, help="of every engine; all CPUs by default")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every engine")
    parser.add_argument("--patience", type=float, default=5.0, help="seconds a turn waits for an idle machine")
    parser.add_argument("--save", nargs="?", const="", metavar="FILE", help="write JSON; to results/ by default")
    arguments = parser.parse_args()
    chosen = set(names if arguments.operators == [] else arguments.operators or ())
    if arguments.end_to_end:
        chosen.add("networks")
    results = []
    with tempfile.TemporaryDirectory() as scratch, progress("bench", animate=False) as tell:
        for comparison in comparisons(arguments.shape or (), Path(scratch)):
            if not chosen or comparison.name in chosen:
                measured = rows(comparison, arguments.threads, arguments.rounds, arguments.patience, tell)
                print_comparison(out(), comparison, measured)
                results.append(as_json(comparison, measured))
    if arguments.save is not None:
        rule = {"threads": arguments.threads, "rounds": arguments.rounds, "patience_s": arguments.patience}
        rule |= {"gated": Machine().gated, "idle": IDLE, "disturbed": DISTURBED}
        file = Path(arguments.save) if arguments.save else record.RESULTS / f"{record.slug()}-kernels.json"
        record.save(file, results, peer_versions(), rule=rule)


if __name__ == "__main__":
    main()
