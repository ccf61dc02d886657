"""WidenPredictor."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dyndeploy.graph._rewrite import REFERENCE, add_constant, attribute, constant, custom_nodes, input_of, only_consumer


class WidenPredictor(ir.passes.InPlacePass):
    """Let the predictor of a DCNv1 layer emit the masks of one that it does not have.

    A model that calls torchvision's op without masks gives offset_mask = Concat(Conv(x), ones). The ones become rows of
    zeros with a bias of one in the convolution: no tensor of ones, no Concat.

    Requires: constants are folded. Ensures: the same function; nodes that nothing uses any more are removed.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Widen every predictor that fits."""
        modified = False
        for node, spec in custom_nodes(model):
            join = input_of(node, spec, "offset_mask").producer() if spec.folder == "dcnv2" else None
            if join is None or join.op_type != "Concat" or attribute(join, "axis") != 1 or len(join.inputs) != 2:
                continue
            modified |= _widen(model.graph, join)
        if modified:
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified)


def _widen(graph: ir.Graph, join: ir.Node) -> bool:
    offset, ones = join.inputs
    if offset is None or ones is None or not _is_ones(ones) or only_consumer(offset) is not join:
        return False
    conv = offset.producer()
    weight = constant(conv.inputs[1]) if conv is not None and conv.op_type == "Conv" else None
    if conv is None or weight is None or attribute(conv, "group", 1) != 1 or weight.shape[0] % 2:
        return False
    bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 else np.zeros(len(weight), weight.dtype)
    if bias is None:
        return False
    rows = len(weight) // 2
    wide = np.concatenate([weight, np.zeros((rows, *weight.shape[1:]), weight.dtype)])
    biases = np.concatenate([bias, np.ones(rows, weight.dtype)])
    inputs = [
        conv.inputs[0],
        *(add_constant(graph, a, f"{conv.name}.{n}") for a, n in ((wide, "weight"), (biases, "bias"))),
    ]
    new = ir.node("Conv", inputs, dict(conv.attributes), name=conv.name)
    result = join.outputs[0]
    new.outputs[0].type, new.outputs[0].shape = result.type, result.shape
    if REFERENCE in join.metadata_props:
        new.metadata_props[REFERENCE] = join.metadata_props[REFERENCE]
    graph.insert_before(conv, new)
    name = result.name
    result.replace_all_uses_with(new.outputs[0])
    graph.remove(join, safe=True)
    new.outputs[0].name = name
    return True


def _is_ones(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is not None and producer.op_type == "Expand":
        array = constant(producer.inputs[0])
    elif producer is not None and producer.op_type == "ConstantOfShape":
        filled = attribute(producer, "value")
        array = None if filled is None else filled.numpy()
    else:
        array = constant(value)
    return array is not None and bool((array == 1).all())
