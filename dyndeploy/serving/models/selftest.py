"""Before a model takes requests: its sessions run the goldens, and the numbers have to be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dyndeploy.bundle import DTYPE_OF, Arrays, Bundle
from dyndeploy.errors import DynError, MissingPackageError
from dyndeploy.ops._spec import spec_of
from dyndeploy.runtimes import Session
from dyndeploy.serving.models.batching import Batching
from dyndeploy.tensors import Point
from dyndeploy.testing.numeric import Verdict, compare, judge

#: Runs of every session at the usual size, after the goldens: allocators and caches settle.
_WARM_UP = 3


def warm_up(sessions: Sequence[Session], bundle: Bundle) -> dict[Point, Arrays]:
    """Run every session at every size of the goldens; what the first one gives.

    Raises:
        DynError: a session fails, or gives another dtype than the manifest says.
    """
    results: dict[Point, Arrays] = {}
    for session in sessions:
        for point in bundle.manifest.goldens:
            outputs = session.run(golden_inputs(bundle, point))
            for spec in bundle.manifest.outputs:
                if outputs[spec.name].dtype != spec.numpy_dtype:
                    raise DynError(f"{spec.name} is {outputs[spec.name].dtype}, and the manifest says {spec.dtype}.")
            results.setdefault(point, outputs)
        usual: Point = "opt" if "opt" in bundle.manifest.goldens else bundle.manifest.goldens[0]
        inputs = golden_inputs(bundle, usual)
        for _ in range(_WARM_UP):
            session.run(inputs)
    return results


def golden_inputs(bundle: Bundle, point: Point) -> Arrays:
    """The inputs at one point, in the dtypes of the model."""
    inputs, _ = bundle.goldens(point)
    return {s.name: np.ascontiguousarray(inputs[s.name].astype(s.numpy_dtype)) for s in bundle.manifest.inputs}


def self_test(bundle: Bundle, runtime: str, results: dict[Point, Arrays]) -> str:
    """Compare what a session gave with the goldens.

    First by the floors of the verdict, as if PyTorch were exact. What does not pass is judged again as `dyndeploy
    check` does, with PyTorch's own error as the yardstick, where torch is installed.

    Returns:
        What was found, in words.

    Raises:
        DynError: the files are not those exported, or the numbers are wrong.
    """
    changed = bundle.changed_files()
    if changed:
        raise DynError(
            f"{bundle.path} is not what was exported: {', '.join(changed)} changed.",
            fix="Export the model again, or serve it with --no-self-test.",
        )
    worst, at = Verdict.IDENTICAL, ""
    for point, outputs in results.items():
        _, expected = bundle.goldens(point)
        for name, reference in expected.items():
            verdict = _judge(outputs[name], reference, DTYPE_OF[bundle.manifest.precision])
            if verdict > worst:
                worst, at = verdict, f"{name} at {point}"
    if worst.ok:
        return f"{worst.value} at {', '.join(results)}"
    return _judge_by_torch(bundle, runtime, worst, at, list(results))


def rows_are_independent(session: Session, bundle: Bundle, batching: Batching) -> bool:
    """Whether a sample gets the same result alone as beside others: whether batching is right for this model."""
    dim = batching.dim
    if dim is None or batching.rows == 1:
        return True
    least = bundle.manifest.dims[dim].min
    point = bundle.manifest.goldens[-1]
    inputs = golden_inputs(bundle, point)
    rows = len(next(iter(inputs.values())))
    if rows < 2 * least:
        return True
    together = session.run(inputs)
    for first in (0, rows - least):
        part = slice(first, first + least)
        alone = session.run({name: np.ascontiguousarray(array[part]) for name, array in inputs.items()})
        for name, output in alone.items():
            verdict = _judge(output, together[name][part], DTYPE_OF[bundle.manifest.precision])
            if verdict == Verdict.BROKEN and not _chooses(bundle):
                return False
    return True


def _judge(actual: np.ndarray[Any, Any], reference: np.ndarray[Any, Any], dtype: str) -> Verdict:
    if actual.shape != reference.shape:
        return Verdict.BROKEN
    return judge(compare(actual, reference), compare(reference, reference), dtype, identical=False).verdict


def _judge_by_torch(bundle: Bundle, runtime: str, worst: Verdict, at: str, points: list[Point]) -> str:
    what = f"{bundle.name} gives other numbers in {runtime} than it should: {at} is {worst.value}."
    try:
        from dyndeploy.pipeline.check import check_runtime

        verdict = check_runtime(bundle, runtime, points)
    except MissingPackageError:
        if worst == Verdict.SUSPICIOUS:
            return f"{worst.value} ({at}), measured without PyTorch's own error"
        raise DynError(
            what,
            why="Measured without PyTorch's own error, as torch is not installed"
            + (", and the model takes discrete decisions, which rounding may flip." if _chooses(bundle) else "."),
            fix=f'pip install "dyndeploy[export]"; dyndeploy check {bundle.path}; or serve it with --no-self-test',
        ) from None
    except DynError as error:
        raise DynError(what, why=error.what, fix=error.fix) from None
    if verdict.ok:
        return f"{verdict.value} at {', '.join(points)}, by PyTorch's own error"
    raise DynError(what, why=f"By PyTorch's own error it is {verdict.value}.", fix=f"dyndeploy check {bundle.path}")


def _chooses(bundle: Bundle) -> bool:
    """Whether ops of the model decide by content: rounding may flip that, and a flip may change much."""
    return any(spec_of(op.type).choice is not None for op in bundle.manifest.ops)
