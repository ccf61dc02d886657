"""`dyndeploy demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dyndeploy.cli._options import JsonOption
from dyndeploy.cli._render import heading, out, pairs, print_json, progress, size, table
from dyndeploy.cli.bench import print_bench
from dyndeploy.cli.check import print_check

if TYPE_CHECKING:
    from rich.console import Console

    from dyndeploy.demo import DemoResult
    from dyndeploy.tensorrt.record import EngineOp


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
    _print_engines(console, result)
    console.print(f"\neverything took {result.seconds:.0f} s; next: dyndeploy inspect {result.bundle}", soft_wrap=True)


def _print_engines(console: Console, result: DemoResult) -> None:
    """Each engine, and what became of the dynamic ops in it: a plugin, or so many layers of TensorRT."""
    if result.engines:
        built = [*result.engines.values()]
        console.print(
            heading(f"Engines of {built[0].record.runtime}, built without a GPU"),
            table(
                ("engine", "for", "size", "seconds"),
                (
                    (way, ", ".join(map(str, b.record.gpus)), size(b.record.bytes), f"{b.record.seconds:.1f}")
                    for way, b in result.engines.items()
                ),
                text=2,
            ),
            heading("What became of the dynamic ops"),
            table(
                ("node", "op", *result.engines),
                (
                    (ops[0].name, ops[0].type, *(_became(op) for op in ops))
                    for ops in zip(*(b.record.ops for b in built))
                ),
                text=2 + len(built),
            ),
        )
    if result.no_engines:
        console.print(heading("Engines left out"), result.no_engines, soft_wrap=True)


def _became(op: EngineOp) -> str:
    return "plugin" if op.how == "plugin" else f"{op.layers} layers"
