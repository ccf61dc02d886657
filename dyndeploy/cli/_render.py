"""How results look: text and tables that fit 80 columns, JSON, progress, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from dyndeploy.errors import DynError


def out() -> Console:
    """Where results go."""
    return Console(highlight=False, markup=False)


def err() -> Console:
    """Where everything else goes."""
    return Console(stderr=True, highlight=False, markup=False)


def print_json(result: Any) -> None:
    """A dataclass or pydantic model as JSON, valid even where a number is not finite."""
    from pydantic_core import to_json

    typer.echo(to_json(result, indent=2, inf_nan_mode="null").decode())


def print_error(error: DynError) -> None:
    """What, why and fix, without a traceback."""
    console = err()
    console.print(Text.assemble(("error: ", "bold red"), error.what), soft_wrap=True)
    for label, text in (("why", error.why), ("fix", error.fix)):
        if text:
            console.print(Text.assemble((f"  {label}: ", "bold"), text), soft_wrap=True)


@contextmanager
def progress(title: str, *, animate: bool = True) -> Iterator[Callable[[str], None]]:
    """A function to be called with what is being done: a spinner on a terminal, else a line for each.

    Args:
        title: stands before each.
        animate: turn the spinner by a thread of its own; not where time is measured, as it would take part in it.
    """
    console = err()
    if not console.is_terminal:
        yield lambda phase: console.print(f"{title}: {phase}", soft_wrap=True)
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=animate) as display:
        task = display.add_task(title, total=None)
        yield lambda phase: display.update(task, description=f"{title}: {phase}", refresh=True)


def heading(text: str) -> Text:
    """The title of a section."""
    return Text(f"\n{text}", style="bold")


def pairs(values: Mapping[str, str] | Iterable[tuple[str, str]]) -> Table:
    """Names and values, one pair a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items() if isinstance(values, Mapping) else values:
        table.add_row(Text(f"  {name}"), Text(value))
    return table


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, text: int = 1) -> Table:
    """A table: the first `text` columns are words, the others numbers."""
    result = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    for index, column in enumerate(columns):
        result.add_column(column, justify="left" if index < text else "right", overflow="fold")
    for row in rows:
        result.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return result


def number(value: float, digits: int = 3) -> str:
    """Rounded to significant digits, without an exponent for what is neither tiny nor huge.

    Example:
        >>> number(0.12345), number(1234.5), number(1.5e-9)
        ('0.123', '1234', '1.5e-09')
    """
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}g}"
    decimals = max(0, digits - len(str(int(abs(value)))) + (abs(value) < 1))
    return f"{value:.{decimals}f}"


def size(count: int) -> str:
    """Bytes in a unit for people.

    Example:
        >>> size(512), size(123_456)
        ('512 B', '123.5 kB')
    """
    amount, unit = _in_unit(count)
    return f"{amount:.1f} {unit}B" if unit else f"{count} B"


def count(amount: int) -> str:
    """A large number of things, to four digits.

    Example:
        >>> count(512), count(16_843_748), count(2_266_834_432)
        ('512', '16.84 M', '2.267 G')
    """
    scaled, unit = _in_unit(amount)
    return f"{scaled:#.4g} {unit}" if unit else str(amount)


def _in_unit(amount: float) -> tuple[float, str]:
    unit = ""
    for larger in ("k", "M", "G"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return amount, unit
