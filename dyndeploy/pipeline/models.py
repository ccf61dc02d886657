"""Our networks beside the papers': parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from dyndeploy.errors import DynError, nearest
from dyndeploy.models import create_model, list_models
from dyndeploy.models.macs import count_macs
from dyndeploy.models.published import PUBLISHED, Published, value_of

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ModelRow:
    """One network, with its default options.

    Attributes:
        name: as `create_model` takes it.
        input_shapes: for which the multiply-accumulates are counted.
        parameters, macs, generator, elementwise: ours, as in `MacCount`; `generator` is part of `macs`.
        published: the figures of the paper or its official code, and where they come from.
        parameters_difference, macs_difference: ours minus published, in percent of published; None without a figure.
            Where the published figure counts elementwise operations, they are added to ours.
    """

    name: str
    input_shapes: tuple[tuple[int, ...], ...]
    parameters: int
    macs: int
    generator: int
    elementwise: Mapping[str, int]
    published: Published
    parameters_difference: float | None
    macs_difference: float | None


def models(pattern: str = "*", *, progress: Progress | None = None) -> tuple[ModelRow, ...]:
    """Count the parameters and the multiply-accumulates of networks, without memory for their weights.

    Args:
        pattern: shell-style, "scnet*".
        progress: called with the name of each network before it is counted.

    Raises:
        DynError: no network has such a name.
    """
    names = list_models(pattern)
    if not names:
        raise DynError(f"There is no model {pattern!r}.", fix=nearest(pattern.lower(), list_models()))
    rows = []
    for name in names:
        if progress is not None:
            progress(name)
        rows.append(_row(name, PUBLISHED.get(name, Published())))
    return tuple(rows)


def _row(name: str, published: Published) -> ModelRow:
    with torch.device("meta"):
        model = create_model(name)
    count = count_macs(model, published.input_shapes)
    return ModelRow(
        name,
        published.input_shapes,
        count.parameters,
        count.total,
        count.generator,
        count.elementwise,
        published,
        _difference(count.parameters, published.parameters),
        _difference(count.total + published.elementwise * sum(count.elementwise.values()), published.macs),
    )


def _difference(ours: int, figure: str | None) -> float | None:
    return None if figure is None else 100 * (ours / value_of(figure) - 1)
