"""Running requests together on one session, and giving each its own rows."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dyndeploy.bundle import Arrays
from dyndeploy.errors import DynError
from dyndeploy.runtimes import Session


@dataclass(frozen=True)
class Executed:
    """What came of one run.

    Attributes:
        results: per request, its outputs or why it failed.
        runs: (requests, rows, input_ns, infer_ns, output_ns) of every run of the session; several where a run of
            all together failed and each was tried alone.
    """

    results: list[Arrays | Exception]
    runs: list[tuple[int, int, int, int, int]]


def execute(session: Session, inputs: Sequence[Arrays], rows: Sequence[int]) -> Executed:
    """Run requests together.

    Where that fails, each is run alone, so that no request fails for another's sake.

    Args:
        session: to run on.
        inputs: of each request; all of the same shape but for the first axis.
        rows: extent of the first axis of each.
    """
    try:
        results, run = _run(session, inputs, rows)
        return Executed(list(results), [run])
    except Exception as error:  # a defect of one model must not end the server
        if len(inputs) == 1:
            return Executed([error], [])
    alone = [execute(session, [one], [count]) for one, count in zip(inputs, rows)]
    return Executed([r for each in alone for r in each.results], [run for each in alone for run in each.runs])


def _run(
    session: Session, inputs: Sequence[Arrays], rows: Sequence[int]
) -> tuple[list[Arrays], tuple[int, int, int, int, int]]:
    start = time.perf_counter_ns()
    together = inputs[0]
    if len(inputs) > 1:
        together = {name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]}
    assembled = time.perf_counter_ns()
    outputs = session.run(together)
    computed = time.perf_counter_ns()
    total = sum(rows)
    if len(inputs) == 1:
        return [outputs], (1, total, assembled - start, computed - assembled, 0)
    for name, output in outputs.items():
        if output.shape[:1] != (total,):
            raise DynError(f"Output {name} has shape {list(output.shape)} for {total} samples.")
    results: list[Arrays] = []
    at = 0
    for count in rows:
        results.append({name: output[at : at + count] for name, output in outputs.items()})
        at += count
    ended = time.perf_counter_ns()
    return results, (len(inputs), total, assembled - start, computed - assembled, ended - computed)


class Instance:
    """A session with a thread of its own.

    Args:
        session: is closed with the instance.
        name: of the thread.
    """

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Have the thread call `job`, which must not raise."""
        self._jobs.put(job)

    def close(self) -> None:
        """End the thread after what was submitted, and close the session."""
        self._jobs.put(None)
        self._thread.join()
        self.session.close()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # what it holds is not kept until the next one comes
