"""Runs a worker and follows it: progress, log, an end that was not planned, and Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dyndeploy.tensorrt import vendor
from dyndeploy.tensorrt.worker import Job

_PROGRAM = "from dyndeploy.tensorrt.worker import main; main()"
_KEPT_LINES = 200
#: Nodes of two function bodies may have one name, and nobody asks for their outputs.
_HARMLESS = re.compile(r"A node named \S+ already exists, the output tensors of this new instance will not be quer")


@dataclass(frozen=True)
class Phase:
    """One of the vendor's phases.

    Attributes:
        name: in the vendor's words.
        done, total: its steps.
    """

    name: str
    done: int
    total: int


#: Called with the phases that are under way, the outermost first.
Monitor = Callable[[tuple[Phase, ...]], None]


@dataclass
class Outcome:
    """How a worker ended.

    Attributes:
        done: the "done" event, or None.
        failed: the "failed" event, or None. Where both are None the process ended before it could say anything.
        log: the vendor's last lines, (severity, message), without verbose and harmless ones.
        stderr: the last lines that were printed.
        returncode: of the process; negative for a signal.
        stage: the one that it was in.
    """

    done: dict[str, Any] | None = None
    failed: dict[str, Any] | None = None
    log: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    stderr: list[str] = field(default_factory=list)
    returncode: int = 0
    stage: str = "starting"


def run(job: Job, *, tell: Callable[[str], None], monitor: Monitor | None = None) -> Outcome:
    """Run a job in a process of its own.

    Args:
        job: what to build; the folder of its engine takes what the process needs beside it.
        tell: called with each stage.
        monitor: called with the vendor's phases, at most some ten times a second.

    When an exception comes between (Ctrl-C), the process is killed; it never outlives this call.
    """
    outcome = Outcome()
    variables = vendor.environment(job.target, Path(job.engine).parent)
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            env=variables,
            cwd=sys.prefix,  # not the current folder: a file tensorrt.py in it would be imported instead
            start_new_session=True,  # Ctrl-C on the terminal comes to this process only, which then ends that one
        )
        try:
            assert process.stdin and process.stdout
            with suppress(BrokenPipeError):  # it ended at once; the reason is in what it printed
                process.stdin.write(job.to_json().encode())
                process.stdin.close()
            for line in process.stdout:
                _take(line, outcome, tell, monitor)
            outcome.returncode = process.wait()
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    with suppress(BrokenPipeError):
                        stream.close()
        printed.seek(0)
        outcome.stderr = printed.read().decode(errors="replace").splitlines()[-_KEPT_LINES:]
    return outcome


def _take(line: bytes, outcome: Outcome, tell: Callable[[str], None], monitor: Monitor | None) -> None:
    try:
        event = json.loads(line)
    except json.JSONDecodeError:  # the process ended within a line
        return
    kind = event.pop("event")
    if kind == "stage":
        outcome.stage = event["name"]
        tell(event["name"])
    elif kind == "log":
        if not _HARMLESS.search(event["message"]):
            outcome.log.append((event["severity"], event["message"]))
    elif kind == "progress" and monitor:
        monitor(tuple(Phase(*phase) for phase in event["phases"]))
    elif kind == "done":
        outcome.done = event
    elif kind == "failed":
        outcome.failed = event
