"""Engines of TensorRT for RTX of every recipe in export/: their sizes, how long a build takes, and hits.

    python benchmarks/engines.py
    python benchmarks/engines.py --recipe export/digits --output

Each recipe is exported with small dims, as tests/test_recipes.py does: the float64 goldens of an export take longest,
and engines hardly depend on dims. It is built with plugins, in float16, with the library inside, and from the function
bodies, and each is asked for once more. No GPU is needed. With --output the result is also written to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import record

from dyndeploy import Bundle, build, export_recipe
from dyndeploy.cli._render import progress, size
from dyndeploy.pipeline.recipe import FILE, Recipe

ROOT = Path(__file__).resolve().parent.parent
TARGET = "tensorrt-rtx"
WAYS: dict[str, dict[str, Any]] = {
    "plugins": {},
    "fp16": {"precision": "fp16"},
    "inside": {"embed_plugins": True},
    "bodies": {"plugins": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Engines of the recipes in export/, built without a GPU.")
    parser.add_argument("--recipe", action="append", type=Path, help="a recipe; all in export/ by default")
    parser.add_argument("--bundles", type=Path, help="keep the bundles here, and take those that are there")
    parser.add_argument("--output", nargs="?", const="", metavar="FILE", help="write JSON; to results/ by default")
    arguments = parser.parse_args()
    recipes = arguments.recipe or sorted(file.parent for file in (ROOT / "export").glob(f"*/{FILE}"))
    rows = []
    with tempfile.TemporaryDirectory() as scratch, progress("engines") as tell:
        for recipe in map(Recipe.load, recipes):
            rows += measure(recipe, arguments.bundles or Path(scratch), tell)
    print_rows(rows)
    if arguments.output is not None:
        file = Path(arguments.output) if arguments.output else record.RESULTS / f"engines-{record.slug()}.json"
        record.save(file, rows)


def measure(recipe: Recipe, folder: Path, tell) -> list[dict[str, Any]]:
    """A row per way to build a recipe's network."""
    bundle = folder / recipe.name
    if not bundle.is_dir():
        dims = recipe.file.dims.items()
        small = {name: (d.min, d.min + d.multiple, d.min + d.multiple, d.multiple) for name, d in dims}
        export_recipe(recipe, bundle, dims=small, progress=tell)
    rows = []
    dynamic = bool(Bundle.open(bundle).manifest.ops)
    for way, options in WAYS.items():
        if way in ("inside", "bodies") and not dynamic:  # nothing to choose
            continue
        tell(f"{recipe.name}, {way}")
        built = build(bundle, TARGET, force=True, **options)
        start = time.monotonic()
        again = build(bundle, TARGET, **options)
        ops = built.record.ops
        rows.append(
            {
                "recipe": recipe.name,
                "way": way,
                "runtime": str(built.record.runtime),
                "onnx_bytes": (bundle / "model.onnx").stat().st_size,
                "engine_bytes": built.record.bytes,
                "plugins": sum(op.how == "plugin" for op in ops),
                "inlined": sum(op.how == "inlined" for op in ops),
                "build_seconds": built.record.seconds,
                "hit": again.hit,
                "hit_seconds": time.monotonic() - start,
            }
        )
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The table of docs/tensorrt.md, in Markdown."""
    print(f"\n{rows[0]['runtime']}\n")
    print(f"| recipe | dynamic ops | model.onnx | {' | '.join(WAYS)} | asked again |")
    print("|---|---|---|" + "---|" * (len(WAYS) + 1))
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        ways = {row["way"]: row for row in rows if row["recipe"] == recipe}
        first = ways["plugins"]
        cells = [f"{size(w['engine_bytes'])} in {w['build_seconds']:.1f} s" if w else "" for w in map(ways.get, WAYS)]
        hits = sum(way["hit"] for way in ways.values())
        again = f"{hits} hits of {len(ways)}, {min(w['hit_seconds'] for w in ways.values()):.1f} s"
        print(f"| {recipe} | {first['plugins']} | {size(first['onnx_bytes'])} | {' | '.join(cells)} | {again} |")


if __name__ == "__main__":
    main()
