"""Which kernels make a runtime wrong: nodes of ours are swapped for their bodies until it is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict


class Bisection(BaseModel):
    """What swapping showed.

    Attributes:
        guilty: the nodes whose kernel is wrong: with these by their bodies the runtime passes, and with the kernel of
            the last of them it does not.
        cured: whether it passes with all nodes by their bodies. If not, the fault is in what is around them, or in
            bodies and kernels alike, and `guilty` is empty.
        trials: models that were run; with TensorRT engines built.
        failure: why a model with bodies could not be run, where that is so.
    """

    model_config = ConfigDict(frozen=True)

    guilty: tuple[str, ...]
    cured: bool
    trials: int
    failure: str | None = None


def bisect(nodes: Sequence[str], passes: Callable[[frozenset[str]], bool]) -> Bisection:
    """Find the nodes to blame, each in about log2(number of nodes) trials.

    Args:
        nodes: the names of nodes that have a kernel and a body, in topological order.
        passes: whether the model passes with these nodes by their bodies; it is known not to with none of them.

    Example:
        >>> wrong = {"b", "e"}
        >>> bisect("abcdefgh", lambda swapped: wrong <= swapped).guilty
        ('b', 'e')
    """
    known: dict[frozenset[str], bool] = {frozenset(): False}

    def tried(swapped: frozenset[str]) -> bool:
        if swapped not in known:
            known[swapped] = passes(swapped)
        return known[swapped]

    found: list[str] = []
    cured = bool(nodes) and tried(frozenset(nodes))
    while cured and not tried(frozenset(found)):
        rest = [node for node in nodes if node not in found]
        low, high = 0, len(rest)  # with the first `low` of them it fails, with the first `high` it passes
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if tried(frozenset([*found, *rest[:middle]])) else (middle, high)
        found.append(rest[high - 1])
    return Bisection(guilty=tuple(n for n in nodes if n in found), cured=cured, trials=len(known) - 1)
