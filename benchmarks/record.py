"""What is kept of a measurement: the numbers, and where, when, how and with what they were taken."""

from __future__ import annotations

import json
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dyndeploy.pipeline import environment

RESULTS = Path(__file__).resolve().parent / "results"


def save(file: Path, results: Sequence[Any], versions: dict[str, str] | None = None, **more: Any) -> None:
    """Write results (what JSON can hold) to a file, with the command, the hardware and the versions.

    Args:
        file: where to.
        results: of the program that runs.
        versions: of packages that only this program uses.
        **more: other entries of the file.
    """
    packages = {name: package.version for name, package in environment.packages().items() if package.version}
    record = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "hardware": {name: value for name, value in environment.system().items() if name != "python"},
        "versions": {"python": platform.python_version(), **packages, **(versions or {})},
        **more,
        "results": list(results),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nwritten to {file}")


def slug() -> str:
    """The CPU's name, as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", environment.system()["cpu"].lower()).strip("-")
