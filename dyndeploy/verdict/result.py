"""What `check` found, as data: one result per runtime, point and output; JSON by `model_dump_json()`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from dyndeploy.bundle import Precision
from dyndeploy.tensors import Point
from dyndeploy.testing.numeric import Comparison, Judgement, Verdict
from dyndeploy.verdict.bisect import Bisection
from dyndeploy.verdict.blame import Guilty
from dyndeploy.verdict.choices import ChoiceResult


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")


class OutputResult(_Result):
    """One output of one runtime at one point.

    Attributes:
        name: of the output.
        error: the runtime against the float64 reference; None where the shapes differ.
        yardstick: PyTorch at the bundle's dtype against the same reference.
        judgement: the verdict and the statistic that decided it ("shape" where the shapes differ).
    """

    name: str
    error: Comparison | None
    yardstick: Comparison
    judgement: Judgement


class PointResult(_Result):
    """One runtime at one point.

    Attributes:
        point, sizes: "min", "opt" or "max", and the size of every dim there.
        verdict: the worst of the outputs'; broken where a choice flipped outside its margin, or the run failed.
        outputs: one result per output.
        choices: one per node that takes discrete decisions.
        failure: why the run failed, if it did.
    """

    point: Point
    sizes: dict[str, int]
    verdict: Verdict
    outputs: tuple[OutputResult, ...] = ()
    choices: tuple[ChoiceResult, ...] = ()
    failure: str | None = None


class RuntimeResult(_Result):
    """One runtime.

    Attributes:
        runtime: its name.
        dtype: in which it computes ("float32"); the torch runtime is shown in float32 and in the bundle's dtype.
        verdict: the worst of its points; None where it is not available.
        unavailable: why it is not; nothing is wrong with the model then.
        failure: why it could not open the model, which is broken.
        points: one result per point, the smallest first.
        guilty: the node that is to blame at the first point that does not pass; None where none was found, as
            the difference vanishes when inner values are read.
        bisection: which kernels make it wrong, where that was asked and it does not pass.
    """

    runtime: str
    dtype: str
    verdict: Verdict | None
    unavailable: str | None = None
    failure: str | None = None
    points: tuple[PointResult, ...] = ()
    guilty: Guilty | None = None
    bisection: Bisection | None = None


class OperatorResult(_Result):
    """One node of ours by itself, on the inputs that it gets in the model.

    Attributes:
        node, op_type: its name and type in model.onnx.
        kernel, body: the compiled kernel and the function body against the float64 reference.
        yardstick: the plain torch reference at the bundle's dtype against the same.
        judgement: of the kernel.
    """

    node: str
    op_type: str
    kernel: Comparison
    body: Comparison
    yardstick: Comparison
    judgement: Judgement


class CheckResult(_Result):
    """What `check` found.

    Attributes:
        bundle: its name.
        created: when it was checked, ISO 8601 in UTC.
        precision: of the bundle.
        verdict: the worst of the runtimes'.
        ok: whether every runtime passes, and those that were asked for are available.
        runtimes: one result per runtime and dtype.
        operators: kernel against body, one result per node of ours; empty where a runtime for one of them is not
            available or was not asked for.
        changed_files: files of the bundle that are not what was exported.
    """

    bundle: str
    created: str
    precision: Precision
    verdict: Verdict
    ok: bool
    runtimes: tuple[RuntimeResult, ...]
    operators: tuple[OperatorResult, ...] = ()
    changed_files: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 where `ok`, else 1."""
        return 0 if self.ok else 1

    def summary(self) -> dict[str, Any]:
        """What the manifest keeps: verdicts and guilty nodes, no statistics."""
        return {
            "created": self.created,
            "ok": self.ok,
            "verdict": self.verdict.value,
            "changed_files": list(self.changed_files),
            "runtimes": [
                {
                    "runtime": r.runtime,
                    "dtype": r.dtype,
                    "verdict": r.verdict.value if r.verdict else None,
                    "unavailable": r.unavailable,
                    "points": {p.point: p.verdict.value for p in r.points},
                    "guilty": r.guilty.node if r.guilty else None,
                    **({"guilty_kernels": list(r.bisection.guilty)} if r.bisection else {}),
                }
                for r in self.runtimes
            ],
            "operators": {o.node: o.judgement.verdict.value for o in self.operators},
        }
