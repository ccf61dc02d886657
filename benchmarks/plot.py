"""The times of a record as a picture: a panel a table, a line a problem, a mark an engine, on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

_MARKS = "osD^vP*Xd<>h"


def save(file: Path, tables: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw tables as compare.py writes them; a column stands for the fastest of its engines.

    Args:
        file: of the picture.
        tables: with "comparison", "columns" and "rows".
        title: of the whole.
    """
    heights = [1 + 0.28 * len(table["rows"]) for table in tables]
    figure, panels = pyplot.subplots(
        len(tables), 1, figsize=(9, sum(heights) + 0.5), height_ratios=heights, layout="constrained", squeeze=False
    )
    figure.suptitle(title)
    for panel, table in zip(panels[:, 0], tables):
        _draw(panel, table)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    print(f"drawn to {file}")


def _draw(panel: Any, table: Mapping[str, Any]) -> None:
    lines = range(len(table["rows"]))
    for mark, (column, engines) in zip(_MARKS, table["columns"].items()):
        points = {}
        for line, row in zip(lines, table["rows"]):
            times = [row["engines"][name]["median_ms"] for name in engines if name in row["engines"]]
            if times:
                points[line] = 1000 * min(times)
        if points:
            panel.plot(list(points.values()), list(points), mark, label=column, alpha=0.8)
    limits = {line: row["roofline_us"] for line, row in zip(lines, table["rows"]) if row.get("roofline_us")}
    if limits:
        panel.plot(list(limits.values()), list(limits), "|", color="black", markersize=14, label="roofline")
    panel.set(xscale="log", xlabel="µs", title=table["comparison"])
    panel.set_yticks(list(lines), [row["problem"] for row in table["rows"]])
    panel.invert_yaxis()
    panel.grid(axis="x", which="both", alpha=0.3)
    panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
