"""An exported program (torch.export) that runs in any dtype, shows its inner values and takes choices as given.

The float64 reference, PyTorch's own error at half precision and the torch runtime are all this one program.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from dyndeploy.errors import DynError, MissingPackageError

try:
    import torch
    from torch import Tensor, fx
    from torch.utils import _pytree as pytree
except ModuleNotFoundError:
    raise MissingPackageError("torch", "Running model.pt2", "export") from None

import dyndeploy.ops.all  # noqa: F401  # a program cannot be loaded before its custom ops are registered
from dyndeploy.ops._spec import OpSpec, custom_ops
from dyndeploy.ops._torch import torch_op
from dyndeploy.runtimes.quiet import quiet

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Array = np.ndarray[Any, Any]


class Program:
    """A torch.export program with every floating-point constant, parameter and dtype argument in one dtype.

    Args:
        exported: the program.
        dtype: "float64", "float32", "float16" or "bfloat16".

    Example:
        >>> exported = torch.export.export(torch.nn.ReLU(), (torch.zeros(2),))
        >>> outputs, _ = Program(exported, "float64").run([np.array([-1.0, 2.0], np.float32)])
        >>> outputs
        [array([0., 2.])]
    """

    def __init__(self, exported: ExportedProgram, dtype: str = "float32") -> None:
        self.dtype: torch.dtype = getattr(torch, dtype)
        self._in_spec = exported.call_spec.in_spec
        self._module = _retyped(exported, self.dtype)
        #: Node name -> OpSpec of every custom op call, in execution order.
        self.ops: dict[str, OpSpec] = {
            node.name: spec
            for node in self._module.graph.nodes
            for spec in custom_ops()
            if node.op == "call_function" and node.target is torch_op(spec)
        }

    @property
    def tensors(self) -> set[str]:
        """The names of the nodes whose value is a tensor: those that can be watched."""
        return {n.name for n in self._module.graph.nodes if isinstance(n.meta.get("val"), Tensor)}

    @classmethod
    def load(cls, path: str | os.PathLike[str], dtype: str = "float32") -> Program:
        """Read a model.pt2.

        Raises:
            DynError: the file is not one that this torch reads.
        """
        return cls.load_in(path, [dtype])[0]

    @classmethod
    def load_in(cls, path: str | os.PathLike[str], dtypes: Sequence[str]) -> list[Program]:
        """Read a model.pt2 once, for several dtypes; see `load`."""
        try:
            with quiet():
                exported = torch.export.load(os.fspath(path))
            return [cls(exported, dtype) for dtype in dtypes]
        except Exception as error:  # torch raises anything from KeyError to its own errors here
            raise DynError(
                f"{path} cannot be read by torch {torch.__version__}.", why=str(error), fix="Export the model again."
            ) from error

    def input_of(self, op: str, tensor: str) -> str:
        """The name of the node that feeds input `tensor` ("guide") of the custom op node `op`."""
        spec = self.ops[op]
        return str(self._call(op).args[[t.name for t in spec.inputs].index(tensor)].name)

    def attributes_of(self, op: str) -> dict[str, Any]:
        """The attributes of the custom op node `op`, by their torch names."""
        spec = self.ops[op]
        return {a.torch_name: value for a, value in zip(spec.attributes, self._call(op).args[len(spec.inputs) :])}

    def _call(self, op: str) -> Any:
        # The fx.Node; untyped, since its arguments are a union of everything.
        return next(n for n in self._module.graph.nodes if n.name == op)

    def run(
        self,
        inputs: Sequence[Array],
        *,
        watch: Collection[str] = (),
        choices: Mapping[str, Array] | None = None,
    ) -> tuple[list[Array], dict[str, Array]]:
        """Run on arrays in input order.

        Args:
            inputs: floats of any dtype (converted to the program's), or integers and bools as they are.
            watch: names of nodes whose values are wanted.
            choices: op node name -> the discrete choice to take instead of the computed one: regions
                [N, Ho, Wo] of a region-aware convolution, kept channels (bool) [N, heads, C] of a group convolution.

        Returns:
            The outputs, and node name -> value for the watched nodes.

        Raises:
            DynError: a name in `watch` or `choices` is not one of the program.
        """
        flat = [self._tensor(array) for array in inputs]
        with torch.no_grad():
            if not watch and not choices:
                arguments, keywords = pytree.tree_unflatten(flat, self._in_spec)
                return [_array(t) for t in pytree.tree_leaves(self._module(*arguments, **keywords))], {}
            observer = _Observer(self._module, set(watch), choices or {}, self.ops)
            outputs = observer.run(*flat, enable_io_processing=False)
        missing = sorted(set(watch) - observer.seen.keys())
        if missing:
            raise DynError(f"The program has no tensor {', '.join(missing)}.", fix="Export the model again.")
        return [_array(t) for t in pytree.tree_leaves(outputs)], {n: _array(t) for n, t in observer.seen.items()}

    def _tensor(self, array: Array) -> Tensor:
        return _cast(tensor_of(array), self.dtype)


def tensor_of(array: Array) -> Tensor:
    """The array as a tensor that may be written to; bfloat16, which NumPy lacks, as float32."""
    if array.dtype == ml_dtypes.bfloat16:
        array = array.astype(np.float32)
    array = np.asarray(array, order="C")
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # torch has no read-only tensors


def _array(tensor: Tensor) -> Array:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    array: Array = tensor.numpy()
    return array


def _retyped(exported: ExportedProgram, dtype: torch.dtype) -> fx.GraphModule:
    module = exported.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)

    def retype(value: Any) -> Any:
        return dtype if value is torch.float32 else value

    for graph_module in [m for m in module.modules() if isinstance(m, fx.GraphModule)]:
        for node in graph_module.graph.nodes:
            node.args = pytree.tree_map(retype, node.args)
            node.kwargs = pytree.tree_map(retype, node.kwargs)
            if node.op == "get_attr":  # tensors that are neither parameter nor buffer do not follow Module.to
                holder, _, name = str(node.target).rpartition(".")
                owner = graph_module.get_submodule(holder)
                value = getattr(owner, name)
                if isinstance(value, Tensor) and not isinstance(value, torch.nn.Parameter):
                    setattr(owner, name, _cast(value, dtype))
        graph_module.recompile()
    for owner in module.modules():  # new tensors: Module.to would change those of the user's model, which are the same
        for name, parameter in owner.named_parameters(recurse=False):
            setattr(owner, name, torch.nn.Parameter(_cast(parameter.detach(), dtype), requires_grad=False))
        for name, buffer in owner.named_buffers(recurse=False):
            setattr(owner, name, _cast(buffer, dtype))
    return module


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


class _Observer(fx.Interpreter):
    """Runs a program node by node, keeps the watched values and imposes the given choices."""

    def __init__(
        self, module: fx.GraphModule, watch: set[str], choices: Mapping[str, Array], ops: Mapping[str, OpSpec]
    ) -> None:
        super().__init__(module)
        unknown = choices.keys() - ops.keys()
        if unknown:
            raise DynError(f"The program has no op {', '.join(sorted(unknown))}.", fix=f"one of {', '.join(ops)}")
        self._watch, self._choices, self._ops = watch, choices, ops
        self.seen: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self._choices:
            arguments, keywords = self.fetch_args_kwargs_from_env(n)
            result = n.target(*_forced(self._ops[n.name], arguments, self._choices[n.name]), **keywords)  # type: ignore[operator]
        else:
            result = super().run_node(n)
        if n.name in self._watch and isinstance(result, Tensor):
            self.seen[n.name] = result.clone()
        return result


def _forced(spec: OpSpec, arguments: Sequence[Any], choice: Array) -> list[Any]:
    """The op's arguments, changed so that it takes `choice`."""
    forced = list(arguments)
    index = [t.name for t in spec.inputs].index(str(spec.choice))
    tensor, decided = forced[index], torch.from_numpy(np.asarray(choice, order="C"))
    if spec.folder == "drconv":
        forced[index] = torch.nn.functional.one_hot(decided, tensor.shape[1]).movedim(-1, 1).to(tensor.dtype)
        return forced
    # dgc: "drop what is <= threshold" with threshold 0; a kept saliency of 0 contributes nothing, tiny or not
    kept = decided.reshape(tensor.shape)
    forced[index] = torch.where(kept, tensor.clamp_min(torch.finfo(tensor.dtype).tiny), 0)
    at = {a.name: len(spec.inputs) + i for i, a in enumerate(spec.attributes)}
    forced[at["inactive"]], forced[at["threshold"]] = -1, 0.0
    return forced
