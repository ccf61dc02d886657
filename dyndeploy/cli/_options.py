"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

# As in dyndeploy.bundle, which would bring NumPy and pydantic into --help; a test compares them.
Precision = Literal["fp32", "fp16", "bf16"]
Body = Literal["standard", "gridsample"]
Point = Literal["min", "opt", "max"]

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout; everything else goes to stderr.")]
RuntimeOption = Annotated[
    list[str] | None,
    typer.Option("--runtime", "-r", help="A runtime; may be repeated. Default: all that work here."),
]
BodiesOption = Annotated[
    bool, typer.Option("--bodies", help="Run our ops by the function bodies in the file, not on compiled kernels.")
]


def dims_of(values: list[str] | None) -> dict[str, str]:
    """{"batch": "1:4:8"} from ["batch=1:4:8"].

    Raises:
        typer.BadParameter: a value is not NAME=….
    """
    dims: dict[str, str] = {}
    for value in values or []:
        name, equals, sizes = value.partition("=")
        if not (name and equals and sizes):
            raise typer.BadParameter(f"{value!r} is not NAME=SIZES, for example batch=1:4:8.", param_hint="--dim")
        dims[name] = sizes
    return dims
