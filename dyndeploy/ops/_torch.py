"""How an operator becomes a torch custom op: schema from the OpSpec, fake kernel, autograd, autocast, checks.

An operator brings two plain functions (reference.py), `forward` and `backward`; everything that is the same for all of
them is here, once. Tensors go to the compiled kernels of their device (`dyndeploy.native`), where it has none to the
references.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dyndeploy.errors import DynError
from dyndeploy.native import kernels, library
from dyndeploy.ops._spec import DOMAIN, Attribute, OpSpec

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
#: Of one operator, whose shapes are remembered: evaluating the rule takes longer than a small kernel.
_MOST_SHAPES = 4096
_TORCH_TENSOR_NAMES = {"X": "x", "W": "weight", "B": "bias"}

Forward = Callable[..., Tensor]
Backward = Callable[..., tuple[Tensor | None, ...]]


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """(h, w) from one int or two."""
    if isinstance(value, int):
        return (value, value)
    values = tuple(value)
    if len(values) != 2:
        raise DynError(f"{value!r} is not one int or two (height, width).")
    return values


def four_pads(value: int | Sequence[int]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) from one int, two (height, width) or all four."""
    if not isinstance(value, int) and len(value) not in (2, 4):
        raise DynError(f"{value!r} is not one int, two (height, width) or four (top, left, bottom, right).")
    if not isinstance(value, int) and len(value) == 4:
        top, left, bottom, right = value
        return (top, left, bottom, right)
    h, w = pair(value)
    return (h, w, h, w)


def register(spec: OpSpec, forward: Forward, backward: Backward) -> Callable[..., Tensor]:
    """Define `torch.ops.dyndeploy.<spec.torch_name>` and return it.

    Args:
        spec: the operator.
        forward: `(*tensors, **attributes) -> Tensor`, attributes under their torch names; it is called with float32 or
            float64 tensors only.
        backward: `(grad, *tensors, needs, **attributes) -> one gradient per tensor`, None where `needs` is false;
            `grad` is the gradient before the ReLU.

    float16 and bfloat16 tensors are computed in float32 and rounded once. Under autocast the op runs in the autocast
    dtype. Tensors of one call share dtype and device. The output, and the gradient of a map, are channels-last where
    x, or the map, is.
    """
    spec = _with_torch_names(spec)
    assert spec.torch_name
    tensors = [t.name for t in spec.inputs]
    count = len(tensors)
    tensor_schema = ", ".join(f"Tensor {name}" for name in tensors)
    attribute_schema = ", ".join(f"{_schema_type(a)} {a.torch_name}" for a in spec.attributes)
    qualified = f"{DOMAIN}::{spec.torch_name}"

    def named(values: Sequence[Any]) -> dict[str, Any]:
        return {a.torch_name: value for a, value in zip(spec.attributes, values)}

    @functools.lru_cache(maxsize=_MOST_SHAPES)
    def known_shape(shapes: tuple[torch.Size, ...], values: tuple[Any, ...]) -> tuple[int, ...]:
        return spec.output_shape(shapes, _onnx_attributes(spec, values))

    def run(*arguments: Any) -> Tensor:
        inputs, values = arguments[:count], _hashable(arguments[count:])
        _check_tensors(spec, tensors, inputs)
        y = _empty(inputs[0], known_shape(tuple(t.shape for t in inputs), values))
        if kernels.available(spec, "forward", inputs[0]):
            kernels.forward(spec, inputs, values, y)
            return y
        return y.copy_(forward(*map(_widen, inputs), **named(values)))

    def fake(*arguments: Any) -> Tensor:
        inputs, values = arguments[:count], _hashable(arguments[count:])
        _check_tensors(spec, tensors, inputs)
        return _empty(inputs[0], spec.output_shape([t.shape for t in inputs], _onnx_attributes(spec, values)))

    op = torch.library.custom_op(
        qualified, run, mutates_args=(), schema=f"({tensor_schema}, {attribute_schema}) -> Tensor"
    )
    op.register_fake(fake)

    def run_backward(grad: Tensor, *arguments: Any) -> list[Tensor]:
        inputs, needs, values = arguments[:count], arguments[count], _hashable(arguments[count + 1 :])
        gradients = like(inputs, needs)
        if kernels.available(spec, "backward", inputs[0]):
            targets = [g if need else None for g, need in zip(gradients, needs)]
            kernels.backward(spec, grad, inputs, values, targets)
            return gradients
        grads = backward(_widen(grad), *map(_widen, inputs), needs=tuple(needs), **named(values))
        return [to if g is None else to.copy_(g.reshape(to.shape)) for to, g in zip(gradients, grads)]

    def like(inputs: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor]:
        return [_empty(t, t.shape if need else (0,)) for t, need in zip(inputs, needs)]

    backward_op = torch.library.custom_op(
        f"{qualified}_backward",
        run_backward,
        mutates_args=(),
        schema=f"(Tensor grad, {tensor_schema}, bool[] needs, {attribute_schema}) -> Tensor[]",
    )
    backward_op.register_fake(lambda grad, *arguments: like(arguments[:count], arguments[count]))
    relu_index = [a.name for a in spec.attributes].index("relu")

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.attributes = inputs[count:]
        ctx.relu = inputs[count + relu_index]
        ctx.choice = library.choice()
        ctx.save_for_backward(*inputs[:count], *([output] if ctx.relu else []))

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if ctx.relu:
            grad = grad * (saved[count] > 0)
        needs = list(ctx.needs_input_grad[:count])
        with library.resumed(ctx.choice):
            grads = backward_op(grad, *saved[:count], needs, *ctx.attributes)
        return tuple(g if need else None for g, need in zip(grads, needs)) + (None,) * len(spec.attributes)

    op.register_autograd(differentiate, setup_context=setup_context)
    _register_autocast(spec.torch_name, count)
    return op


def _with_torch_names(spec: OpSpec) -> OpSpec:
    """The spec with the torch op's tensor names: its errors then speak of the arguments that a caller wrote."""
    inputs = tuple(replace(t, name=_TORCH_TENSOR_NAMES.get(t.name, t.name)) for t in spec.inputs)
    kernel = "weight:weight" if spec.kernel == "weight:W" else spec.kernel
    return replace(spec, inputs=inputs, kernel=kernel)


def torch_op(spec: OpSpec) -> torch._ops.OpOverload:
    """The overload of a registered operator."""
    overload: torch._ops.OpOverload = getattr(torch.ops.dyndeploy, str(spec.torch_name)).default
    return overload


def operations(spec: OpSpec, arguments: Sequence[Any]) -> tuple[int, int, int]:
    """`OpSpec.operations` of a call of the torch op with these arguments."""
    count = len(spec.inputs)
    return spec.operations([t.shape for t in arguments[:count]], _onnx_attributes(spec, arguments[count:]))


def _schema_type(attribute: Attribute) -> str:
    if attribute.is_switch:
        return "bool"
    return f"int[{attribute.length}]" if attribute.type == "ints" else attribute.type


def _onnx_attributes(spec: OpSpec, values: Sequence[Any]) -> dict[str, Any]:
    def written(attribute: Attribute, value: Any) -> Any:
        # A list, as torch hands it over: it stands in errors.
        return int(value) if attribute.is_switch else list(value) if attribute.type == "ints" else value

    return {a.name: written(a, value) for a, value in zip(spec.attributes, values)}


def _widen(tensor: Tensor) -> Tensor:
    """float32 for the half types: coordinates and sums are never kept in half."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _hashable(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(tuple(v) if isinstance(v, list) else v for v in values)


def _empty(like: Tensor, shape: Sequence[Any]) -> Tensor:
    """A new tensor of the dtype and device of `like`, and channels-last if `like` is so."""
    last = len(shape) == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    return torch.empty(
        tuple(shape),
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )


def _check_tensors(spec: OpSpec, names: Sequence[str], tensors: Sequence[Tensor]) -> None:
    first = tensors[0]
    if first.dtype not in _DTYPES:
        raise DynError(
            f"{spec.label}: {names[0]} is {first.dtype}.", fix=f"one of {', '.join(str(d) for d in _DTYPES)}"
        )
    for name, tensor in zip(names, tensors):
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise DynError(
                f"{spec.label}: {name} is {tensor.dtype} on {tensor.device}, but {names[0]} is {first.dtype} "
                f"on {first.device}.",
                why="All tensors of one call share dtype and device.",
                fix=f"{name} = {name}.to({names[0]})",
            )


_AUTOCAST = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}
_libraries: list[torch.library.Library] = []


def _register_autocast(name: str, count: int) -> None:
    """Run in the dtype the user chose for autocast; CustomOpDef.register_autocast would fix one dtype for all."""
    registrations = torch.library.Library(DOMAIN, "FRAGMENT")  # type: ignore[no-untyped-call]
    _libraries.append(registrations)  # a Library's registrations end with its life
    overload = getattr(torch.ops.dyndeploy, name).default
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
        torch._C.DispatchKey.AutocastCUDA
    )
    for device, key in _AUTOCAST.items():

        def autocast(*arguments: Any, _device: str = device) -> Tensor:
            dtype = torch.get_autocast_dtype(_device)
            tensors = [t.to(dtype) if t.dtype != torch.float64 else t for t in arguments[:count]]
            with torch._C._ExcludeDispatchKeyGuard(keys):
                result: Tensor = overload(*tensors, *arguments[count:])
            return result

        registrations.impl(name, autocast, key)  # type: ignore[no-untyped-call]
