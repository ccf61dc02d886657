"""Export every network of `dyndeploy.list_models()`, check it against float64 in ONNX Runtime, print the verdicts.

    python samples/export_networks.py                  # all of them; or only some: "scnet*" "ddf_*"
    python samples/export_networks.py --markdown docs/networks-exported.md

The networks are untrained, with random weights under which no layer is idle. Batch, height and width are dynamic; the
check runs at the smallest, the usual and the largest sizes.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

from dyndeploy.errors import DynError, nearest
from dyndeploy.models import list_models
from dyndeploy.pipeline.deploy import deploy

PAGE = """# Every network, exported and checked

Written by `python samples/export_networks.py --markdown docs/networks-exported.md`: full networks, untrained, with
random weights under which no layer is idle, in fp32. The verdict is over the smallest, the usual and the largest
sizes; the last column is ONNX Runtime's largest relative L2 error against float64. No trained weights are behind it.

{table}
"""
COLUMNS = ("network", "custom ops", "model.onnx", "sizes, smallest to largest", "torch", "ONNX Runtime", "relative L2")


def row(name: str, folder: Path) -> tuple[str, ...]:
    """Export and check one network."""
    bundle, result = deploy(name, folder / name)
    manifest = bundle.manifest
    ops = Counter(record.type for record in manifest.ops)
    sizes = ", ".join(f"{name} {dim.min} to {dim.max}" for name, dim in manifest.dims.items())
    verdicts = {runtime.runtime: runtime for runtime in result.runtimes}
    worst = max(o.error.relative_l2 for point in verdicts["onnxruntime"].points for o in point.outputs)
    return (
        name,
        ", ".join(f"{count} {op}" for op, count in ops.items()) or "none",
        f"{(bundle.path / 'model.onnx').stat().st_size / 1e6:.1f} MB",
        sizes,
        *(str(verdicts[r].verdict and verdicts[r].verdict.value) for r in ("torch", "onnxruntime")),
        f"{worst:.1e}",
    )


def main(arguments: list[str] | None = None) -> None:
    """Export all, print a line for each, exit with 1 if one is not within noise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", default=["*"], help='names, "scnet*" (default: all)')
    parser.add_argument("--output", type=Path, default=Path("bundles"), help="folder of the bundles (default: bundles)")
    parser.add_argument("--markdown", type=Path, help="file that the table is written to")
    options = parser.parse_args(arguments)
    names = [name for pattern in options.patterns for name in list_models(pattern)]
    if not names:
        raise SystemExit(str(DynError("There is no such network.", fix=nearest(options.patterns[0], list_models()))))
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    print("\n".join(lines), flush=True)
    good = True
    start = time.monotonic()
    for name in names:
        cells = row(name, options.output)
        good &= set(cells[4:6]) <= {"identical", "within noise"}
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    print(f"\n{len(names)} networks in {time.monotonic() - start:.0f} s; bundles in {options.output}")
    if options.markdown:
        options.markdown.write_text(PAGE.format(table="\n".join(lines)))
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
