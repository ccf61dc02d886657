"""`dyndeploy demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dyndeploy.cli._options import JsonOption
from dyndeploy.cli._render import heading, out, pairs, print_json, progress, table
from dyndeploy.cli.bench import print_bench
from dyndeploy.cli.check import print_check

if TYPE_CHECKING:
    from dyndeploy.demo import DemoResult


def demo(
    folder: Annotated[Path, typer.Option(help="Where the bundle is written, as FOLDER/digits.")] = Path("bundles"),
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to train.")] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Train a small network with all five dynamic layers on digits, export it, prove and time it.

    Exits with 1 when a runtime does not agree with PyTorch.
    """
    from dyndeploy.demo import run

    with progress("demo", animate=False) as tell:
        result = run(folder, seconds=seconds, progress=tell)
    if as_json:
        print_json(result)
    else:
        _print(result)
    raise typer.Exit(result.check.exit_code)


def _print(result: DemoResult) -> None:
    console = out()
    training = result.training
    console.print(
        heading("Training"),
        pairs(
            {
                "layers": ", ".join(result.layers),
                "kernels": f"compiled, {result.instructions}",
                "parameters": f"{training.parameters:,}",
                "images": f"{training.images}, {training.batch} a step",
                "steps": f"{training.steps} ({training.epochs:.1f} epochs) in {training.seconds:.0f} s",
                "loss": f"{training.first_loss:.3f} -> {training.last_loss:.3f}",
                "bundle": result.bundle,
            }
        ),
    )
    print_check(console, result.check)
    console.print(
        heading("Accuracy on held-out images, the worst over the batch sizes"),
        table(
            ("runtime", "batch sizes", "right", "accuracy", "other answers than torch"),
            (
                (
                    row.runtime,
                    ", ".join(map(str, row.batches)),
                    f"{row.correct} of {row.images}",
                    f"{100 * row.accuracy:.1f} %",
                    str(row.differ),
                )
                for row in result.accuracy
            ),
            text=2,
        ),
    )
    for latency in result.latency:
        print_bench(console, latency, explain=latency is result.latency[-1])
    console.print(f"\neverything took {result.seconds:.0f} s; next: dyndeploy inspect {result.bundle}", soft_wrap=True)
