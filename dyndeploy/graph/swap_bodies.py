"""Some nodes of ours by their function bodies, the others as they are: in the file itself, for every runtime alike."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from dyndeploy.errors import DynError, nearest
from dyndeploy.ops._spec import DOMAIN, PLUGIN_ATTRIBUTES

#: What a function is called for which no runtime has a kernel.
_SUFFIX = "ByBody"


def swap_bodies(model: onnx.ModelProto, nodes: Collection[str]) -> onnx.ModelProto:
    """A copy of a model in which these nodes are run by their bodies.

    A runtime finds a kernel by the op's type. These nodes are of another type, whose function has the same body, and
    ask for no plugin.

    Args:
        model: with function bodies. It is not modified.
        nodes: names of nodes of our domain.

    Raises:
        DynError: one of them is none of ours, or has no body.
    """
    swapped = onnx.ModelProto()
    swapped.CopyFrom(model)
    bodies = {f.name: f for f in model.functions if f.domain == DOMAIN}
    ours = {n.name: n for n in swapped.graph.node if n.domain == DOMAIN}
    made: set[str] = set()
    for name in nodes:
        if name not in ours:
            raise DynError(f"There is no dynamic node {name!r}.", fix=nearest(name, ours))
        node = ours[name]
        if node.op_type not in bodies:
            raise DynError(f"model.onnx has no function body for {node.op_type}.", fix="Export the model again.")
        if node.op_type not in made:
            made.add(node.op_type)
            function = swapped.functions.add()
            function.CopyFrom(bodies[node.op_type])
            function.name += _SUFFIX
        node.op_type += _SUFFIX
        kept = [a for a in node.attribute if a.name not in PLUGIN_ATTRIBUTES]
        del node.attribute[:]
        node.attribute.extend(kept)
    return swapped
