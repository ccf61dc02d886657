"""What a model takes: names, shapes with named dims and ranges, from what the caller gave."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dyndeploy.errors import DynError
from dyndeploy.tensors import Dim, TensorSpec, split_multiple

ExampleInputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Shape = Sequence[int | str]
DimValue = Dim | int | Sequence[int] | Mapping[str, int] | str


def flat_examples(example_inputs: ExampleInputs) -> tuple[list[Tensor], list[str]]:
    """The example tensors in order, and the keywords they are passed by (none for positional).

    Raises:
        DynError: they are no tensors.
    """
    allowed = "A tensor, a tuple of tensors, or a dict from argument name to tensor."
    keywords: list[str] = []
    if isinstance(example_inputs, Tensor):
        tensors: list[Any] = [example_inputs]
    elif isinstance(example_inputs, Mapping):
        keywords, tensors = list(example_inputs), list(example_inputs.values())
    elif isinstance(example_inputs, Sequence):
        tensors = list(example_inputs)
    else:
        raise DynError(f"example_inputs is a {type(example_inputs).__name__}.", fix=allowed)
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise DynError(f"example_inputs holds a {type(tensor).__name__}.", fix=allowed)
    return tensors, keywords


def input_names(
    model: nn.Module, examples: Sequence[Tensor], keywords: Sequence[str], inputs: Mapping[str, Shape] | None
) -> list[str]:
    """One name per example: as given, by keyword, or by forward's parameters.

    Raises:
        DynError: the names given are not those of the examples.
    """
    _check_mapping("inputs", inputs, '{"image": ["batch", 3, "height", "width"]}')
    if keywords:
        if inputs is not None and set(inputs) != set(keywords):
            raise DynError(
                f"inputs names {sorted(inputs)}, example_inputs {sorted(keywords)}.", fix="Use one set of names."
            )
        return list(keywords)
    if inputs is not None:
        if len(inputs) != len(examples):
            raise DynError(f"inputs names {len(inputs)} tensors, example_inputs holds {len(examples)}.")
        return list(inputs)
    parameters = list(inspect.signature(model.forward).parameters)
    return (
        parameters[: len(examples)]
        if len(parameters) >= len(examples)
        else [f"input_{i}" for i in range(len(examples))]
    )


def input_specs(
    names: Sequence[str],
    examples: Sequence[Tensor],
    inputs: Mapping[str, Shape] | None,
    dims: Mapping[str, DimValue] | None,
    ranges: Mapping[str, tuple[float, float]] | None,
) -> tuple[list[TensorSpec], dict[str, Dim]]:
    """The specs of the inputs, and every dim that `dims` defines.

    Raises:
        DynError: shapes, dims and ranges do not fit each other or the examples.
    """
    _check_mapping("dims", dims, '{"batch": (1, 4, 8)}')
    _check_mapping("ranges", ranges, '{"image": (0.0, 1.0)}')
    sizes = {name: Dim.parse(name, value) for name, value in (dims or {}).items()}
    unknown = sorted(set(ranges or {}) - set(names))
    if unknown:
        raise DynError(f"ranges names {', '.join(unknown)}, which is no input.", fix=f"one of {', '.join(names)}")
    if inputs is None and sizes and set(sizes) != {"batch"}:
        raise DynError(
            f"dims names {', '.join(sizes)}, but nothing says where they stand.",
            fix=f'inputs={{"{names[0]}": ["batch", 3, "height", "width"]}}',
        )
    specs, used = [], set()
    for name, example in zip(names, examples):
        if inputs is not None:
            if isinstance(inputs[name], str) or not isinstance(inputs[name], Sequence):
                raise DynError(
                    f"inputs.{name}={inputs[name]!r} is not a shape.",
                    fix=f"{list(example.shape)}, with names of dims",
                )
            shape = tuple(inputs[name])
        elif sizes:  # "batch" alone is the first dim of every input
            shape = ("batch", *example.shape[1:])
        else:
            shape = tuple(example.shape)
        if len(shape) != example.dim():
            raise DynError(f"inputs.{name} has {len(shape)} dims, the example {example.dim()}: {list(example.shape)}.")
        for axis, (dim, size) in enumerate(zip(shape, example.shape)):
            if isinstance(dim, str):
                factor, base = split_multiple(dim)
                used.add(base)
                if base not in sizes:
                    typical = max(1, size // factor)
                    raise DynError(
                        f"inputs.{name} has a dim {base!r} that dims does not define.",
                        fix=f'dims={{"{base}": (1, {typical}, {2 * typical})}}'
                        if base.isidentifier()
                        else 'The name of a dim, or a multiple of one such as "2*height".',
                    )
            elif dim != size:
                raise DynError(f"inputs.{name} says {dim} for dim {axis}, the example has {size}.")
        specs.append(
            TensorSpec(
                name=name,
                dtype=str(example.dtype).removeprefix("torch."),
                shape=shape,
                range=_given_range(name, ranges[name]) if ranges and name in ranges else _range(example),
            )
        )
    unused = sorted(set(sizes) - used)
    if unused:
        raise DynError(
            f"dims defines {', '.join(unused)}, which no input uses.", fix="Name it in inputs, or leave it out."
        )
    return specs, sizes


def _check_mapping(argument: str, value: object, example: str) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise DynError(f"{argument} is a {type(value).__name__}, expected a dict.", fix=f"{argument}={example}")


def _given_range(name: str, value: tuple[float, float]) -> tuple[float, float] | None:
    try:
        return TensorSpec(name=name, shape=(), range=value).range
    except ValidationError:
        raise DynError(
            f"ranges.{name}={value!r} is not a range.",
            why="It is (low, high) with low < high, both finite.",
            fix=f'ranges={{"{name}": (0.0, 1.0)}}',
        ) from None


def _range(example: Tensor) -> tuple[float, float] | None:
    """The example's own range, when it says anything: realistic values for the inputs that the bundle keeps."""
    if example.dtype == torch.bool or example.numel() == 0:
        return None
    low, high = float(example.min()), float(example.max())
    return (low, high) if -math.inf < low < high < math.inf else None
