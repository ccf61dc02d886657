"""The CUDA kernels against everything else that computes the same, against plain convolutions, copies and the roofline.

    python benchmarks/gpu_kernels.py
    python benchmarks/gpu_kernels.py --operators dcnv2 --shape 8x256x50x84 --rounds 5
    python benchmarks/gpu_kernels.py --save

gpu_gate.py has the measuring rule, problems.py the inputs, gpu_peers.py the engines, roofline.py what is possible,
compare.py the tables; here is what is compared with what, and by which bar it is judged. Before anything is timed,
every engine's output is compared with the reference: a wrong one stops the run. An engine that is not installed is left
out, and a line says so. With --save the result is also written to benchmarks/results/, as numbers and as a plot.

Without a GPU it says so and ends with exit code 2.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import record
from compare import Bar, Comparison, Row, as_json, print_comparison, print_times
from gate import LeftOutError, Timing, Worker
from problems import CLASSIFICATION, DETECTION, Problem, is_detection, shape_of
from roofline import Peaks, least_us, peaks

from dyndeploy.cli._render import number, out, progress

FIRST, LAST = "ours, NCHW", "ours, channels_last"
FIRST_TF32, LAST_TF32 = "ours with TF32, NCHW", "ours with TF32, channels_last"
UP_FIRST, UP_LAST = "4 calls of ours, NCHW", "4 calls of ours, channels_last"
CONV_FIRST, CONV_LAST, CONV_TF32 = (
    "conv2d of torch, NCHW",
    "conv2d of torch, channels_last",
    "conv2d of torch with TF32, channels_last",
)
SHIFTS = ("compiled shifts, NCHW", "compiled shifts, channels_last")
SELECT, GROUPED, MASKED = "all regions, then select", "sorted rows, grouped product", "official masked form"
STEP, STEP_LAST = "step of ours, NCHW", "step of ours, channels_last"
COMPOSED = ("step of the composition, NCHW", "step of the composition, channels_last")
VISION, VISION_TF32 = "torchvision", "torchvision with TF32"
COPY, BULK, ELEMENT = "copy of X", "copy of 512 MiB", "copy of one element"

#: Way of calling -> words for it.
WAYS = {
    "replayed": ", replayed as a CUDA graph",
    "cold": ", replayed with a cold L2 cache",
    "launched": ", launched from Python",
}
#: Characters that the tables need.
WIDTH = 200
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class GpuRow(Row):
    """`times` are those of replays, `otherwise` those of launches.

    Attributes:
        cold: engine -> time of a replay with a cold L2 cache.
        errors: engine -> relative error.
        refusals: engine -> why it was not captured.
    """

    cold: Mapping[str, Timing] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)


def comparisons(shapes: Sequence[Shape], limits: Peaks) -> list[Comparison]:
    """All tables.

    Args:
        shapes: of X, instead of the usual ones.
        limits: of the GPU.
    """

    def problems(operator: str, usual: Sequence[Shape], **more: Any) -> tuple[Problem, ...]:
        return tuple(Problem(operator, shape, **more) for shape in shapes or usual)

    def batches(images: Sequence[Shape], *counts: int) -> list[Shape]:
        return [(n, *image[1:]) for image, n in itertools.product(images, counts)]

    ours = {"ours cl": (LAST,), "ours": (FIRST,)}
    floor = {"floor": (ELEMENT,)}
    table = functools.partial(Comparison, unit="us", notes=_notes(limits))
    maps = [*batches(CLASSIFICATION, 1, 8, 32), *batches(DETECTION, 1, 8)]
    return [
        table(
            "dcnv2",
            "dcnv2, float16, offsets of 2 px",
            problems("dcnv2", maps, dtype="float16"),
            {**ours, "torchvision": (VISION,), "conv cl": (CONV_LAST,), **floor},
            {
                **_against_torchvision(", cl", LAST),
                **_against_torchvision("", FIRST),
                "of conv, cl, C < 256": Bar(LAST, (CONV_LAST,), 2.5, at_most=True, where=_is_narrow, elsewhere=False),
                "of conv, cl, C >= 256": Bar(LAST, (CONV_LAST,), 1.8, at_most=True, where=_is_wide, elsewhere=False),
            },
            "GFLOP/s",
        ),
        table(
            "dcnv2",
            "dcnv2, float16, offsets of 0.5 and 8 px",
            tuple(p for px in (0.5, 8.0) for p in problems("dcnv2", DETECTION, dtype="float16", offsets_px=px)),
            {**ours, "torchvision": (VISION,)},
            {"torchvision, cl": Bar(LAST, (VISION,), 4), "torchvision": Bar(FIRST, (VISION,), 4)},
            "GFLOP/s",
        ),
        table(
            "dcnv2",
            "dcnv2, float32",
            problems("dcnv2", [*batches(CLASSIFICATION, 8), *batches(DETECTION, 1, 8)]),
            {
                **ours,
                "TF32": (FIRST_TF32,),
                "TF32 cl": (LAST_TF32,),
                "torchvision": (VISION,),
                "its TF32": (VISION_TF32,),
                "conv cl": (CONV_LAST,),
                "conv TF32": (CONV_TF32,),
            },
            {
                "torchvision, cl": Bar(LAST, (VISION,), 1.5),
                "torchvision": Bar(FIRST, (VISION,), 1.5),
                "TF32, cl": Bar(LAST_TF32, (VISION_TF32,), 3),
                "TF32": Bar(FIRST_TF32, (VISION_TF32,), 3),
            },
            "GFLOP/s",
        ),
        *(
            table(
                "ddf",
                f"ddf, {dtype}",
                problems("ddf", usual, dtype=dtype),
                {
                    **ours,
                    "compiled": SHIFTS,
                    "depthwise": (CONV_FIRST, CONV_LAST),
                    "unfold": ("unfold",),
                    "copy": (COPY,),
                    "bulk copy": (BULK,),
                    **floor,
                },
                {
                    "compiled, cl": Bar(LAST, SHIFTS, 1.5),
                    "compiled": Bar(FIRST, SHIFTS, 1.5),
                    "of depthwise, cl": Bar(LAST, (CONV_FIRST, CONV_LAST), 1.2, at_most=True),
                    "unfold, cl": Bar(LAST, ("unfold",), 20),
                    "bandwidth of copy, cl": Bar(LAST, (BULK,), 0.7, bandwidth=True, where=_is_large),
                    "bandwidth of copy": Bar(FIRST, (BULK,), 0.7, bandwidth=True, where=_is_large),
                },
                "GB/s",
            )
            for dtype, usual in (
                ("float16", [*batches(CLASSIFICATION, 1, 8, 32), *batches(DETECTION, 1, 8, 32)]),
                ("float32", [*batches(CLASSIFICATION, 8), *batches(DETECTION, 8, 32)]),
            )
        ),
        table(
            "ddf-up",
            "ddf-up, scale 2, float16",
            problems("ddf", batches([(1, 256, 50, 84), (1, 256, 100, 167)], 1, 8), dtype="float16", scale=2),
            {**ours, "4 calls": (UP_FIRST,), "4 calls cl": (UP_LAST,), "bulk copy": (BULK,), **floor},
            {
                "4 calls, cl": Bar(LAST, (UP_LAST,), 3),
                "4 calls": Bar(FIRST, (UP_FIRST,), 3),
                "bandwidth of copy, cl": Bar(LAST, (BULK,), 0.65, bandwidth=True, where=_is_large),
                "bandwidth of copy": Bar(FIRST, (BULK,), 0.65, bandwidth=True, where=_is_large),
            },
            "GB/s",
        ),
        *(
            table(
                "drconv",
                f"drconv, 8 regions, {dtype}",
                problems("drconv", usual, dtype=dtype, coherent=True),
                {**ours, "select": (SELECT,), "grouped": (GROUPED,), "conv": (CONV_FIRST, CONV_LAST), **floor},
                {
                    "select, cl": Bar(LAST, (SELECT,), 3, where=is_detection),
                    "select": Bar(FIRST, (SELECT,), 3, where=is_detection),
                    "grouped, cl": Bar(LAST, (GROUPED,), 1),
                    "of conv, cl": Bar(LAST, (CONV_FIRST, CONV_LAST), 1.6, at_most=True, where=is_detection),
                },
                "GFLOP/s",
            )
            for dtype, usual in (("float16", maps), ("bfloat16", batches(DETECTION, 1, 8)))
        ),
        table(
            "dgc",
            "dgc, 4 heads, a quarter of the channels kept, float16",
            problems("dgc", maps, dtype="float16"),
            {**ours, "masked": (MASKED,), "conv": (CONV_FIRST, CONV_LAST), **floor},
            {
                "of conv, cl": Bar(LAST, (CONV_FIRST, CONV_LAST), 0.6, at_most=True, where=_is_full),
                "masked, cl": Bar(LAST, (MASKED,), 4, where=_is_full),
                "masked": Bar(FIRST, (MASKED,), 4, where=_is_full),
            },
            "GFLOP/s",
        ),
        *(
            table(
                "step",
                f"training step of {operator}, {dtype}: forward, and the gradients of all inputs",
                problems(operator, batches([*CLASSIFICATION[:2], DETECTION[1]], 8), dtype=dtype),
                {"ours cl": (STEP_LAST,), "ours": (STEP,), "composition": COMPOSED},
                {"composition, cl": Bar(STEP_LAST, COMPOSED, 1), "composition": Bar(STEP, COMPOSED, 1)},
            )
            for operator in ("dcnv2", "ddf", "drconv", "dgc")
            for dtype in ("float16", "float32")
        ),
    ]


def _against_torchvision(layout: str, ours: str) -> dict[str, Bar]:
    """Of it is demanded most where launches count least."""
    where: dict[str, tuple[float, Callable[[Any], bool]]] = {
        "large": (4, is_detection),
        "N >= 8": (3, lambda item: not is_detection(item) and item.shape[0] >= 8),
        "N < 8": (2, lambda item: not is_detection(item) and item.shape[0] < 8),
    }
    return {
        f"torchvision{layout}, {name}": Bar(ours, (VISION,), factor, where=holds, elsewhere=False)
        for name, (factor, holds) in where.items()
    }


def _is_narrow(item: Any) -> bool:
    return item.shape[1] < 256


def _is_wide(item: Any) -> bool:
    return not _is_narrow(item)


def _is_full(item: Any) -> bool:
    """A batch of maps as large as in detection."""
    return is_detection(item) and item.shape[0] >= 8


def _is_large(item: Any) -> bool:
    """What does not fit into any L2 cache: more than four times the 50 MB of an H200."""
    return item.work("operator")[1] > 200_000_000


def _notes(limits: Peaks) -> dict[str, Callable[[Row], str]]:
    def least(row: Row) -> str:
        bound = least_us(row.item, limits)
        return "unknown" if bound is None else number(bound)

    def share(row: Row) -> str:
        bound = least_us(row.item, limits)
        times = [1000 * timing.median_ms for name, timing in row.times.items() if name in (FIRST, LAST)]
        return number(min(times) / bound) if times and bound else "-"

    return {"roofline us": least, "of roofline": share}


def rows(
    comparison: Comparison, rounds: int, tell: Callable[[str], None], make: Callable[..., Worker] = Worker
) -> list[GpuRow]:
    """Measure a table.

    Args:
        comparison: the table.
        rounds: turns of every engine.
        tell: called with what is measured.
        make: of what can prepare an engine and take its turns, a worker.

    Raises:
        RuntimeError: an engine fails, or does not compute the same as the reference.
    """
    import gpu_gate
    import gpu_peers

    workers = {name: make(gpu_peers.prepare, gpu_gate.take_turn) for name in comparison.engines}
    found = []
    try:
        for item in comparison.items:
            tell(f"{comparison.title} {item}")
            for name, worker in workers.items():
                worker.give(name, item)
            answers, left_out = ready(item, workers)
            times = gpu_gate.measure({name: workers[name].turn for name in answers}, rounds)
            found.append(
                GpuRow(
                    item,
                    times["replayed"],
                    left_out,
                    {name: gpu_peers.ENGINES[name].work(item) for name in answers},
                    otherwise=times["launched"],
                    cold=times["cold"],
                    errors={name: answer.error for name, answer in answers.items()},
                    refusals={name: answer.refusal for name, answer in answers.items() if answer.refusal},
                )
            )
    finally:
        for worker in workers.values():
            worker.close()
    return found


def ready(item: Problem, workers: Mapping[str, Worker]) -> tuple[dict[str, Any], dict[str, str]]:
    """What the workers say whose output is right, and why the others are left out."""
    answers, left_out = {}, {}
    for name, worker in workers.items():
        try:
            answer = worker.answer()
        except LeftOutError as reason:
            left_out[name] = str(reason)
            continue
        if not answer.error <= answer.limit:
            raise RuntimeError(f"{name} at {item}: relative error {answer.error:.1e}; it computes something else.")
        answers[name] = answer
    return answers, left_out


def print_rows(comparison: Comparison, measured: Sequence[GpuRow]) -> None:
    """All that is known of a table: three ways of calling, the ratios, the bars, what is special about engines."""
    console = out()
    console.width = max(console.width, WIDTH)
    print_comparison(console, replace(comparison, title=comparison.title + WAYS["replayed"]), measured)
    for way, attribute in (("cold", "cold"), ("launched", "otherwise")):
        print_times(console, comparison, [replace(row, times=getattr(row, attribute)) for row in measured], WAYS[way])
    for line in remarks(measured):
        console.print(line, style="dim", soft_wrap=True)


def remarks(measured: Sequence[GpuRow]) -> list[str]:
    """Who was only launched, and by how much every engine errs at most."""
    refused = {name: reason for row in measured for name, reason in row.refusals.items()}
    lines = [f"{name} {reason}: bars compare launches with it" for name, reason in refused.items()]
    worst: dict[str, float] = {}
    for name, error in (pair for row in measured for pair in row.errors.items()):
        worst[name] = max(error, worst.get(name, 0))
    errors = "; ".join(f"{name} {error:.1e}" for name, error in worst.items() if error > 0)
    return [*lines, f"largest relative errors to float32: {errors}"] if errors else lines


def record_of(comparison: Comparison, measured: Sequence[GpuRow], limits: Peaks) -> dict[str, Any]:
    """One table for the record."""
    table: dict[str, Any] = as_json(comparison, measured)
    for entry, row in zip(table["rows"], measured):
        entry["roofline_us"] = least_us(row.item, limits)
        entry["cold"] = {name: dataclasses.asdict(timing) for name, timing in row.cold.items()}
        entry["launched"] = {name: dataclasses.asdict(timing) for name, timing in row.otherwise.items()}
        entry["errors"], entry["not_captured"] = dict(row.errors), dict(row.refusals)
    return {**table, "unit": comparison.unit, "columns": {k: list(v) for k, v in comparison.columns.items()}}


def rule(rounds: int) -> dict[str, Any]:
    """The settings of the measuring rule, for the record."""
    import gpu_gate

    names = ("WARM_MS", "LASTING_MS", "MOST_CALLS", "FEWEST_CALLS", "TIMES", "COLD_TIMES", "FLUSH")
    return {"rounds": rounds, **{name.lower(): getattr(gpu_gate, name) for name in names}}


def save(file: Path, results: Sequence[dict[str, Any]], gpu: Mapping[str, Any], rounds: int) -> None:
    """Write the numbers, and beside them the plot."""
    versions = {}
    for name in ("torchvision", "triton"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    record.save(file, results, versions, gpu=dict(gpu), rule=rule(rounds))
    try:
        import plot
    except ModuleNotFoundError as error:
        print(f"no plot: {error.name} is not installed: pip install {error.name}")
        return
    plot.save(file.with_suffix(".png"), results, str(gpu["name"]))


def gpu_of(properties: Any) -> dict[str, Any]:
    """What is kept of the GPU."""
    import torch

    names = ("name", "major", "minor", "multi_processor_count", "total_memory", "L2_cache_size", "clock_rate")
    found = {name: getattr(properties, name) for name in names if hasattr(properties, name)}
    return {**found, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def other_processes() -> int | None:
    """How many processes use GPUs here, before this one does; None where nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return len(done.stdout.split())


def main() -> int:
    names = list(dict.fromkeys(c.name for c in comparisons((), Peaks(None, None, None, None))))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operators", nargs="*", choices=names, help="these; without names all of them")
    parser.add_argument("--shape", action="append", type=shape_of, metavar="NxCxHxW", help="of X, not the usual ones")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every engine")
    parser.add_argument(
        "--save", nargs="?", const="", metavar="FILE", help="write JSON and a plot; to results/ by default"
    )
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("torch sees no GPU here: there is nothing to measure.", file=sys.stderr)
        return 2
    others = other_processes()
    properties = torch.cuda.get_device_properties(0)
    limits = peaks(properties)
    results = []
    with progress("bench", animate=False) as tell:
        for comparison in comparisons(arguments.shape or (), limits):
            if not arguments.operators or comparison.name in arguments.operators:
                measured = rows(comparison, arguments.rounds, tell)
                print_rows(comparison, measured)
                results.append(record_of(comparison, measured, limits))
    if others:
        print(f"{others} other processes used a GPU of this machine: do not rely on these numbers")
    if arguments.save is not None:
        slug = re.sub(r"[^a-z0-9]+", "-", properties.name.lower()).strip("-")
        file = Path(arguments.save) if arguments.save else record.RESULTS / f"{slug}-kernels.json"
        save(file, results, {**gpu_of(properties), "other_processes": others}, arguments.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
