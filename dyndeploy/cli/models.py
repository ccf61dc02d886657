"""`dyndeploy models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dyndeploy.cli._options import JsonOption
from dyndeploy.cli._render import count, heading, out, print_json, progress, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dyndeploy.pipeline.models import ModelRow


def models(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Names to list, shell-style: 'scnet*'. Default: all.")
    ] = "*",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/networks.md.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the papers' networks: parameters and multiply-accumulates, ours beside those published."""
    from dyndeploy.pipeline import models as pipeline

    with progress("models") as tell:
        rows = pipeline.models(pattern, progress=tell)
    if as_json:
        print_json(rows)
    elif markdown:
        typer.echo(_markdown(rows))
    else:
        _print(rows)


def _print(rows: Sequence[ModelRow]) -> None:
    console = out()
    notes = _notes(rows)
    console.print(
        heading("Parameters and multiply-accumulates (MACs), ours and those published"),
        table(
            ("network", "params", "publ.", "%", "MACs", "publ.", "%", ""),
            (
                (
                    row.name,
                    _short(f"{row.parameters:,}"),
                    _short(row.published.parameters),
                    _percent(row.parameters_difference),
                    _short(f"{row.macs:,}"),
                    _short(row.published.macs),
                    _percent(row.macs_difference),
                    f"[{notes.index(row.published.note) + 1}]" if row.published.note else "",
                )
                for row in rows
            ),
        ),
    )
    for number, note in enumerate(notes, start=1):
        console.print(f"[{number}] {note}")
    console.print("Exact figures, those of the generators and all sources: --json or --markdown.", style="dim")


def _markdown(rows: Sequence[ModelRow]) -> str:
    notes = _notes(rows)
    lines = [
        "| network | input | parameters | published | off by | MACs | in generators | published | off by | source |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        cells = (
            f"`{row.name}`",
            ", ".join("x".join(map(str, shape[1:])) for shape in row.input_shapes),
            f"{row.parameters:,}",
            row.published.parameters or "",
            _percent(row.parameters_difference, " %"),
            f"{row.macs:,}",
            f"{row.generator:,}",
            row.published.macs or "",
            _percent(row.macs_difference, " %"),
            row.published.source + (f" [{notes.index(row.published.note) + 1}]" if row.published.note else ""),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join((*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, start=1))))


def _notes(rows: Iterable[ModelRow]) -> list[str]:
    """Every note once, in the order of the rows."""
    return list(dict.fromkeys(row.published.note for row in rows if row.published.note))


def _short(figure: str | None) -> str:
    """A figure in at most six characters: "26,428,295" becomes "26.43M", and "2.298 G" loses its space."""
    digits = (figure or "").replace(",", "")
    return (count(int(digits)) if digits.isdecimal() else digits).replace(" ", "")


def _percent(difference: float | None, unit: str = "") -> str:
    return "" if difference is None else f"{difference:+.1f}{unit}".replace("-0.0", "0.0").replace("+0.0", "0.0")
