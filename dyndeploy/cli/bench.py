"""`dyndeploy bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dyndeploy.cli._options import BodiesOption, BundleArgument, JsonOption, Point, RuntimeOption, dims_of
from dyndeploy.cli._render import heading, number, out, print_json, progress, table

if TYPE_CHECKING:
    from rich.console import Console

    from dyndeploy.pipeline.bench import BenchResult


def bench(
    bundle: BundleArgument,
    runtime: RuntimeOption = None,
    point: Annotated[Point, typer.Option(help="Sizes of the dims.")] = "opt",
    dim: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SIZE", help="A size that differs from those at the point; may be repeated."),
    ] = None,
    iterations: Annotated[int, typer.Option(min=1, help="Measured requests per runtime.")] = 100,
    warmup: Annotated[int, typer.Option(min=0, help="Requests per runtime before these.")] = 10,
    bodies: BodiesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the latency of a bundle per runtime; the runtimes take turns."""
    sizes = {}
    for name, value in dims_of(dim).items():
        if not value.isdecimal():
            raise typer.BadParameter(f"{name}={value} is not one size.", param_hint="--dim")
        sizes[name] = int(value)
    from dyndeploy.pipeline import bench as pipeline

    with progress("bench", animate=False) as tell:
        result = pipeline.bench(
            bundle, runtime, point, dims=sizes, iterations=iterations, warmup=warmup, bodies=bodies, progress=tell
        )
    if as_json:
        print_json(result)
    else:
        print_bench(out(), result)


def print_bench(console: Console, result: BenchResult, *, explain: bool = True) -> None:
    """The table of one result and, unless `explain` is false, what its times include."""
    sizes = ", ".join(f"{name}={size}" for name, size in result.sizes.items())
    console.print(
        heading(f"{result.bundle}, {result.precision}{', ' if sizes else ''}{sizes}: latency of one request in ms"),
        table(
            ("runtime", "median", "p90", "p99", "min", "samples/s", "speed"),
            (
                (
                    row.runtime,
                    *(number(ms) for ms in (row.median_ms, row.p90_ms, row.p99_ms, row.min_ms)),
                    number(row.throughput),
                    f"{row.speedup:.2f}x",
                )
                for row in result.rows
            ),
        ),
    )
    for name, reason in result.skipped.items():
        console.print(f"left out: {name}: {reason}", style="dim")
    console.print(f"{result.iterations} requests each on {result.cpus} CPUs, {result.inputs} inputs.")
    if explain:
        console.print("Each time includes:")
        for line in result.included:
            console.print(f"  {line}")
