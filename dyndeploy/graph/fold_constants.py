"""FoldConstants."""

from __future__ import annotations

import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from dyndeploy.graph._rewrite import Array, add_constant, constant

#: Folding may not let a file grow by more than this over what it removes, in bytes.
_GROWTH = 1 << 20


class FoldConstants(ir.passes.InPlacePass):
    """Compute once what depends on constants only.

    1. A node of the standard domain with at least one input, all of them constant, and without subgraphs becomes an
       initializer; onnx's reference evaluator computes it.
    2. A result that is more than 1 MiB larger than its inputs stays computed (ConstantOfShape of a large map).

    The exporter leaves such nodes where a layer prepares its weights in forward: the masks of one of DCNv1, the
    flattened bases of DRConv.

    Requires: nothing. Ensures: the same values under the same names.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in one sweep; the graph is in topological order."""
        modified = False
        for node in tuple(model.graph):
            arrays = [constant(value) for value in node.inputs]
            if node.domain or not arrays or any(a is None for a in arrays) or _has_graphs(node):
                continue
            evaluator = ReferenceEvaluator(ir.serde.serialize_node(node), opsets={"": model.opset_imports[""]})
            names = [str(v.name) for v in node.inputs if v is not None]
            results: list[Array] = evaluator.run(None, dict(zip(names, arrays)))  # type: ignore[assignment]
            before = sum(a.nbytes for a in arrays if a is not None)
            if sum(r.nbytes for r in results) > before + _GROWTH:
                continue
            if any(v.is_graph_output() for v in node.outputs):
                continue
            for value, result in zip(node.outputs, results):
                value.replace_all_uses_with(add_constant(model.graph, result, f"{value.name}.folded"))
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)


def _has_graphs(node: ir.Node) -> bool:
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
