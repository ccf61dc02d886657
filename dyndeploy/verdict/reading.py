"""What a runtime shows of its inside: values, and the decisions that it took."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import onnx

from dyndeploy.bundle import Arrays
from dyndeploy.graph.probe import with_choices, with_outputs
from dyndeploy.runtimes import Session, open_session
from dyndeploy.runtimes.program import Program
from dyndeploy.verdict.choices import decide
from dyndeploy.verdict.inner import Anatomy


@dataclass(frozen=True)
class Reading:
    """Inner values of one run, and what was decided in it.

    Attributes:
        values: value of model.onnx -> array.
        decisions: op node of model.pt2 -> regions or kept channels.
        unsure: those of these nodes that may have decided otherwise, where two candidates are equal but for rounding.
    """

    values: Arrays
    decisions: Arrays
    unsure: tuple[str, ...] = ()


#: The runtime with compiled kernels of ours, and the one that runs the bodies instead.
KERNELS, BODIES = "onnxruntime", "onnxruntime-bodies"
#: Reads a runtime: (inputs, names of values of model.onnx) -> those values, and all decisions.
Reader = Callable[[Arrays, Sequence[str]], Reading]


def torch_reader(anatomy: Anatomy, program: Program) -> Reader:
    """A reader of the torch runtime; it shows the values that have a reference.

    What an op decides by is rounded to the program's dtype before, and read as it is: the decisions follow from it.
    """

    def read(inputs: Arrays, values: Sequence[str]) -> Reading:
        at = {value: anatomy.reference[value] for value in values}
        watch = {*at.values(), *(choice.reference for choice in anatomy.choices)}
        _, seen = program.run(list(inputs.values()), watch=watch)
        decisions = {choice.source: decide(choice, seen[choice.reference]) for choice in anatomy.choices}
        return Reading({value: seen[name] for value, name in at.items()}, decisions)

    return read


def onnx_reader(
    anatomy: Anatomy, runtime: str, opened: Callable[[bytes], AbstractContextManager[Session]] | None = None
) -> Reader:
    """A reader of any runtime that runs model.onnx: a copy of the model gives values and decisions out.

    A runtime fuses less around a value that it has to give out, and rounds it, so that the last bits of others may
    differ, and a decision with them: the decisions are those of the same run. They are taken by the nodes of the op's
    body. A compiled kernel in a float16 model decides by the value as it is given out, or, where ONNX Runtime widened
    it, by one that nobody else sees.

    Args:
        anatomy: the graph.
        runtime: its name.
        opened: opens a copy of the model in it; where left out, it is a runtime that takes ONNX.
    """
    opened = opened or functools.partial(open_session, runtime=runtime)
    names = {choice.node: f"{choice.node}/choice" for choice in anatomy.choices}
    half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in anatomy.model.graph.initializer)
    by_kernel = anatomy.choices if runtime == KERNELS and half else []

    def read(inputs: Arrays, values: Sequence[str]) -> Reading:
        widened = _widened(anatomy.model, inputs) if by_kernel else set()
        rounded = [choice for choice in by_kernel if choice.node not in widened]
        shown = [*values, *(choice.value for choice in rounded), *names.values()]
        with opened(with_outputs(with_choices(anatomy.model, names), shown)) as session:
            seen = inputs | session.run(inputs)
        decisions = {choice.source: seen[names[choice.node]] for choice in anatomy.choices}
        decisions |= {choice.source: decide(choice, seen[choice.value]) for choice in rounded}
        unsure = tuple(choice.source for choice in by_kernel if choice.node in widened)
        return Reading({value: seen[value] for value in values}, decisions, unsure)

    return read


def _widened(model: onnx.ModelProto, inputs: Arrays) -> set[str]:
    from dyndeploy.runtimes.onnxruntime import widened_nodes

    return widened_nodes(model.SerializeToString(), inputs)
