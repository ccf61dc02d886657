"""What a runtime is measured with: model.pt2 in float64 and in the bundle's dtype, deciding alike.

Both run the ops on their references: an error of a compiled kernel must not widen the margin that it is judged by.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dyndeploy.bundle import Arrays, Bundle
from dyndeploy.errors import DynError
from dyndeploy.native import disabled
from dyndeploy.runtimes.program import Program
from dyndeploy.tensors import Point, TensorSpec
from dyndeploy.testing.numeric import compare
from dyndeploy.verdict.choices import decide, same
from dyndeploy.verdict.inner import Choice

#: Relative L2 within which model.pt2 in float64 reproduces the stored reference, on another machine and torch too.
_REPRODUCED = 1e-9


@dataclass(frozen=True)
class Given:
    """Both programs under one set of decisions.

    Attributes:
        reference, own: output name -> float64 reference, and PyTorch's output at the bundle's dtype.
        reference_tensors, own_tensors: the same for what the choices go by; op node of model.pt2 -> guide or
            saliency.
    """

    reference: Arrays
    own: Arrays
    reference_tensors: Arrays
    own_tensors: Arrays


class Yardstick:
    """The two programs on the golden inputs of one point.

    Args:
        bundle: the bundle.
        point: the point.
        reference: model.pt2 in float64.
        own: model.pt2 in the bundle's dtype.
        choices: the nodes that take discrete decisions.

    Attributes:
        dtype: of `own`, by which errors are judged.
        inputs: the golden inputs, in the order of the program's.
        outputs: PyTorch's own outputs at the bundle's dtype, with its own decisions.
        decisions: those of float64: op node of model.pt2 -> decisions.

    Raises:
        DynError: model.pt2 does not compute the stored reference: then nothing can be measured.
    """

    def __init__(
        self, bundle: Bundle, point: Point, reference: Program, own: Program, choices: Sequence[Choice]
    ) -> None:
        self._programs, self._choices = (reference, own), choices
        self.dtype = str(own.dtype).removeprefix("torch.")
        self._outputs: list[TensorSpec] = bundle.manifest.outputs
        inputs, expected = bundle.goldens(point)
        self.inputs = {spec.name: inputs[spec.name] for spec in bundle.manifest.inputs}
        computed, reference_tensors = self._run(reference)
        self.outputs, own_tensors = self._run(own)
        for name, array in expected.items():
            distance = compare(computed[name], array).relative_l2
            if not distance <= _REPRODUCED:
                raise DynError(
                    f"model.pt2 does not compute the stored reference of {name} at {point}: "
                    f"relative L2 {distance:.1e} in float64.",
                    why=f"Changed since the export: {', '.join(bundle.changed_files()) or 'no file'}.",
                    fix="Export the model again.",
                )
        self.decisions = self._decide(reference_tensors)
        self._plain = Given(expected, self.outputs, reference_tensors, own_tensors)
        self._own_decisions = self._decide(own_tensors)

    def given(self, decisions: Arrays) -> Given:
        """Both programs with the decisions imposed on them, where they would decide otherwise."""
        reference, reference_tensors = self._plain.reference, self._plain.reference_tensors
        own, own_tensors = self._plain.own, self._plain.own_tensors
        if not same(decisions, self.decisions):
            reference, reference_tensors = self._run(self._programs[0], decisions)
        if not same(decisions, self._own_decisions):
            own, own_tensors = self._run(self._programs[1], decisions)
        return Given(reference, own, reference_tensors, own_tensors)

    def inner(self, references: Collection[str], decisions: Arrays) -> tuple[Arrays, Arrays]:
        """Inner values of both programs under these decisions: node of model.pt2 -> value."""
        arrays = list(self.inputs.values())
        with disabled():
            reference, own = (p.run(arrays, watch=set(references), choices=decisions)[1] for p in self._programs)
        return reference, own

    def _run(self, program: Program, decisions: Arrays | None = None) -> tuple[Arrays, Arrays]:
        watch = {choice.reference for choice in self._choices}
        with disabled():
            results, seen = program.run(list(self.inputs.values()), watch=watch, choices=decisions or {})
        outputs = {spec.name: result for spec, result in zip(self._outputs, results, strict=True)}
        if program is self._programs[1]:
            outputs = {s.name: outputs[s.name].astype(s.numpy_dtype, copy=False) for s in self._outputs}
        return outputs, {choice.source: seen[choice.reference] for choice in self._choices}

    def _decide(self, tensors: Arrays) -> Arrays:
        return {choice.source: decide(choice, tensors[choice.source]) for choice in self._choices}
