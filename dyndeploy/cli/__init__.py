"""The command line: one file per verb. It parses and prints; what is done is decided in dyndeploy.pipeline.

Heavy modules are imported inside the commands: --help is quick, and `doctor` runs where nothing else does.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dyndeploy.cli import bench, build, check, demo, doctor, export, inspect, models, serve
from dyndeploy.cli._render import print_error
from dyndeploy.errors import DynError

#: Exit codes beside 0: the verdict is bad; the command cannot be done as it was typed.
FAILED, REFUSED = 1, 2


class _Verbs(TyperGroup):
    """Every DynError of every verb is shown in one way, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DynError as error:
            print_error(error)
            raise typer.Exit(REFUSED) from None


app = typer.Typer(
    cls=_Verbs,
    name="dyndeploy",
    help="From a PyTorch model with content-dependent convolutions to one ONNX file, with proven numbers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _verb in (
    doctor.doctor,
    inspect.inspect,
    export.export,
    build.build,
    check.check,
    bench.bench,
    demo.demo,
    models.models,
    serve.serve,
):
    app.command()(_verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        from dyndeploy import __version__

        typer.echo(f"dyndeploy {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point of the `dyndeploy` command."""
    app()
