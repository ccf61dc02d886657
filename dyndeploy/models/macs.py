"""How many multiply-accumulates a network takes, without running it.

The network is called with tensors that have shapes and no values. Every op that it executes is seen, so that a function
called in a `forward` counts as a layer does.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import dyndeploy.ops.all  # noqa: F401
from dyndeploy.errors import DynError
from dyndeploy.ops._spec import OpSpec, custom_ops
from dyndeploy.ops._torch import operations, torch_op
from dyndeploy.ops.dcnv2.op import torchvision_deform_conv2d
from dyndeploy.tracing.trace import eval_mode

aten = torch.ops.aten

#: torch's own formulas give floating-point operations, two per MAC; the others are not among them.
_FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten.mv: lambda matrix, *_, **__: 2 * matrix.numel(),
    aten.dot: lambda vector, *_, **__: 2 * vector.numel(),
    aten.mkldnn_rnn_layer: lambda x, w, recurrent, *_, **__: 2 * x[..., 0].numel() * (w.numel() + recurrent.numel()),
}
_DYNAMIC: dict[Any, OpSpec] = {torch_op(spec).overloadpacket: spec for spec in custom_ops()}
_ACTIVATIONS = {
    *("relu", "leaky_relu", "prelu_kernel", "elu", "gelu", "silu", "mish", "softplus", "softmax"),
    *("sigmoid", "hardsigmoid", "tanh", "hardtanh", "hardswish"),
}
_WINDOWS = {"avg_pool2d", "avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices"}
_MEANS = {"mean", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"}


@dataclass(frozen=True)
class MacRow:
    """One call of a layer.

    Attributes:
        name: path of the module, "" for the network itself (of functions that its `forward` calls).
        type: class of the module.
        macs: of its convolution, linear layer or matrix products.
        generator: of what makes the filters, offsets, guides or saliencies of a dynamic op.
        output_shape: of its last counted op.
    """

    name: str
    type: str
    macs: int
    generator: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class MacCount:
    """What `count_macs` counted.

    Attributes:
        rows: the layers with MACs, in the order in which they run; one that runs twice has two.
        elementwise: operations on single elements, which are no MACs and not in `total`: "activations" (one per
            element), "pooling" (one per element read), "biases" (one per output) and "dynamic" (of the dynamic ops:
            sampling and masks, joining or gating filters). Normalisations and sums of maps are not counted.
        parameters: of the network.
    """

    rows: tuple[MacRow, ...]
    elementwise: Mapping[str, int]
    parameters: int

    @property
    def generator(self) -> int:
        """MACs of all generators."""
        return sum(row.generator for row in self.rows)

    @property
    def total(self) -> int:
        """MACs of everything, generators included."""
        return sum(row.macs for row in self.rows) + self.generator

    def __str__(self) -> str:
        return f"{self.total:,} MACs, {self.generator:,} of them in generators; {self.parameters:,} parameters"


def count_macs(model: nn.Module, input_shape: Sequence[int] | Sequence[Sequence[int]]) -> MacCount:
    """Count the multiply-accumulates (MACs) of a network in eval mode: one product and one sum are one MAC.

    Counted are convolutions, linear layers, products of matrices and the dynamic ops; normalisation, activations,
    pooling and resizing are not, be they written as a product with a matrix that depends on sizes alone. Dynamic ops
    count as in the papers: DGC its kept channels only (all of them under a threshold, as how many it keeps is not known
    before it runs), DRConv one filter per pixel, DDF one product per tap and channel, DCNv2 a plain convolution. What
    makes their filters, offsets, guides or saliencies is the generator, wherever it stands: every op whose result goes
    nowhere else. It is part of the total and listed apart.

    Nothing is computed and no memory is taken: the network may also lie on the "meta" device. It stays as it is.

    Args:
        model: any network.
        input_shape: (N, C, H, W), or one shape per input. Inputs have the dtype and device of the parameters.

    Raises:
        DynError: the shape is none, or the network does not run with it, or only with values that it can look at.

    Example:
        >>> from dyndeploy.nn import ModulatedDeformConv2d
        >>> count = count_macs(ModulatedDeformConv2d(8, 16, 3, padding=1), (1, 8, 10, 10))
        >>> count.total, count.generator
        (309600, 194400)
        >>> print(count)
        309,600 MACs, 194,400 of them in generators; 3,139 parameters
    """
    shapes = _shapes(input_shape)
    counter = _Counter(model)
    tensors = itertools.chain(model.parameters(), model.buffers())
    like = next((t for t in tensors if t.is_floating_point()), torch.empty(0))
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # as tensors are that a module has beside its buffers
    with ExitStack() as stack:
        for context in (eval_mode(model), _without_values(model, fake), torch.no_grad(), _no_fast_path(), fake):
            stack.enter_context(context)
        inputs = [torch.empty(shape, dtype=like.dtype, device=like.device) for shape in shapes]
        stack.enter_context(counter.watching())
        try:
            model(*inputs)
        except DynError:
            raise
        except DataDependentOutputException as error:
            raise DynError(
                f"{type(model).__name__} looks at the values of a tensor, and there are none while MACs are counted.",
                why=str(error),
                fix="Count the modules before and after that place apart.",
            ) from error
        except Exception as error:
            given = ", ".join(map(str, shapes))
            raise DynError(
                f"{type(model).__name__} does not run with input of shape {given}.",
                why=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
                fix="One shape with the batch, as (1, 3, 224, 224), or a list with the shape of every input.",
            ) from error
    return MacCount(counter.rows(), dict(counter.elementwise), sum(p.numel() for p in model.parameters()))


def _shapes(given: Any) -> list[tuple[int, ...]]:
    try:
        several = given if isinstance(given[0], Sequence) else [given]
        shapes = [tuple(map(operator.index, shape)) for shape in several]
    except (TypeError, IndexError):
        shapes = []
    if not shapes or not all(shape and min(shape) > 0 for shape in shapes):
        raise DynError(f"input_shape={given!r}.", fix="(N, C, H, W), or a list with one such shape for every input")
    return shapes


@contextmanager
def _without_values(model: nn.Module, fake: FakeTensorMode) -> Iterator[None]:
    """The model with parameters and buffers that have shapes only.

    torch.func.functional_call does not put everything back where a weight or a module stands at two places.
    """
    stores: list[dict[str, Any]] = [s for module in model.modules() for s in (module._parameters, module._buffers)]
    originals = [dict(store) for store in stores]
    try:
        for store in stores:
            store.update({name: fake.from_tensor(t) for name, t in store.items() if t is not None})
        yield
    finally:
        for store, original in zip(stores, originals):
            store.clear()
            store.update(original)


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Without the kernel that hides a whole attention layer."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@dataclass(eq=False)
class _Call:
    """A module's forward, while it runs or after."""

    name: str
    type: str
    parent: _Call | None
    dynamic: bool = False
    macs: int = 0
    generator: int = 0
    output_shape: tuple[int, ...] = ()


@dataclass(eq=False)
class _Op:
    """An executed op.

    Attributes:
        call: the module that it ran in.
        feeds: the ops whose results it passes on.
        fixed: its result depends on sizes alone, on no input and no weight.
        macs: its own, without those that make filters.
        generation: those.
        output_shape: of its first result.
        read: some op has read its result.
        needed: its result serves for more than making filters, offsets, guides or saliencies.
    """

    call: _Call
    feeds: list[_Op]
    fixed: bool
    macs: int = 0
    generation: int = 0
    output_shape: tuple[int, ...] = ()
    read: bool = False
    needed: bool = False


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every op, in which module it ran, and whose results it read."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elementwise = dict.fromkeys(("activations", "pooling", "biases", "dynamic"), 0)
        self._names = {module: name for name, module in reversed(list(model.named_modules(remove_duplicate=False)))}
        self._calls = [_Call("", type(model).__name__, None)]
        self._call = self._calls[0]
        self._ops: list[_Op] = []
        self._writers: dict[int, _Op] = {}
        self._results: list[Any] = []  # kept, so that no storage takes the place of another

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See the ops and the modules of the model; by hooks for all modules, because its own stay as they are."""

        def enter(module: nn.Module, _: Any) -> None:
            if module in self._names:
                self._call = _Call(self._names[module], type(module).__name__, self._call)
                self._calls.append(self._call)

        def leave(module: nn.Module, *_: Any) -> None:
            if module in self._names:
                assert self._call.parent is not None
                self._call = self._call.parent

        hooks = (
            nn.modules.module.register_module_forward_pre_hook(enter),
            nn.modules.module.register_module_forward_hook(leave, always_call=True),
        )
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        if str(packet) == "torchvision.deform_conv2d":
            with self:
                return torchvision_deform_conv2d(*args, **kwargs)
        if packet not in _FLOPS and func.namespace != "prim":
            with self:  # in inference mode ops arrive that are composed of others
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        self._results.append(result)
        op = self._connect(func, args, kwargs, result)
        self._count_elements(packet.__name__.strip("_"), args, result)
        if packet in _DYNAMIC:
            op.call.dynamic = True
            macs, op.generation, extras = operations(_DYNAMIC[packet], args)
            op.macs = macs - op.generation
            self.elementwise["dynamic"] += extras
        elif packet in _FLOPS and not (packet in (aten.mm, aten.bmm) and any(map(self._is_fixed, _storages(args)))):
            op.macs = _FLOPS[packet](*args, **kwargs, out_val=result) // 2
        return result

    def _connect(self, func: Any, args: Any, kwargs: Any, result: Any) -> _Op:
        """The op, among those that it reads from; a view is none that others could read."""
        packet, written = func.overloadpacket, _storages(result)
        shape_only = packet.__name__.startswith("new_") or packet.__name__.endswith("_like")
        read = set() if shape_only else _storages((args, kwargs))
        spec = _DYNAMIC.get(packet)
        passed = read
        if spec is not None:
            passed = _storages([a for a, t in zip(args, spec.inputs) if t.name not in spec.generated])
        feeds = [self._writers[storage] for storage in passed & self._writers.keys()]
        op = _Op(self._call, feeds, all(map(self._is_fixed, read)))
        op.output_shape = next((tuple(t.shape) for t in pytree.tree_leaves(result) if isinstance(t, Tensor)), ())
        if func._schema.is_mutable or not written <= read:
            for storage in read & self._writers.keys():
                self._writers[storage].read = True
            self._writers.update(dict.fromkeys(written, op))
            self._ops.append(op)
        return op

    def _is_fixed(self, storage: int) -> bool:
        return storage in self._writers and self._writers[storage].fixed

    def _count_elements(self, name: str, args: Sequence[Any], result: Any) -> None:
        first = result[0] if isinstance(result, tuple) else result
        if name in _ACTIVATIONS:
            self.elementwise["activations"] += first.numel()
        elif name in _WINDOWS:
            self.elementwise["pooling"] += first.numel() * math.prod(args[1])
        elif name in _MEANS:
            self.elementwise["pooling"] += args[0].numel()
        elif name == "addmm" or (name == "convolution" and args[2] is not None):
            self.elementwise["biases"] += first.numel()

    def rows(self) -> tuple[MacRow, ...]:
        """One row per call with MACs. A generator is in the row of the layer around it that called a dynamic op."""
        for op in reversed(self._ops):
            op.needed |= not op.read
            if op.needed:
                for other in op.feeds:
                    other.needed = True
        for op in self._ops:
            (_dynamic_layer(op.call) or op.call).generator += op.generation
            if op.macs and op.needed:
                op.call.macs += op.macs
                op.call.output_shape = op.output_shape
            elif op.macs:
                home = _dynamic_layer(op.call) or op.call
                home.generator += op.macs
                home.output_shape = home.output_shape or op.output_shape
        return tuple(
            MacRow(call.name, call.type, call.macs, call.generator, call.output_shape)
            for call in self._calls
            if call.macs or call.generator
        )


def _dynamic_layer(call: _Call | None) -> _Call | None:
    """The innermost call around this one that called a dynamic op."""
    while call is not None and not call.dynamic:
        call = call.parent
    return call


def _storages(tree: Any) -> set[int]:
    """Where the tensors of a tree lie: a view lies where its base does."""
    return {t.untyped_storage()._cdata for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)}
