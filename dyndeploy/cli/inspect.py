"""`dyndeploy inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dyndeploy.cli._options import JsonOption
from dyndeploy.cli._render import heading, out, pairs, print_json, size, table
from dyndeploy.cli.build import engine_facts, ops_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import Console

    from dyndeploy.pipeline.inspect import CustomNode, CustomOp, EngineReport, Inspection


def inspect(
    target: Annotated[
        Path, typer.Argument(metavar="BUNDLE_OR_ONNX", help="A bundle or an ONNX file.", show_default=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle or an ONNX file consists of, and which runtime runs which op how."""
    from dyndeploy.pipeline.inspect import inspect as look_into

    inspection = look_into(target)
    if as_json:
        print_json(inspection)
    else:
        _print(inspection)


def _print(found: Inspection) -> None:
    console = out()
    console.print(heading(found.name), pairs(_summary(found)))
    if found.nodes:
        console.print(
            heading("Dynamic ops"),
            table(("node", "what it does"), ((n.name, _node(n)) for n in found.nodes), text=2),
            heading("Who runs them, and how"),
            table(("op", "runtime", "how"), _executions(found.ops), text=3),
        )
    for engine in found.engines:
        _print_engine(console, engine)
    console.print(
        heading("Files"),
        table(
            ("file", "state", "size"),
            (
                (f.name, {None: "", False: "as exported", True: "CHANGED"}[f.changed], size(f.bytes))
                for f in found.files
            ),
            text=2,
        ),
    )


def _print_engine(console: Console, engine: EngineReport) -> None:
    console.print(heading(f"Engine for {engine.target}"))
    record = engine.record
    if record:
        facts = [("file", f"{record.file}, {size(record.bytes)}"), ("precision", record.precision)]
        console.print(pairs([*facts, *engine_facts(record)]))
        if record.ops:
            console.print(ops_table(record))
    if engine.problem:
        console.print(f"  problem: {engine.problem}", style="bold red", soft_wrap=True)


def _summary(found: Inspection) -> Iterator[tuple[str, str]]:
    if found.precision:
        yield "precision", f"{found.precision}, inputs and outputs {found.io_precision}, body {found.body}"
    for kind, tensors in (("input", found.inputs), ("output", found.outputs)):
        for tensor in tensors:
            low_high = f", {tensor.range[0]:g} to {tensor.range[1]:g}" if tensor.range else ""
            yield kind, f"{tensor}{low_high}"
    for name, dim in found.dims.items():
        multiple = f", multiples of {dim.multiple}" if dim.multiple > 1 else ""
        yield "dim", f"{name}: min {dim.min}, opt {dim.opt}, max {dim.max}{multiple}"
    parameters = found.parameters
    by_dtype = _listed(f"{count:,} {dtype}" for dtype, count in parameters.by_dtype.items())
    yield "parameters", f"{by_dtype or 'none'} ({size(parameters.bytes)})"
    if found.kept_fp32:
        yield "stayed fp32", _listed(found.kept_fp32)
    yield "nodes", _listed(f"{op} {count}" for op, count in _counts(found).items())
    yield "ops needed", _listed(found.required)
    yield "opsets", _listed(f"{domain} {version}" for domain, version in found.opsets.items())
    yield (
        "written by",
        _listed(f"{name} {version}" for name, version in found.versions.items()) or found.producer,
    )
    if found.bundle:
        yield "goldens", _listed(found.goldens)


def _counts(found: Inspection) -> Mapping[str, int]:
    dynamic = {op.type: sum(node.type == op.type for node in found.nodes) for op in found.ops}
    return {**dynamic, **found.standard}


def _node(node: CustomNode) -> str:
    inputs = ", ".join(f"{name} {_shape(shape)}" for name, shape in node.inputs.items())
    attributes = " ".join(f"{name}={_value(value)}" for name, value in node.attributes.items())
    return f"{node.type}, {node.dtype}\n{inputs} -> {_shape(node.output)}\n{attributes}"


def _executions(ops: Sequence[CustomOp]) -> Iterator[tuple[str, str, str]]:
    """Runtimes that do the same share a row."""
    for op in ops:
        by_how: dict[str, list[str]] = {}
        for execution in op.executions:
            by_how.setdefault(str(execution), []).append(execution.runtime)
        for index, (how, runtimes) in enumerate(by_how.items()):
            yield op.type if index == 0 else "", "\n".join(runtimes), how


def _shape(shape: Iterable[int | str]) -> str:
    return f"[{_listed(map(str, shape))}]"


def _value(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, (list, tuple)) else f"{value:g}"


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items)
