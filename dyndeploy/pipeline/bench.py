"""Latency per runtime, measured so that no runtime is favoured by when it ran."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from dyndeploy.bundle import Arrays, Bundle
from dyndeploy.errors import DynError, MissingPackageError
from dyndeploy.runtimes import Session, UnavailableError, open_session, runtime_names, with_bodies
from dyndeploy.tensors import Point, seeded_arrays, sizes_at

#: What the measured time contains; printed with every result.
INCLUDED = (
    "host arrays in and host arrays out, copies to and from a device with them",
    "validation of names, dtypes and shapes",
    "one process, one request at a time, each runtime with its default threads",
)
_ROUNDS = 10
#: Before each turn: the threads of the runtime before it spin for a while after its last request.
_PAUSE_S = 0.02

Progress = Callable[[str], None]


@dataclass(frozen=True)
class BenchRow:
    """One runtime.

    Attributes:
        runtime: its name.
        median_ms, p90_ms, p99_ms, min_ms: latency of one request, in milliseconds.
        throughput: samples per second at the median; the first axis of the first input counts the samples.
        speedup: the median of the first runtime divided by this one's; above 1 is faster than the first.
    """

    runtime: str
    median_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    throughput: float
    speedup: float


@dataclass(frozen=True)
class BenchResult:
    """What `bench` measured.

    Attributes:
        bundle: name of the bundle.
        sizes: the size of every dim.
        shapes: input name -> shape of the arrays.
        precision: of the bundle.
        inputs: "goldens" or "seeded": where the values came from.
        iterations, warmup: measured and unmeasured requests per runtime.
        cpus: CPUs that this process may use.
        included: what the time contains.
        rows: one per runtime, in the order asked for.
        skipped: runtime -> why it was left out, when none was asked for by name.
    """

    bundle: str
    sizes: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    precision: str
    inputs: str
    iterations: int
    warmup: int
    cpus: int
    included: tuple[str, ...]
    rows: tuple[BenchRow, ...]
    skipped: dict[str, str]


def bench(
    bundle: Bundle | str | os.PathLike[str],
    runtimes: Sequence[str] | None = None,
    point: Point = "opt",
    *,
    dims: Mapping[str, int] | None = None,
    iterations: int = 100,
    warmup: int = 10,
    bodies: bool = False,
    progress: Progress | None = None,
) -> BenchResult:
    """Measure the latency of a bundle in several runtimes.

    The requests are divided into rounds. In each round every runtime has its turn, another one first each
    time. A turn begins with a pause and a request that is not counted: it pays for the caches that others left.

    Args:
        bundle: a bundle, or its folder.
        runtimes: names of runtimes; those that open here when left out.
        point: "min", "opt" or "max" sizes of the dims.
        dims: sizes that differ from those at `point`.
        iterations: measured requests per runtime.
        warmup: requests per runtime before the first measured one.
        bodies: run our ops by the function bodies in the file where a runtime has kernels as well; without it both ways
            are measured.
        progress: called with a line to show.

    Raises:
        DynError: a runtime asked for is missing, a dim is unknown or out of range, or a count is too small.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if iterations < 1 or warmup < 0:
        raise DynError(f"iterations={iterations}, warmup={warmup}.", fix="iterations >= 1 and warmup >= 0")
    tell = progress or (lambda _line: None)
    sizes = _sizes(opened, point, dims or {})
    inputs, source = _inputs(opened, sizes)
    with ExitStack() as stack:
        names = list(runtimes or runtime_names())
        sessions, skipped = _open(opened, with_bodies(names) if bodies else names, bool(runtimes), stack, tell)
        samples = _measure(sessions, inputs, iterations, warmup, tell)
    first = next(iter(samples.values()))
    count = next(iter(inputs.values())).shape[0] if next(iter(inputs.values())).ndim else 1
    return BenchResult(
        bundle=opened.name,
        sizes=sizes,
        shapes={name: array.shape for name, array in inputs.items()},
        precision=opened.manifest.precision,
        inputs=source,
        iterations=iterations,
        warmup=warmup,
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        included=INCLUDED,
        rows=tuple(_row(name, times, float(np.median(first)), count) for name, times in samples.items()),
        skipped=skipped,
    )


def _sizes(bundle: Bundle, point: Point, override: Mapping[str, int]) -> dict[str, int]:
    dims = bundle.manifest.dims
    for name, size in override.items():
        if name not in dims:
            raise DynError(
                f"{bundle.name} has no dim {name!r}.",
                fix=f"one of {', '.join(dims)}" if dims else "leave it out",
            )
        dims[name].check(name, size)
    return {**sizes_at(dims, point), **override}


def _inputs(bundle: Bundle, sizes: Mapping[str, int]) -> tuple[Arrays, str]:
    """The bundle's own inputs where it has them at these sizes, as they are the realistic ones."""
    manifest = bundle.manifest
    for point in manifest.goldens:
        if sizes_at(manifest.dims, point) == sizes:
            golden, _ = bundle.goldens(point)
            return {spec.name: golden[spec.name].astype(spec.numpy_dtype) for spec in manifest.inputs}, "goldens"
    return seeded_arrays(manifest.inputs, sizes, manifest.seed), "seeded"


def _open(
    bundle: Bundle, runtimes: Sequence[str], asked: bool, stack: ExitStack, tell: Progress
) -> tuple[dict[str, Session], dict[str, str]]:
    sessions: dict[str, Session] = {}
    skipped: dict[str, str] = {}
    for name in runtimes:
        tell(f"open {name}")
        try:
            sessions[name] = stack.enter_context(open_session(bundle, runtime=name))
        except (MissingPackageError, UnavailableError) as error:
            if asked:
                raise
            skipped[name] = error.what
    if not sessions:
        raise DynError(
            f"No runtime can run {bundle.name} here.", why="; ".join(skipped.values()), fix="dyndeploy doctor"
        )
    return sessions, skipped


def _measure(
    sessions: Mapping[str, Session], inputs: Arrays, iterations: int, warmup: int, tell: Progress
) -> dict[str, list[float]]:
    """Milliseconds of every measured request."""
    samples: dict[str, list[float]] = {name: [] for name in sessions}
    for name, session in sessions.items():
        tell(f"warm up {name}")
        for _ in range(warmup):
            session.run(inputs)
    order = list(sessions)
    rounds = min(_ROUNDS, iterations)
    for index in range(rounds):
        tell(f"round {index + 1} of {rounds}")
        share = iterations * (index + 1) // rounds - iterations * index // rounds
        for name in order[index % len(order) :] + order[: index % len(order)]:
            session = sessions[name]
            time.sleep(_PAUSE_S)
            session.run(inputs)
            for _ in range(share):
                start = time.perf_counter()
                session.run(inputs)
                samples[name].append(1000 * (time.perf_counter() - start))
    return samples


def _row(name: str, times: list[float], first: float, count: int) -> BenchRow:
    median, p90, p99 = (float(v) for v in np.percentile(times, [50, 90, 99]))
    return BenchRow(
        runtime=name,
        median_ms=median,
        p90_ms=p90,
        p99_ms=p99,
        min_ms=min(times),
        throughput=1000 * count / median,
        speedup=first / median,
    )
