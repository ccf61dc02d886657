"""How far two tensors are apart, and whether that is noise: PyTorch's own error is the yardstick."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import ml_dtypes
import numpy as np

from dyndeploy.errors import DynError

Array = np.ndarray[Any, Any]

#: A runtime may err so many times as much as PyTorch. Two right float32 matrix products over K numbers differ
#: by their summation order alone: one accumulator against blocked sums costs 1.7x in L2 and 2.2x in the
#: maximum at K = 576, 4.3x and 8x at K = 4608. The maximum is one sample, hence its larger factor.
FACTORS: Mapping[str, float] = {"relative_l2": 4.0, "p99": 4.0, "max": 8.0}
#: Multiples of the dtype's eps that are noise even where PyTorch is exact. Rounding once costs 0.2 eps in L2,
#: so 2 eps are one rounding of an intermediate ten times as large as the result (a mean subtracted, a sum
#: that cancels). The 99th percentile of such noise lies at 3 to 4, the maximum of some 10^5 values at 5 to 8
#: times its L2.
FLOORS: Mapping[str, float] = {"relative_l2": 2.0, "p99": 8.0, "max": 16.0}
#: In float32 the accumulators are float32 too, and long sums cost more: PyTorch adds in pairs and is almost
#: exact, others add in blocks. The mean of 8 x 224 x 224 values errs by 10 eps in ONNX Runtime, 0.06 in
#: PyTorch. (The half types are accumulated in float32.)
LONG_SUMS = 10.0
#: Up to this multiple of the limit the answer is "suspicious": rather a float16 accumulator than a wrong weight.
SUSPICIOUS = 10.0


@functools.total_ordering
class Verdict(Enum):
    """What is thought of a runtime's numbers; ordered, the best first.

    Example:
        >>> Verdict.worst([Verdict.IDENTICAL, Verdict.SUSPICIOUS]).value
        'suspicious'
    """

    IDENTICAL = "identical"
    WITHIN_NOISE = "within noise"
    SUSPICIOUS = "suspicious"
    BROKEN = "broken"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Verdict):
            return NotImplemented
        order = list(Verdict)
        return order.index(self) < order.index(other)

    @property
    def ok(self) -> bool:
        """Whether the runtime passes."""
        return self <= Verdict.WITHIN_NOISE

    @staticmethod
    def worst(verdicts: Iterable[Verdict]) -> Verdict:
        """The worst of several; of none, IDENTICAL."""
        return max(verdicts, default=Verdict.IDENTICAL)


@dataclass(frozen=True)
class Comparison:
    """How far `actual` is from `expected`, computed in float64.

    A position where both are NaN, or the same infinity, counts as equal; one where only one is not finite, or
    where they are different infinities, counts as an infinite error.

    Attributes:
        shape: of both.
        dtype: of `actual`.
        relative_l2: |actual - expected|_2 / |expected|_2, or / sqrt(size) where expected is all zero.
        cosine: of the angle between them, where both are finite; 1 where both are all zero.
        p99: 99th percentile of |actual - expected| (an error that occurs, not one interpolated).
        max: largest |actual - expected|.
        max_index: where it is (the first one).
        rms: root mean square of expected, over its finite positions.
        nonfinite_actual, nonfinite_expected: how many values are NaN or infinite.
        mismatched: positions with an infinite error.
    """

    shape: tuple[int, ...]
    dtype: str
    relative_l2: float
    cosine: float
    p99: float
    max: float
    max_index: tuple[int, ...]
    rms: float
    nonfinite_actual: int
    nonfinite_expected: int
    mismatched: int

    def statistic(self, name: str) -> float:
        """One of FACTORS' statistics, without unit: p99 and max are divided by rms (unless that is zero)."""
        value: float = getattr(self, name)
        return value if name == "relative_l2" else value / (self.rms or 1.0)


@dataclass(frozen=True)
class Judgement:
    """A verdict and what it rests on.

    Attributes:
        verdict: the verdict.
        statistic: the worst one: "relative_l2", "p99" or "max" (both per rms of the reference); "mismatched" or "shape"
            where the tensors differ in kind, "gap" where a discrete choice does, "digest" where
            a node is not made of what was exported; "" for identical.
        value: its value.
        limit: the largest value that is noise.
    """

    verdict: Verdict
    statistic: str
    value: float
    limit: float


def compare(actual: Array, expected: Array) -> Comparison:
    """Compare a runtime's output with its reference.

    Args:
        actual: any real dtype, bfloat16 and bool too.
        expected: the reference, of the same shape, usually float64.

    Raises:
        DynError: the shapes differ.

    Example:
        >>> c = compare(np.array([1.0, 2.0, 4.0], "float32"), np.array([1.0, 2.0, 3.0]))
        >>> c.max, c.max_index
        (1.0, (2,))
    """
    if actual.shape != expected.shape:
        raise DynError(f"Shapes {list(actual.shape)} and {list(expected.shape)} cannot be compared.")
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(e)
    same = (a == e) | (np.isnan(a) & np.isnan(e))
    # Where both are infinite, the difference is NaN: it is not used.
    with np.errstate(invalid="ignore"):
        error = np.where(finite, np.abs(a - e), np.where(same, 0.0, np.inf))
    a, e = a[finite], np.where(np.isfinite(e), e, 0.0)
    index = np.unravel_index(int(error.argmax()), error.shape) if error.size else ()
    return Comparison(
        shape=actual.shape,
        dtype=actual.dtype.name,
        relative_l2=_norm(error) / (_norm(e) or math.sqrt(max(e.size, 1))),
        cosine=_cosine(a, e[finite]),
        p99=float(np.quantile(error, 0.99, method="higher")) if error.size else 0.0,
        max=float(error.max(initial=0.0)),
        max_index=tuple(int(i) for i in index),
        rms=_norm(e) / math.sqrt(max(e.size, 1)),
        nonfinite_actual=int(np.count_nonzero(~np.isfinite(actual.astype(np.float64)))),
        nonfinite_expected=int(np.count_nonzero(~np.isfinite(expected.astype(np.float64)))),
        mismatched=int(np.count_nonzero(np.isinf(error))),
    )


def bit_equal(a: Array, b: Array) -> bool:
    """Whether dtype, shape and every bit agree."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def judge(error: Comparison, yardstick: Comparison, dtype: str, identical: bool) -> Judgement:
    """Judge a runtime's error by PyTorch's own.

    limit = FACTORS[s] * yardstick's s + FLOORS[s] * eps(dtype), for each statistic s, with LONG_SUMS times the floor in
    float32; the one that is worst in proportion to its limit decides. Up to the limit it is noise, up to SUSPICIOUS
    times it suspicious, else broken.

    Args:
        error: the runtime's output against the float64 reference.
        yardstick: PyTorch's output at `dtype` against the float64 reference.
        dtype: in which the model computes (the output may be wider). Integer outputs have no floor.
        identical: whether the output is bit-equal with PyTorch's.

    A value that is not finite where the reference is finite is broken, even when PyTorch has it as well: the
    model does not fit this dtype.
    """
    if error.mismatched:
        return Judgement(Verdict.BROKEN, "mismatched", error.mismatched, 0)
    if identical:
        return Judgement(Verdict.IDENTICAL, "", 0.0, 0.0)
    worst, worst_ratio = Judgement(Verdict.WITHIN_NOISE, "", 0.0, 0.0), -1.0
    for name, limit in limits(yardstick, dtype if _is_float(error.dtype) else error.dtype).items():
        value = error.statistic(name)
        ratio = value / limit if limit else math.inf if value else 0.0
        if ratio > worst_ratio:
            worst, worst_ratio = Judgement(_verdict(ratio), name, value, limit), ratio
    return worst


def limits(yardstick: Comparison, dtype: str) -> dict[str, float]:
    """The largest value of each statistic that is noise; see `judge`."""
    # Where PyTorch itself is not finite it measures nothing: the floor remains.
    own = {name: 0.0 if yardstick.mismatched else yardstick.statistic(name) for name in FACTORS}
    floor = eps(dtype) * (LONG_SUMS if dtype == "float32" else 1.0)
    return {name: factor * own[name] + FLOORS[name] * floor for name, factor in FACTORS.items()}


def eps(dtype: str) -> float:
    """Distance from 1 to the next larger number; 0 for integers and bool."""
    return float(ml_dtypes.finfo(dtype).eps) if _is_float(dtype) else 0.0  # type: ignore[no-untyped-call]


def _is_float(dtype: str) -> bool:
    return "float" in dtype


def _verdict(ratio: float) -> Verdict:
    if ratio <= 1:
        return Verdict.WITHIN_NOISE
    return Verdict.SUSPICIOUS if ratio <= SUSPICIOUS else Verdict.BROKEN


def _norm(values: Array) -> float:
    return float(np.linalg.norm(values.ravel()))


def _cosine(a: Array, b: Array) -> float:
    norms = _norm(a) * _norm(b)
    if norms:
        return float(np.dot(a.ravel(), b.ravel()) / norms)
    return 1.0 if _norm(a) == _norm(b) else 0.0
