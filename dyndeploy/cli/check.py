"""`dyndeploy check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from dyndeploy.cli._options import BodiesOption, BundleArgument, JsonOption, RuntimeOption
from dyndeploy.cli._render import heading, out, print_json, progress, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from dyndeploy.pipeline.check import CheckResult, RuntimeResult
    from dyndeploy.testing.numeric import Verdict

_STYLES = {"identical": "green", "within noise": "green", "suspicious": "yellow", "broken": "bold red"}


def check(
    bundle: BundleArgument,
    runtime: RuntimeOption = None,
    bodies: BodiesOption = False,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Where a runtime is wrong, swap kernels for bodies until it is right.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare every runtime with the float64 reference, and name the node where one is wrong.

    Exits with 1 when the verdict is bad.
    """
    from dyndeploy.pipeline import check as pipeline

    with progress("check") as tell:
        result = pipeline.check(bundle, runtimes=runtime, bodies=bodies, bisect=bisect, progress=tell)
    if as_json:
        print_json(result)
    else:
        print_check(out(), result)
    raise typer.Exit(result.exit_code)


def print_check(console: Console, result: CheckResult) -> None:
    """The verdict of every runtime at every point, the numbers behind it, and who is to blame."""
    console.print(heading(f"{result.bundle}, {result.precision}: error against the float64 reference"))
    points = {p.point: p.sizes for r in result.runtimes for p in r.points}
    for point, sizes in points.items():
        console.print(f"  {point}: {', '.join(f'{name}={size}' for name, size in sizes.items()) or 'fixed sizes'}")
    for runtime in result.runtimes:
        _print_runtime(console, runtime)
    _print_operators(console, result)
    console.print()
    if result.changed_files:
        console.print(f"changed since the export: {', '.join(result.changed_files)}", style="yellow")
    word = result.verdict.value if result.ok or not result.verdict.ok else "a runtime asked for is not available"
    console.print(Text.assemble("verdict: ", (word, "bold green" if result.ok else "bold red")))


def _print_runtime(console: Console, runtime: RuntimeResult) -> None:
    name = f"\n{runtime.runtime}, {runtime.dtype}: "
    if runtime.verdict is None:
        console.print(Text.assemble((name, "bold"), "not available"))
        console.print(Text(str(runtime.unavailable), style="dim"), soft_wrap=True)
        return
    console.print(Text.assemble((name, "bold"), _word(runtime.verdict)))
    rows = list(_rows(runtime))
    if rows:
        console.print(table(("point", "verdict", "relative L2", "1-cosine", "p99", "max", "at"), rows, text=2))
    for line in _remarks(runtime):
        console.print(f"  {line}", soft_wrap=True)


def _print_operators(console: Console, result: CheckResult) -> None:
    if not result.operators:
        return
    rows = [
        (o.node, o.op_type, _word(o.judgement.verdict), f"{o.kernel.relative_l2:.1e}", f"{o.body.relative_l2:.1e}")
        for o in result.operators
    ]
    console.print(heading("\nnode by node, on the same inputs: relative L2 of the compiled kernel and of the body"))
    console.print(table(("node", "op", "verdict", "kernel", "body"), rows, text=3))


def _rows(runtime: RuntimeResult) -> Iterator[tuple[str | Text, ...]]:
    for point in runtime.points:
        for output in point.outputs:
            label = point.point if len(point.outputs) == 1 else f"{point.point} {output.name}"
            word, error = _word(output.judgement.verdict), output.error
            if error is None:
                yield label, word, "other shape", "", "", "", ""
                continue
            values = (error.relative_l2, 1 - error.cosine, error.p99, error.max)
            yield label, word, *(f"{abs(v):.1e}" for v in values), f"[{','.join(map(str, error.max_index))}]"


def _remarks(runtime: RuntimeResult) -> Iterator[str]:
    if runtime.failure:
        yield runtime.failure
    for point in runtime.points:
        if point.failure:
            yield f"{point.point}: {point.failure}"
    yield from _choices(runtime)
    yield from _bisection(runtime)
    if runtime.guilty:
        guilty, judgement = runtime.guilty, runtime.guilty.judgement
        if judgement.statistic == "digest":
            yield f"guilty: {guilty.node} ({guilty.op_type}): its weights or attributes are not those exported"
            if len(guilty.among) > 1:
                yield f"  and neither are those of {', '.join(n for n in guilty.among if n != guilty.node)}"
            return
        yield (
            f"guilty: {guilty.node} ({guilty.op_type}), "
            f"{judgement.statistic} {judgement.value:.1e}, at most {judgement.limit:.1e} is noise"
        )
        if len(guilty.among) > 1:
            yield f"  or one of those fused with it: {', '.join(n for n in guilty.among if n != guilty.node)}"


def _bisection(runtime: RuntimeResult) -> Iterator[str]:
    found = runtime.bisection
    if found is None:
        return
    if found.guilty:
        kernels = "kernel" if len(found.guilty) == 1 else "kernels"
        yield f"bisect: the {kernels} of {', '.join(found.guilty)}: it passes with the body instead"
    elif found.failure:
        yield f"bisect: bodies do not run: {found.failure}"
    else:
        yield "bisect: it does not pass with all bodies either: no kernel is to blame"
    yield f"  {found.trials} {'model' if found.trials == 1 else 'models'} tried"


def _choices(runtime: RuntimeResult) -> Iterator[str]:
    """Every flip is shown; where there is none, that is said too."""
    choices = [(point.point, choice) for point in runtime.points for choice in point.choices]
    for point, choice in choices:
        if choice.flips:
            yield (
                f"{point}: {choice.node} ({choice.op_type}) decides {choice.flips} of {choice.decisions} "
                f"choices differently; gap {choice.gap:.1e}, up to {choice.margin:.1e} is noise"
            )
    if choices and not any(choice.flips for _, choice in choices):
        yield f"all {sum(choice.decisions for _, choice in choices)} discrete choices are those of float64"


def _word(verdict: Verdict) -> Text:
    return Text(verdict.value, style=_STYLES[verdict.value])
