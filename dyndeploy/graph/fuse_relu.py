"""FuseRelu."""

from __future__ import annotations

import onnx_ir as ir

from dyndeploy.graph._rewrite import absorb, attribute, custom_nodes, only_reader


class FuseRelu(ir.passes.InPlacePass):
    """A Relu that alone follows a custom op becomes the op's attribute `relu`.

    Requires: BatchNormalization is folded already (FoldBatchNorm), since it stands between the two.
    Ensures: the same function; the op's output bears the Relu's name.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse every pair."""
        modified = False
        for node, _ in custom_nodes(model):
            consumer = only_reader(node.outputs[0])
            if consumer is None or consumer.op_type != "Relu" or consumer.domain or attribute(node, "relu"):
                continue
            node.attributes["relu"] = ir.AttrInt64("relu", 1)
            absorb(node, consumer)
            modified = True
        return ir.passes.PassResult(model, modified)
