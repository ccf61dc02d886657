"""What became of a graph's nodes and tensors, by what a worker tells of the parsed network."""

from __future__ import annotations

import onnx

from dyndeploy.errors import DynError
from dyndeploy.ops._spec import DOMAIN
from dyndeploy.tensorrt.explain import asked_for
from dyndeploy.tensorrt.model import CustomNode, Prepared
from dyndeploy.tensorrt.process import Outcome
from dyndeploy.tensorrt.record import EngineOp, EngineTensor
from dyndeploy.tensorrt.vendor import Creator, Target

#: The vendor's dtypes in NumPy's words.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_PLUGIN_LAYERS = ("PLUGIN_V3",)


def engine_ops(outcome: Outcome, prepared: Prepared, target: Target) -> tuple[EngineOp, ...]:
    """What became of our nodes, by the layers that the parser made.

    Raises:
        DynError: a node was to be a plugin and was built from its body.
    """
    assert outcome.done is not None
    layers: list[list[str]] = outcome.done["layers"]
    plugin_dtypes = {name: dtype for kind, name, _, dtype in layers if kind in _PLUGIN_LAYERS}
    ops = []
    for node in prepared.nodes:
        if node.name in plugin_dtypes:
            how, count, dtype = "plugin", 1, plugin_dtypes[node.name]
        else:
            if node.version is not None:
                raise _not_a_plugin(outcome, node, prepared, target)
            inside = [layer for layer in layers if f"{node.name} ({node.type})]" in layer[2]]
            how, count, dtype = "inlined", len(inside), inside[-1][3] if inside else ""
        ops.append(
            EngineOp(
                name=node.name,
                type=node.type,
                how=how,  # type: ignore[arg-type]
                version=node.version,
                layers=count,
                dtype=_DTYPES.get(dtype, dtype.lower()),
                format=outcome.done["formats"].get(node.name),
            )
        )
    return tuple(ops)


def _not_a_plugin(outcome: Outcome, node: CustomNode, prepared: Prepared, target: Target) -> DynError:
    assert outcome.done is not None
    model = onnx.ModelProto.FromString(prepared.content)
    asked = next(asked_for(n) for n in model.graph.node if n.name == node.name)
    registered = [c for c in (Creator(*entry) for entry in outcome.done["registered"]) if c.namespace == DOMAIN]
    of_its_name = [c for c in registered if c.name == node.type] or registered
    return DynError(
        f"Node {node.name} was to be a plugin, and {target.title} built it from its body.",
        why=f"It asks for {asked}; registered are {', '.join(map(str, of_its_name))}.",
        fix=f"Export and build with one version of dyndeploy; or --inline {node.name}, where the body is meant.",
    )


def engine_tensors(outcome: Outcome) -> tuple[EngineTensor, ...]:
    """The inputs and outputs."""
    assert outcome.done is not None
    return tuple(
        EngineTensor(name=name, mode=mode, dtype=_DTYPES.get(dtype, dtype.lower()), shape=tuple(shape))
        for mode, name, dtype, shape in outcome.done["tensors"]
    )
