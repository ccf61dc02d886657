"""`dyndeploy export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dyndeploy.cli._options import Body, JsonOption, Precision, dims_of
from dyndeploy.cli._render import out, print_json, progress, size


def export(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE", help="Folder with a recipe.toml, or the file itself.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the bundle. Default: bundles/<name of the recipe>."),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Precision of the ONNX graph. Default: the recipe's.")
    ] = None,
    io_precision: Annotated[
        Precision | None, typer.Option(help="Precision of inputs and outputs. Default: the recipe's.")
    ] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MIN:OPT:MAX", help="Other sizes than the recipe's; may be repeated."),
    ] = None,
    body: Annotated[
        Body | None,
        typer.Option(help="Body of ModulatedDeformConv2d: gridsample is for runtimes without DeformConv."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export the network of a recipe: write a bundle that every runtime can execute."""
    dims = dims_of(dim)
    from dyndeploy.pipeline.recipe import export_recipe

    with progress("export") as tell:
        bundle = export_recipe(
            recipe,
            output,
            precision=precision,
            io_precision=io_precision,
            body=body,
            dims=dims,
            progress=tell,
        )
    if as_json:
        print_json({"path": str(bundle.path), "manifest": bundle.manifest})
        return
    console = out()
    console.print(f"{bundle.path}", style="bold", soft_wrap=True)
    for name in (*bundle.manifest.files, "manifest.json"):
        console.print(f"  {name:20} {size((bundle.path / name).stat().st_size):>10}", soft_wrap=True)
    console.print(f"next: dyndeploy check {bundle.path}", soft_wrap=True)
