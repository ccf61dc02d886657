"""`dyndeploy doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.text import Text

from dyndeploy.cli._options import JsonOption
from dyndeploy.cli._render import heading, out, pairs, print_json, progress, table

if TYPE_CHECKING:
    from dyndeploy.pipeline.doctor import Diagnosis
    from dyndeploy.pipeline.environment import Library, Package


def doctor(as_json: JsonOption = False) -> None:
    """Show what is installed and works here, and a fixing command for each problem.

    Exits with 1 when something that is installed is broken.
    """
    from dyndeploy.pipeline import doctor as pipeline

    with progress("doctor") as tell:
        diagnosis = pipeline.doctor(tell)
    if as_json:
        print_json(diagnosis)
    else:
        _print(diagnosis)
    raise typer.Exit(0 if diagnosis.ok else 1)


def _print(diagnosis: Diagnosis) -> None:
    console = out()
    for title, values in (
        ("System", diagnosis.system),
        ("GPU", diagnosis.gpu),
        ("Compilers", diagnosis.tools),
        ("Libraries of dyndeploy", {library.name: _library(library) for library in diagnosis.libraries}),
    ):
        console.print(heading(title), pairs(values))
    console.print(
        heading("Packages"),
        table(("package", "version", "state"), map(_package, diagnosis.packages), text=3),
    )
    console.print(heading("Problems" if diagnosis.problems else "No problems."))
    for problem in diagnosis.problems:
        style, word = ("bold red", "broken") if problem.breaks else ("yellow", "to do")
        console.print(Text.assemble((f"  {word}: ", style), problem.what), soft_wrap=True)
        console.print(Text.assemble(("     fix: ", "bold"), problem.fix), soft_wrap=True)


def _library(library: Library) -> str:
    return f"{library.path or 'missing'}{f' ({library.detail})' if library.detail else ''}"


def _package(package: Package) -> tuple[Text | str, ...]:
    if package.version is None:
        return (
            Text(package.name, style="dim"),
            "",
            Text(f"not installed (extra: {package.extra})", style="dim"),
        )
    state = Text("loads", style="green") if package.loads else Text("does not load", style="bold red")
    if package.detail:
        state.append(f" ({package.detail})", style="default")
    return package.name, package.version, state
