"""From a module and example inputs to a torch.export program with named inputs, outputs and dims."""

from __future__ import annotations

import inspect
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

import dyndeploy.ops.all  # noqa: F401
from dyndeploy.errors import DynError
from dyndeploy.ops.dcnv2.op import decompose_torchvision
from dyndeploy.runtimes.quiet import quiet
from dyndeploy.tensors import Dim, TensorSpec, seeded_arrays, sizes_at, split_multiple
from dyndeploy.tracing.signature import DimValue, ExampleInputs, Shape, flat_examples, input_names, input_specs


@dataclass
class Traced:
    """A traced model.

    Attributes:
        program: the exported program.
        inputs: specs of the inputs, in the program's order; dims that can take one size only are ints.
        output_names: names of the outputs, in the program's order.
        dims: the named dims that can take more than one size.
        symbols: torch's symbol (s77) -> expression of a dim's name.
    """

    program: ExportedProgram
    inputs: list[TensorSpec]
    output_names: list[str]
    dims: dict[str, Dim]
    symbols: dict[str, str]


@dataclass
class _Call:
    """Arguments of one call of the model."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]


def trace(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    inputs: Mapping[str, Shape] | None = None,
    dims: Mapping[str, DimValue] | None = None,
    outputs: Sequence[str] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    seed: int = 0,
) -> Traced:
    """Run torch.export on the model in eval mode, with dynamic dims where `inputs` names them.

    Arguments as in `dyndeploy.export`. The model's training flags are as before when it returns.

    Raises:
        DynError: names, shapes or dims do not fit each other or the model.
    """
    _check_model(model)
    examples, keywords = flat_examples(example_inputs)
    names = input_names(model, examples, keywords, inputs)
    specs, sizes = input_specs(names, examples, inputs, dims, ranges)
    flexible = {name: dim for name, dim in sizes.items() if dim.min < dim.max}

    def call(at: Mapping[str, int]) -> _Call:
        arguments = [_tensor(a) for a in seeded_arrays(specs, at, seed).values()]
        return _Call(() if keywords else tuple(arguments), dict(zip(keywords, arguments)))

    # A size of 1, or of one multiple, would be taken for a constant by torch.export: it is traced with a larger one.
    traced = call({name: dim.opt if dim.opt > dim.multiple else dim.max for name, dim in sizes.items()})
    with eval_mode(model):
        output_names = _output_names(_run(model, traced), outputs)
        program = _export(model, traced, specs, flexible)
        for each in (traced, call(sizes_at(sizes, "min"))):
            results = _run(model, each)
            _check_finite(model, results)
            _compare(program, each, results)
    return Traced(
        program,
        [spec.model_copy(update={"shape": tuple(_settled(d, sizes) for d in spec.shape)}) for spec in specs],
        output_names,
        flexible,
        _symbols(program, specs, flexible),
    )


def _settled(dim: int | str, sizes: Mapping[str, Dim]) -> int | str:
    """The entry of a shape, as an int where its dim has one size only."""
    if isinstance(dim, int):
        return dim
    factor, name = split_multiple(dim)
    return dim if sizes[name].min < sizes[name].max else factor * sizes[name].min


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype == ml_dtypes.bfloat16:  # which from_numpy does not know
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(array)


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise DynError(f"export takes an nn.Module, got {type(model).__name__}.")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise DynError(
                f"{name} is {tensor.dtype}; export takes a float32 model and casts the graph.",
                fix="model.float(), and precision='fp16' or 'bf16'",
            )
        if tensor.device.type != "cpu":
            raise DynError(f"{name} is on {tensor.device}; export traces on the CPU.", fix="model.cpu()")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; every module's flag is as before at the end."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag


def _run(model: nn.Module, call: _Call) -> Any:
    shapes = [list(t.shape) for t in (*call.args, *call.kwargs.values())]
    try:
        with torch.no_grad():
            return model(*call.args, **call.kwargs)
    except DynError:
        raise
    except Exception as error:
        raise DynError(
            f"The model does not run on inputs of shape {', '.join(map(str, shapes))}.",
            why=f"{type(error).__name__}: {_first_lines(str(error))}",
            fix="Check example_inputs, inputs and dims.",
        ) from error


def _output_names(results: Any, outputs: Sequence[str] | None) -> list[str]:
    leaves = pytree.tree_flatten_with_path(results)[0]
    for _, leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise DynError(
                f"The model returns a {type(leaf).__name__} among its outputs; only tensors can be exported."
            )
    if outputs is not None:
        if len(outputs) != len(leaves) or len(set(outputs)) != len(outputs):
            raise DynError(f"outputs={list(outputs)}, but the model returns {len(leaves)} tensors.")
        return list(outputs)
    names = ["_".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path) for path, _ in leaves]
    if len(names) == 1 and not names[0]:
        return ["output"]
    return [f"output_{name}" if name[:1].isdigit() else name for name in names]


def _export(model: nn.Module, call: _Call, specs: Sequence[TensorSpec], flexible: Mapping[str, Dim]) -> ExportedProgram:
    parts: dict[str, Any] = {
        name: torch.export.Dim(
            name if dim.multiple == 1 else f"_{name}", min=dim.min // dim.multiple, max=dim.max // dim.multiple
        )
        for name, dim in flexible.items()
    }
    shapes: list[dict[int, Any]] = [{} for _ in specs]
    for spec, shape in zip(specs, shapes):
        for axis, entry in enumerate(spec.shape):
            factor, name = split_multiple(str(entry))
            if name in flexible:
                scale = factor * flexible[name].multiple
                shape[axis] = parts[name] if scale == 1 else scale * parts[name]
    dynamic_shapes: Any = dict(zip(call.kwargs, shapes)) if call.kwargs else _for_signature(model, shapes)
    printed = io.StringIO()  # when it fails, torch prints the graph so far before it raises
    try:
        with quiet(), _sizes_of_one(), redirect_stderr(printed):
            program = torch.export.export(model, call.args, call.kwargs, dynamic_shapes=dynamic_shapes, strict=False)
            program = decompose_torchvision(program)
    except Exception as error:
        message = str(error)
        if "Constraints violated" in message or "ConstraintViolation" in type(error).__name__:
            raise DynError(
                "The model does not take every size that dims allows.",
                why=_first_lines(message),
                fix=_suggestion(message, flexible),
            ) from error
        raise DynError("torch.export cannot trace the model.", why=_first_lines(message)) from error
    sys.stderr.write(printed.getvalue())
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it holds paths of this machine
    return program


def _suggestion(message: str, flexible: Mapping[str, Dim]) -> str:
    """What torch suggests, as arguments to type: a multiple ("height = 16*_height"), or a relation ("h2 = 2*h")."""
    for line in message.splitlines():
        related = _relation(line, flexible)
        if related:
            dim, instead = related
            return _write_instead(dim, instead)
    found = {name: int(factor) for name, factor in re.findall(r"^\s*(\w+) = (\d+)\*", message, re.MULTILINE)}
    if not found.keys() & flexible.keys():
        return "Narrow the dim, or give it one size."
    dims = {n: flexible[n] for n in found if n in flexible}
    typed = ", ".join(f'"{n}": ({d.min}, {d.opt}, {d.max}, {found[n]})' for n, d in dims.items())
    return f"dims={{{typed}}}: the fourth number says that sizes are multiples of it."


def _write_instead(dim: str, instead: str) -> str:
    return f'Write "{instead}" for "{dim}" in inputs, and leave {dim} out of dims: the model relates them.'


def _relation(line: str, flexible: Mapping[str, Dim]) -> tuple[str, str] | None:
    """The dim that a suggestion ("2*_h2 = 2*h") makes a multiple of another one, and that multiple ("2*h")."""
    match = re.search(r"(?:^\s*|\bby )(?:(\d+)\*)?(\w+) = (?:(\d+)\*)?(\w+)\.?$", line)
    if match is None:
        return None
    factors, names = [], []
    for factor, part in ((match[1], match[2]), (match[3], match[4])):
        name = part if part in flexible else part.removeprefix("_")
        if name not in flexible:
            return None
        names.append(name)
        factors.append(Fraction(int(factor or 1), 1 if name == part else flexible[name].multiple))
    if names[0] == names[1]:
        return None
    ratio = factors[1] / factors[0]
    if ratio < 1:
        ratio, names = 1 / ratio, names[::-1]
    if ratio.denominator != 1:
        return None
    return names[0], names[1] if ratio == 1 else f"{ratio}*{names[1]}"


def _sizes_of_one() -> AbstractContextManager[Any]:
    """Let a size that is derived from a dynamic one be 1 at the dim's minimum (a small map, pooled).

    By default torch.export takes "never 1" for granted and refuses the dim. With this setting it takes for granted that
    nothing is broadcast where the size happens to be 1; `trace` compares the program with the model at the minimum.
    """
    from torch.fx.experimental import _config

    return _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined, no-any-return]


def _for_signature(model: nn.Module, shapes: Sequence[dict[int, Any]]) -> Any:
    """dynamic_shapes in the structure of forward's parameters: *args collects what is left."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    for index, parameter in enumerate(parameters):
        if parameter.kind == inspect.Parameter.VAR_POSITIONAL:
            return (*shapes[:index], tuple(shapes[index:]))
    return tuple(shapes)


def _first_lines(message: str, count: int = 12) -> str:
    lines = [line for line in message.strip().splitlines() if line.strip()]
    return "\n    ".join(lines[:count])


def _check_finite(model: nn.Module, results: Any) -> None:
    for leaf in pytree.tree_leaves(results):
        if not leaf.isfinite().all():
            broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
            raise DynError(
                "The model's output is not finite.",
                why=f"The weight {broken[0]} is not finite."
                if broken
                else "The model does not survive its own input range, or it is untrained.",
                fix="Load weights that are finite."
                if broken
                else "Give realistic values in ranges; a fresh network needs weights: load_checkpoint, or, to try it, "
                "dyndeploy.testing.weights.enliven(model, *example_inputs).",
            )


def _compare(program: ExportedProgram, call: _Call, results: Any) -> None:
    """The program must compute what the module does: custom code can look different to a tracer."""
    with torch.no_grad():
        traced = program.module()(*call.args, **call.kwargs)
    for actual, expected in zip(pytree.tree_leaves(traced), pytree.tree_leaves(results)):
        if not expected.is_floating_point():
            same = torch.equal(actual, expected)
        else:
            scale = float(expected.detach().abs().max()) or 1.0
            same = bool(torch.allclose(actual, expected, rtol=1e-3, atol=1e-3 * scale))
        if not same:
            raise DynError(
                "The traced program computes something else than the model.",
                why="forward depends on something that tracing freezes: random numbers, Python state, or data.",
            )


def _symbols(program: ExportedProgram, specs: Sequence[TensorSpec], flexible: Mapping[str, Dim]) -> dict[str, str]:
    symbols: dict[str, str] = {}
    owners: dict[Any, tuple[str, Fraction]] = {}
    user_inputs = set(program.graph_signature.user_inputs)
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in user_inputs]
    for spec, node in zip(specs, placeholders):
        for dim, size in zip(spec.shape, node.meta["val"].shape):
            factor, name = split_multiple(str(dim))
            if name in flexible:
                expression = size.node.expr
                (symbol,) = expression.free_symbols
                multiple = flexible[name].multiple
                share = Fraction(int(expression / symbol), factor)  # how many times the symbol the dim is
                owner, owned = owners.setdefault(symbol, (name, share))
                if owner != name:  # torch takes a dim for a multiple of another one without a word
                    (low, one), (high, other) = sorted([(share, name), (owned, owner)])
                    raise DynError(
                        f"The dims {one} and {other} are not free: the model takes {other} = {high / low}*{one} only.",
                        fix=_write_instead(other, f"{high / low}*{one}") if (high / low).denominator == 1 else None,
                    )
                symbols[str(symbol)] = name if multiple == 1 else f"({name}//{multiple})"
    return symbols
