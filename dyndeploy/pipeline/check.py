"""The verdict: every runtime against the float64 reference, with PyTorch's own error as the yardstick."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, TypeVar, cast

from dyndeploy.bundle import DTYPE_OF, Arrays, Bundle, Precision
from dyndeploy.errors import DynError, MissingPackageError
from dyndeploy.runtimes import Session, UnavailableError, open_session, runtime_names, with_bodies
from dyndeploy.runtimes.program import Program
from dyndeploy.tensorrt.record import EngineRecord, records
from dyndeploy.tensors import POINTS, Point, sizes_at
from dyndeploy.testing.numeric import Array, Judgement, Verdict, bit_equal, compare, judge
from dyndeploy.verdict.bisect import Bisection
from dyndeploy.verdict.bisect import bisect as find_kernels
from dyndeploy.verdict.blame import Guilty, changed_nodes, find_guilty
from dyndeploy.verdict.choices import judge_choice
from dyndeploy.verdict.inner import Anatomy
from dyndeploy.verdict.opening import opener_of
from dyndeploy.verdict.operators import compare_operators
from dyndeploy.verdict.reading import BODIES, KERNELS, Reader, Reading, onnx_reader, torch_reader
from dyndeploy.verdict.result import CheckResult, OperatorResult, OutputResult, PointResult, RuntimeResult
from dyndeploy.verdict.yardstick import Given, Yardstick

__all__ = ["CheckResult", "OutputResult", "PointResult", "Progress", "RuntimeResult", "check"]

Progress = Callable[[str], None]
_Name = TypeVar("_Name", bound=str)


def check(
    bundle: Bundle | str | os.PathLike[str],
    *,
    runtimes: Sequence[str] | str | None = None,
    points: Sequence[Point] | Point | None = None,
    bodies: bool = False,
    bisect: bool = False,
    progress: Progress | None = None,
) -> CheckResult:
    """Compare every runtime with the float64 reference, and store the summary in the bundle's manifest.

    A runtime passes when its error is not much larger than PyTorch's own in the bundle's dtype
    (`dyndeploy.testing.numeric.judge`). Where a discrete choice flips within its margin, the reference is
    computed again with the runtime's choices (`dyndeploy.verdict.choices`). Where a runtime does not pass,
    the guilty node is searched at the smallest point that fails (`dyndeploy.verdict.blame`). Every node of ours is
    also run alone, by its compiled kernel and by its function body (`dyndeploy.verdict.operators`). A node of
    model.onnx with other weights or attributes than were exported is broken even where no golden reaches them.

    Args:
        bundle: a bundle, or its folder.
        runtimes: names of runtimes, or one name; all that are registered when left out, and then one that is not
            available is no failure.
        bodies: run our ops by the function bodies in the file where a runtime has kernels as well; without it both ways
            are compared.
        bisect: where a runtime does not pass, swap our nodes for their function bodies, some at a time, until it does,
            and name the kernels to blame (`dyndeploy.verdict.bisect`). For TensorRT this builds an engine each time.
        points: some of "min", "opt", "max", or one; all that the bundle has goldens for when left out.
        progress: called with a line to show.

    Raises:
        MissingPackageError: torch is not installed, so that there is no yardstick.
        DynError: no bundle, unknown runtime, no such point, or model.pt2 does not compute the stored reference.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    asked = _known("runtime", runtimes, runtime_names())
    names = asked or runtime_names()
    names = with_bodies(names) if bodies else names
    run = _Check(opened, _known("point", points, POINTS) or opened.manifest.goldens, progress or (lambda line: None))
    results = tuple(run.runtime(name, dtype, bisect=bisect) for name, dtype in _rows(opened, names))
    operators = run.operators(results)
    passed = all(r.verdict.ok if r.verdict else not asked for r in results)
    verdicts = [*(r.verdict for r in results if r.verdict), *(o.judgement.verdict for o in operators)]
    result = CheckResult(
        bundle=opened.name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        precision=opened.manifest.precision,
        verdict=Verdict.worst(verdicts),
        ok=passed and all(o.judgement.verdict.ok for o in operators),
        runtimes=results,
        operators=operators,
        changed_files=tuple(opened.changed_files()),
    )
    opened.manifest.check = result.summary()
    opened.save_manifest()
    return result


def check_runtime(bundle: Bundle, runtime: str, points: Sequence[Point]) -> Verdict:
    """The verdict of one runtime alone; nothing is stored in the bundle.

    Raises:
        MissingPackageError: torch is not installed, so that there is no yardstick.
        DynError: model.pt2 does not compute the stored reference.
    """
    result = _Check(bundle, points, lambda line: None).runtime(runtime, DTYPE_OF[bundle.manifest.precision])
    if result.verdict is None:
        raise DynError(f"{runtime} is not available.", why=result.unavailable)
    return result.verdict


def _known(kind: str, given: Sequence[_Name] | _Name | None, known: Sequence[_Name]) -> list[_Name]:
    """The names given, one or several or none.

    Raises:
        DynError: one of them is not known.
    """
    names: list[Any] = [given] if isinstance(given, str) else list(given or ())
    unknown = [str(name) for name in names if name not in known]
    if unknown:
        raise DynError(f"There is no {kind} {', '.join(unknown)}.", fix=f"one of {', '.join(known)}")
    return names


def _rows(bundle: Bundle, runtimes: Sequence[str]) -> list[tuple[str, str]]:
    """(runtime, dtype) pairs: torch once more in float32, to show what the lower precision costs."""
    dtype = DTYPE_OF[bundle.manifest.precision]
    return [
        (name, d)
        for name in dict.fromkeys(runtimes)
        for d in (dict.fromkeys(("float32", dtype)) if name == "torch" else (_engine_dtype(bundle, name) or dtype,))
    ]


def _engine_dtype(bundle: Bundle, runtime: str) -> str | None:
    """In which the bundle's engine for a runtime computes, where it has one: a build may cast."""
    record = records(bundle).get(runtime)
    return DTYPE_OF[cast(Precision, record.precision)] if isinstance(record, EngineRecord) else None


def _allowed(session: Session, sizes: Mapping[str, int]) -> bool:
    """Whether a session takes these sizes: an engine may be built for fewer than the bundle has."""
    dims = session.dims
    return all(name not in dims or dims[name].min <= size <= dims[name].max for name, size in sizes.items())


def _sizes(session: Session) -> str:
    return ", ".join(f"{name}={dim.min}..{dim.max}" for name, dim in session.dims.items())


class _Check:
    """The programs and yardsticks that all runtimes of one check share."""

    def __init__(self, bundle: Bundle, points: Sequence[Point], tell: Progress) -> None:
        self._bundle, self._tell = bundle, tell
        self._dtype = DTYPE_OF[bundle.manifest.precision]
        tell("load model.pt2")
        dtypes = list(dict.fromkeys(("float64", self._dtype, "float32")))
        self._programs = dict(zip(dtypes, Program.load_in(bundle.program_path, dtypes)))
        self._anatomy = Anatomy.of(bundle, self._programs[self._dtype])
        self._changed = changed_nodes(self._anatomy.model, bundle.manifest.nodes, {r.name for r in bundle.manifest.ops})
        self._points = sorted(points, key=POINTS.index)
        self._yardsticks: dict[str, dict[Point, Yardstick]] = {}
        self._measure(self._dtype)

    def _measure(self, dtype: str) -> dict[Point, Yardstick]:
        """The yardstick at every point, for what computes in a dtype."""
        if dtype not in self._yardsticks:
            if dtype not in self._programs:
                self._programs[dtype] = Program.load(self._bundle.program_path, dtype)
            reference, own = self._programs["float64"], self._programs[dtype]
            made: dict[Point, Yardstick] = {}
            for point in self._points:
                self._tell(f"float64 and PyTorch at {point}")
                made[point] = Yardstick(self._bundle, point, reference, own, self._anatomy.choices)
            self._yardsticks[dtype] = made
        return self._yardsticks[dtype]

    def runtime(self, name: str, dtype: str, *, bisect: bool = False) -> RuntimeResult:
        """Judge one runtime at all points that it has sizes for."""
        label = f"{name} {dtype}"
        self._tell(f"open {label}")
        try:
            session = open_session(self._bundle, name, **({"dtype": dtype} if name == "torch" else {}))
        except (UnavailableError, MissingPackageError) as error:
            return RuntimeResult(runtime=name, dtype=dtype, verdict=None, unavailable=str(error))
        except DynError as error:
            return RuntimeResult(runtime=name, dtype=dtype, verdict=Verdict.BROKEN, failure=str(error))
        reader = self._reader(name, dtype)
        points: list[PointResult] = []
        guilty = bisection = None
        with session:
            # torch in float32 is shown beside the bundle's own dtype, and judged by the same yardstick.
            for point, yardstick in self._measure(self._dtype if name == "torch" else dtype).items():
                if not _allowed(session, sizes_at(self._bundle.manifest.dims, point)):
                    continue
                self._tell(f"{label} at {point}")
                result = self._point(session, reader, point, yardstick)
                points.append(result)
                if guilty is None and not result.verdict.ok and result.failure is None:
                    self._tell(f"{label}: search for the guilty node at {point}")
                    guilty = self._guilty(reader, yardstick, result)
                if bisect and bisection is None and not result.verdict.ok and name != "torch":
                    bisection = self._bisect(name, label, yardstick, point)
        if not points:
            why = f"The {name} session has none of the sizes of the goldens: {_sizes(session)}."
            return RuntimeResult(runtime=name, dtype=dtype, verdict=None, unavailable=why)
        verdict = Verdict.worst(p.verdict for p in points)
        if self._changed is not None and name != "torch":
            # What was changed may lie where no golden reaches, or hardly: the numbers cannot speak for it.
            verdict = Verdict.BROKEN
            guilty = guilty if guilty and guilty.node in self._changed.among else self._changed
        return RuntimeResult(
            runtime=name, dtype=dtype, verdict=verdict, points=tuple(points), guilty=guilty, bisection=bisection
        )

    def _bisect(self, name: str, label: str, yardstick: Yardstick, point: Point) -> Bisection:
        """Which kernels of a runtime are to blame at a point."""
        opener, model = opener_of(self._bundle, name), self._anatomy.model.SerializeToString()
        failures: list[str] = []

        def passes(bodies: frozenset[str]) -> bool:
            self._tell(f"{label}: bisect, bodies of {', '.join(sorted(bodies))}")
            reader = onnx_reader(self._anatomy, name, functools.partial(opener, bodies=bodies))
            try:
                with opener(model, bodies) as session:
                    result = self._point(session, reader, point, yardstick)
            except DynError as error:
                failures.append(str(error))
                return False
            failures.extend(filter(None, [result.failure]))
            return result.verdict.ok

        nodes = [site.node for site in self._anatomy.sites if site.dynamic]
        found = find_kernels(nodes, passes)
        return found.model_copy(update={"failure": failures[0]}) if failures else found

    def operators(self, results: Sequence[RuntimeResult]) -> tuple[OperatorResult, ...]:
        """Kernel against body of every node of ours at the smallest point, if both of their runtimes ran."""
        ran = {r.runtime for r in results if r.points and all(p.failure is None for p in r.points)}
        if not {KERNELS, BODIES} <= ran or self._changed is not None:
            return ()
        self._tell("kernel against body, node by node")
        smallest = next(iter(self._measure(self._dtype).values()))
        return compare_operators(self._anatomy, smallest.inputs, self._dtype)

    def _reader(self, name: str, dtype: str) -> Reader:
        if name != "torch":
            return onnx_reader(self._anatomy, name, opener_of(self._bundle, name))
        return torch_reader(self._anatomy, self._programs[dtype])

    def _point(self, session: Session, read: Reader, point: Point, yardstick: Yardstick) -> PointResult:
        sizes = sizes_at(self._bundle.manifest.dims, point)
        try:
            outputs = session.run(yardstick.inputs)
            reading = read(yardstick.inputs, ()) if self._anatomy.choices else Reading({}, {})
        except DynError as error:
            return PointResult(point=point, sizes=sizes, verdict=Verdict.BROKEN, failure=str(error))
        decisions = reading.decisions
        for choice in self._anatomy.choices:
            taken, expected = decisions[choice.source], yardstick.decisions[choice.source]
            if taken.shape != expected.shape:
                why = f"{choice.node} takes decisions of shape {list(taken.shape)}, not {list(expected.shape)}."
                return PointResult(point=point, sizes=sizes, verdict=Verdict.BROKEN, failure=why)
        given = yardstick.given(decisions)
        judged = self._outputs(outputs, given, yardstick)
        if reading.unsure and not all(o.judgement.verdict.ok for o in judged):
            # Outputs that agree with float64 are right, whatever could be read of the decisions.
            float64s = decisions | {source: yardstick.decisions[source] for source in reading.unsure}
            again = self._outputs(outputs, yardstick.given(float64s), yardstick)
            if all(o.judgement.verdict.ok for o in again):
                judged, decisions, given = again, float64s, yardstick.given(float64s)
        choices = tuple(
            judge_choice(
                choice,
                decisions[choice.source],
                given.reference_tensors[choice.source],
                given.own_tensors[choice.source],
                yardstick.dtype,
            )
            for choice in self._anatomy.choices
        )
        verdicts = [o.judgement.verdict for o in judged]
        verdicts += [Verdict.BROKEN for c in choices if not c.admissible]
        return PointResult(point=point, sizes=sizes, verdict=Verdict.worst(verdicts), outputs=judged, choices=choices)

    def _outputs(self, outputs: Arrays, given: Given, yardstick: Yardstick) -> tuple[OutputResult, ...]:
        return tuple(self._output(name, outputs[name], given, yardstick) for name in given.reference)

    def _output(self, name: str, actual: Array, given: Given, yardstick: Yardstick) -> OutputResult:
        reference, own = given.reference[name], compare(given.own[name], given.reference[name])
        if actual.shape != reference.shape:
            judgement = Judgement(Verdict.BROKEN, "shape", math.inf, 0.0)
            return OutputResult(name=name, error=None, yardstick=own, judgement=judgement)
        error = compare(actual, reference)
        identical = bit_equal(actual, yardstick.outputs[name])
        return OutputResult(
            name=name, error=error, yardstick=own, judgement=judge(error, own, yardstick.dtype, identical)
        )

    def _guilty(self, read: Reader, yardstick: Yardstick, result: PointResult) -> Guilty | None:
        outputs = {o.name: o.judgement for o in result.outputs if not o.judgement.verdict.ok}
        guilty = find_guilty(self._anatomy, read, yardstick, yardstick.dtype, outputs)
        if guilty is not None:
            return guilty
        for choice in result.choices:
            if not choice.admissible:  # by a value that is within noise: nothing before it can be blamed
                judgement = Judgement(Verdict.BROKEN, "gap", choice.gap, choice.margin)
                return Guilty(choice.node, choice.op_type, judgement, (choice.node,))
        return None
