"""Latency of every recipe in export/ in every runtime that works on this machine.

    python benchmarks/cpu.py
    python benchmarks/cpu.py --recipe export/digits --runtime onnxruntime --output

Each recipe is exported into a scratch folder and measured by `dyndeploy.bench`. With --output the result is
also written to benchmarks/results/, with the hardware, the versions and the command.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import record

from dyndeploy import bench, export_recipe
from dyndeploy.cli._render import out, progress
from dyndeploy.cli.bench import print_bench
from dyndeploy.pipeline.recipe import FILE, Recipe

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency of the recipes in export/ per runtime.")
    parser.add_argument("--recipe", action="append", type=Path, help="a recipe; all in export/ by default")
    parser.add_argument("--runtime", action="append", help="a runtime; all that work here by default")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--output", nargs="?", const="", metavar="FILE", help="write JSON; to results/ by default")
    arguments = parser.parse_args()
    recipes = arguments.recipe or sorted(file.parent for file in (ROOT / "export").glob(f"*/{FILE}"))
    if not recipes:
        parser.error(f"there is no recipe in {ROOT / 'export'}")
    results = []
    with tempfile.TemporaryDirectory() as scratch, progress("bench", animate=False) as tell:
        for recipe in map(Recipe.load, recipes):
            bundle = export_recipe(recipe, Path(scratch) / recipe.name, progress=tell)
            results.append(bench(bundle, arguments.runtime, iterations=arguments.iterations, progress=tell))
    for result in results:
        print_bench(out(), result, explain=result is results[-1])
    if arguments.output is not None:
        file = Path(arguments.output) if arguments.output else record.RESULTS / f"cpu-{record.slug()}.json"
        record.save(file, [dataclasses.asdict(result) for result in results])


if __name__ == "__main__":
    main()
