"""When a runtime's numbers are wrong: which node made them so."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from dyndeploy.graph.fingerprint import fingerprints
from dyndeploy.testing.numeric import Judgement, Verdict, bit_equal, compare, judge
from dyndeploy.verdict.inner import Anatomy, Site
from dyndeploy.verdict.reading import Reader
from dyndeploy.verdict.yardstick import Yardstick

#: Inner values that are held at a time, in three copies: the runtime's, float64's and PyTorch's.
_CHUNK = 8


@dataclass(frozen=True)
class Guilty:
    """The first node whose output is out of bounds while its inputs are fine.

    Attributes:
        node, op_type: its name and type in model.onnx.
        judgement: of its output, or of the first value behind it that can be compared.
        among: every node that it may be: those between the last values that are fine and the first that is
            not, of which no value exists in model.pt2 (after a fusion). One of our ops is named first, as
            they are what is new.
    """

    node: str
    op_type: str
    judgement: Judgement
    among: tuple[str, ...]


def changed_nodes(model: onnx.ModelProto, exported: Mapping[str, str], dynamic: Collection[str]) -> Guilty | None:
    """The nodes of a file that are no longer made of what was exported, one of ours named first.

    Args:
        model: the file as it is.
        exported: name -> digest of its nodes and bodies at the export (`dyndeploy.graph.fingerprint`). Nodes that an
            optimizer has since removed or renamed are not judged here; their numbers are.
        dynamic: names of our nodes.
    """
    now = fingerprints(model)
    changed = [name for name, digest in exported.items() if now.get(name, digest) != digest]
    if not changed:
        return None
    node = next((name for name in changed if name in dynamic), changed[0])
    op_type = next((n.op_type for n in model.graph.node if n.name == node), "function body")
    judgement = Judgement(Verdict.BROKEN, "digest", float(len(changed)), 0.0)
    return Guilty(node, op_type, judgement, tuple(changed))


def find_guilty(
    anatomy: Anatomy,
    read: Reader,
    yardstick: Yardstick,
    dtype: str,
    outputs: Mapping[str, Judgement],
) -> Guilty | None:
    """Bisect: the dynamic ops first, then the plain nodes between the last good value and the first bad one.

    Args:
        anatomy: the graph.
        read: reads the runtime's inner values, and its discrete choices, which are imposed on both programs.
        yardstick: the programs, at the point where the runtime fails.
        dtype: in which the model computes.
        outputs: the outputs that are out of bounds, and what was said of them.

    Returns:
        The guilty node; None when nothing is out of bounds once inner values are read. A value that led to a
        good one counts as good.
    """
    search = _Search(anatomy, read, yardstick, dtype)
    guides = [choice.value for choice in anatomy.choices]
    dynamic = [v for site in anatomy.sites if site.dynamic for v in (*site.inputs, *site.outputs[:1])]
    decided = [v for v in dict.fromkeys(dynamic) if v in guides or _is_op_output(anatomy, v)]
    target = search.first_bad(decided)
    candidates = search.before([target] if target else list(outputs))
    return search.blame(search.first_bad(candidates) or target or search.take_over(outputs))


def _is_op_output(anatomy: Anatomy, value: str) -> bool:
    return value in anatomy.producer and anatomy.producer[value].dynamic


class _Search:
    """Judges inner values, each at most once."""

    def __init__(self, anatomy: Anatomy, read: Reader, yardstick: Yardstick, dtype: str) -> None:
        self._anatomy, self._read, self._yardstick, self._dtype = anatomy, read, yardstick, dtype
        self._judged: dict[str, Judgement] = {}

    def first_bad(self, values: Iterable[str]) -> str | None:
        """The first broken one of values in topological order, or else the first suspicious one."""
        suspicious = None
        for chunk in _chunks([v for v in values if v in self._anatomy.reference], _CHUNK):
            self._judge([v for v in chunk if v not in self._judged])
            for value in chunk:
                verdict = self._verdict(value)
                if verdict is Verdict.BROKEN:
                    return value
                if verdict is Verdict.SUSPICIOUS and suspicious is None:
                    suspicious = value
        return suspicious

    def take_over(self, outputs: Mapping[str, Judgement]) -> str | None:
        """An output that could not be judged here, as model.pt2 has no such value, with its judgement."""
        value = next((name for name in outputs if name not in self._judged), None)
        if value is not None:
            self._judged[value] = outputs[value]
        return value

    def before(self, targets: Sequence[str]) -> list[str]:
        """The targets and what they depend on, in topological order, except what leads to a good value."""
        wanted = self._ancestors(targets) - self._fine()
        return [v for site in self._anatomy.sites for v in site.outputs if v in wanted]

    def blame(self, value: str | None) -> Guilty | None:
        """The node behind a bad value: the start of the bad stretch that ends in it."""
        if value is None:
            return None
        while earlier := self._bad_input(value):
            value = earlier
        unverified = self._unverified(value)
        stretch = [site for site in self._anatomy.sites if site in unverified]
        if not stretch:
            return None
        guilty = next((s for s in stretch if s.dynamic), self._anatomy.producer[value])
        return Guilty(guilty.node, guilty.op_type, self._judged[value], tuple(s.node for s in stretch))

    def _judge(self, values: Sequence[str]) -> None:
        if not values:
            return
        at = {value: self._anatomy.reference[value] for value in values}
        seen = self._read(self._yardstick.inputs, values)
        reference, own = self._yardstick.inner(at.values(), seen.decisions)
        for value, name in at.items():
            # A value of another shape is another value: a fusion took the name along.
            actual = seen.values[value]
            if actual.shape == reference[name].shape:
                error, noise = compare(actual, reference[name]), compare(own[name], reference[name])
                self._judged[value] = judge(error, noise, self._dtype, bit_equal(actual, own[name]))

    def _verdict(self, value: str) -> Verdict | None:
        judgement = self._judged.get(value)
        return judgement.verdict if judgement else None

    def _is_good(self, value: str) -> bool:
        verdict = self._verdict(value)
        return verdict is not None and verdict.ok

    def _ancestors(self, values: Iterable[str]) -> set[str]:
        """The values, and all that they are computed from."""
        found: set[str] = set()
        pending = list(values)
        while pending:
            value = pending.pop()
            if value not in found:
                found.add(value)
                site = self._anatomy.producer.get(value)
                pending.extend(site.inputs if site else ())
        return found

    def _unverified(self, value: str) -> set[Site]:
        """The nodes behind a value, back to the values that were judged or are fine."""
        known = self._judged.keys() | self._fine()
        found: set[Site] = set()
        pending = [value]
        while pending:
            site = self._anatomy.producer.get(pending.pop())
            if site is not None and site not in found:
                found.add(site)
                pending.extend(v for v in site.inputs if v not in known)
        return found

    def _fine(self) -> set[str]:
        """The values that are good or led to a good one."""
        return self._ancestors([v for v in self._judged if self._is_good(v)])

    def _bad_input(self, value: str) -> str | None:
        """The first value that is out of bounds among those that the stretch behind `value` starts from."""
        inputs = {v for site in self._unverified(value) for v in site.inputs}
        order = [v for site in self._anatomy.sites for v in site.outputs]
        return next((v for v in order if v in inputs and v in self._judged and not self._is_good(v)), None)


def _chunks(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
