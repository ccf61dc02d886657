"""What a model takes: names, shapes with named dims and ranges, from what the caller gave."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dyndeploy.errors import DynError
from dyndeploy.tensors import Dim, TensorSpec

ExampleInputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Shape = Sequence[int | str]
DimValue = Dim | int | Sequence[int] | Mapping[str, int] | str


def flat_examples(example_inputs: ExampleInputs) -> tuple[list[Tensor], list[str]]:
    """The example tensors in order, and the keywords they are passed by (none for positional)."""
    keywords: list[str] = []
    if isinstance(example_inputs, Tensor):
        tensors: list[Any] = [example_inputs]
    elif isinstance(example_inputs, Mapping):
        keywords, tensors = list(example_inputs), list(example_inputs.values())
    else:
        tensors = list(example_inputs)
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise DynError(
                f"example_inputs holds a {type(tensor).__name__}.",
                fix="A tensor, a tuple of tensors, or a dict from argument name to tensor.",
            )
    return tensors, keywords


def input_names(
    model: nn.Module, examples: Sequence[Tensor], keywords: Sequence[str], inputs: Mapping[str, Shape] | None
) -> list[str]:
    """One name per example: as given, by keyword, or by forward's parameters.

    Raises:
        DynError: the names given are not those of the examples.
    """
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
            shape = tuple(inputs[name])
        elif sizes:  # "batch" alone is the first dim of every input
            shape = ("batch", *example.shape[1:])
        else:
            shape = tuple(example.shape)
        if len(shape) != example.dim():
            raise DynError(f"inputs.{name} has {len(shape)} dims, the example {example.dim()}: {list(example.shape)}.")
        for axis, (dim, size) in enumerate(zip(shape, example.shape)):
            if isinstance(dim, str):
                used.add(dim)
                if dim not in sizes:
                    raise DynError(
                        f"inputs.{name} has a dim {dim!r} that dims does not define.",
                        fix=f'dims={{"{dim}": (1, {size}, {2 * size})}}',
                    )
            elif dim != size:
                raise DynError(f"inputs.{name} says {dim} for dim {axis}, the example has {size}.")
        specs.append(
            TensorSpec(
                name=name,
                dtype=str(example.dtype).removeprefix("torch."),
                shape=shape,
                range=(ranges or {}).get(name) or _range(example),
            )
        )
    unused = sorted(set(sizes) - used)
    if unused:
        raise DynError(
            f"dims defines {', '.join(unused)}, which no input uses.", fix="Name it in inputs, or leave it out."
        )
    return specs, sizes


def _range(example: Tensor) -> tuple[float, float] | None:
    """The example's own range, when it says anything: realistic values for the inputs that the bundle keeps."""
    if example.dtype == torch.bool or example.numel() == 0:
        return None
    low, high = float(example.min()), float(example.max())
    return (low, high) if low < high else None
