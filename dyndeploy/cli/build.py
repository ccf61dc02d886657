"""`dyndeploy build`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dyndeploy.cli._options import BundleArgument, JsonOption, Precision, dims_of
from dyndeploy.cli._render import err, heading, out, pairs, print_json, progress, size, table

if TYPE_CHECKING:
    from rich.console import Console

    from dyndeploy.pipeline.build import BuildResult
    from dyndeploy.tensorrt.process import Monitor, Phase
    from dyndeploy.tensorrt.record import EngineRecord

# As in dyndeploy.tensorrt.vendor, which would bring pydantic into --help; a test compares them.
Target = Literal["tensorrt", "tensorrt-rtx"]
_UNITS = {"": 1, "B": 1, "K": 2**10, "KIB": 2**10, "KB": 10**3, "M": 2**20, "MIB": 2**20, "MB": 10**6}
_UNITS |= {"G": 2**30, "GIB": 2**30, "GB": 10**9}


def build(
    bundle: BundleArgument,
    target: Annotated[
        Target,
        typer.Option("--target", "-t", help="tensorrt: for the GPU of this machine. tensorrt-rtx: needs no GPU."),
    ],
    precision: Annotated[
        Precision | None, typer.Option(help="Cast a float32 bundle's graph. Default: the bundle's own.")
    ] = None,
    plugins: Annotated[
        bool, typer.Option("--plugins/--no-plugins", help="Dynamic ops as plugins, or from their function bodies.")
    ] = True,
    embed_plugins: Annotated[bool, typer.Option("--embed-plugins", help="Put the library into the engine.")] = False,
    inline: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="A node, or an op type, to build from its body; may be repeated."),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="For tensorrt-rtx: ampere, ada, blackwell, turing or 8.6, …, with commas. Default: from ampere on.",
        ),
    ] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MIN:OPT:MAX", help="Sizes within the bundle's; may be repeated."),
    ] = None,
    workspace: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most scratch memory of a layer: 2GiB, 512MiB, bytes.")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="0: quick to build, 5: quick to run. Default: TensorRT's own.")
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="float32 products may round their factors to TF32.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build even if the engine is there.")] = False,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all that TensorRT says to a file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Build an engine of TensorRT or TensorRT for RTX from a bundle, and put it into the bundle."""
    dims, workspace_bytes = dims_of(dim), None if workspace is None else bytes_of(workspace)
    from dyndeploy.pipeline.build import build as pipeline

    with _live("build") as (tell, monitor):
        result = pipeline(
            bundle,
            target,
            precision=precision,
            plugins=plugins,
            embed_plugins=embed_plugins,
            inline=inline or (),
            dims=dims,
            gpus=gpus,
            workspace=workspace_bytes,
            optimization_level=optimization_level,
            tf32=tf32,
            force=force,
            log=log,
            progress=tell,
            monitor=monitor,
        )
    if as_json:
        print_json(result)
    else:
        print_build(out(), result)
        out().print(f"next: dyndeploy inspect {result.bundle}", soft_wrap=True)


def bytes_of(text: str) -> int:
    """2147483648 from "2GiB".

    Raises:
        typer.BadParameter: it is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if not match or match[2].upper() not in _UNITS:
        raise typer.BadParameter(f"{text!r} is not a size, for example 2GiB.", param_hint="--workspace")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def print_build(console: Console, result: BuildResult) -> None:
    """The engine, whether it was there, and what became of the dynamic ops."""
    record = result.record
    facts = [
        ("engine", f"{result.engine}, {size(record.bytes)}"),
        ("cache", "hit" if result.hit else f"miss: {result.reason}; built in {record.seconds:.1f} s"),
        *engine_facts(record),
    ]
    if result.changes:
        facts.insert(2, ("graph", ", ".join(result.changes)))
    console.print(heading(f"{Path(result.bundle).name}, {record.precision}, for {record.target}"), pairs(facts))
    if record.ops:
        console.print(heading("Dynamic ops"), ops_table(record))
    for warning in result.warnings:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)


def engine_facts(record: EngineRecord) -> Iterator[tuple[str, str]]:
    """What a record says beside its ops."""
    yield "built by", f"{record.runtime}, for {', '.join(map(str, record.gpus))}"
    for name, dim in record.dims.items():
        yield "dim", f"{name}: min {dim.min}, opt {dim.opt}, max {dim.max}"
    if record.plugin_sha256:
        where = "inside the engine" if record.plugins_embedded else "beside it"
        yield "plugins", f"library {record.plugin_sha256[7:19]}, {where}"


def ops_table(record: EngineRecord) -> object:
    """A row for each dynamic node."""
    return table(
        ("node", "op", "became", "dtype", "format", "layers"),
        (
            (op.name, op.type, "plugin" if op.how == "plugin" else "body", op.dtype, op.format or "", str(op.layers))
            for op in record.ops
        ),
        text=5,
    )


@contextmanager
def _live(title: str) -> Iterator[tuple[Callable[[str], None], Monitor]]:
    """What is being done, and the vendor's phases: a bar on a terminal, else a line for each of the larger ones."""
    console = err()
    if not console.is_terminal:
        with progress(title) as tell:
            yield tell, _lines(tell)
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as display:
        task = display.add_task(title, total=None)

        def tell(step: str) -> None:
            display.update(task, description=f"{title}: {step}", total=None)

        def monitor(phases: tuple[Phase, ...]) -> None:
            if phases:
                description = f"{title}: {phases[-1].name[:40]}"
                display.update(task, description=description, total=1.0, completed=_share(phases))

        yield tell, monitor


def _share(phases: Iterable[Phase]) -> float:
    """How much of the outermost phase is done, where an inner phase is a part of one step of the one around it."""
    share, weight = 0.0, 1.0
    for phase in phases:
        if phase.total:
            share += weight * phase.done / phase.total
            weight /= phase.total
    return min(share, 1.0)


def _lines(tell: Callable[[str], None]) -> Monitor:
    told: set[str] = set()

    def monitor(phases: tuple[Phase, ...]) -> None:
        for phase in phases[1:2]:
            if phase.name not in told:
                told.add(phase.name)
                tell(phase.name)

    return monitor
