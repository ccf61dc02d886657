"""FusePredictor."""

from __future__ import annotations

import onnx_ir as ir

from dyndeploy.graph._rewrite import attribute, constant, custom_nodes, input_of, set_input


class FusePredictor(ir.passes.InPlacePass):
    """Let ModulatedDeformConv2d read its predictor's raw output.

    Models that call torchvision's or mmcv's op split the predictor's output in three, apply a sigmoid to the last third
    and join the parts again. For Concat(Concat(a, b), Sigmoid(c)) with a, b, c = Split(p, 3) the op can read p itself
    and apply the sigmoid (`sigmoid` 0 -> 1); a factor on the sigmoid moves into `mask_scale`.

    Requires: nothing. Ensures: the same function; nodes that nothing uses any more are removed.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every node that fits."""
        modified = False
        for node, spec in custom_nodes(model):
            if spec.folder != "dcnv2" or attribute(node, "sigmoid"):
                continue
            found = _predictor(input_of(node, spec, "offset_mask"))
            if found is None:
                continue
            raw, scale = found
            set_input(node, spec, "offset_mask", raw)
            node.attributes["sigmoid"] = ir.AttrInt64("sigmoid", 1)
            node.attributes["mask_scale"] = ir.AttrFloat32("mask_scale", attribute(node, "mask_scale") * scale)
            modified = True
        if modified:
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified)


def _predictor(offset_mask: ir.Value) -> tuple[ir.Value, float] | None:
    """The raw predictor output behind an offset_mask, and the factor on its sigmoid."""
    joined = _inputs_of_concat(offset_mask)
    if joined is None or len(joined) not in (2, 3):
        return None
    *offsets, mask = joined
    if len(offsets) == 1:
        inner = _inputs_of_concat(offsets[0])
        if inner is None or len(inner) != 2:
            return None
        offsets = inner
    scale = 1.0
    producer = mask.producer()
    if producer is not None and producer.op_type == "Mul":
        for value, other in (producer.inputs, reversed(producer.inputs)):
            factor = constant(other)
            if value is not None and factor is not None and factor.size == 1:
                mask, scale = value, float(factor.reshape(()))
                producer = mask.producer()
                break
    if producer is None or producer.op_type != "Sigmoid" or producer.inputs[0] is None:
        return None
    thirds = [*offsets, producer.inputs[0]]
    split = thirds[0].producer()
    if split is None or split.op_type != "Split" or attribute(split, "axis", 0) != 1:
        return None
    if list(split.outputs) != thirds or not _equal_parts(split):
        return None
    raw = split.inputs[0]
    assert raw is not None
    return raw, scale


def _inputs_of_concat(value: ir.Value) -> list[ir.Value] | None:
    node = value.producer()
    if node is None or node.op_type != "Concat" or node.domain or attribute(node, "axis") != 1:
        return None
    return [v for v in node.inputs if v is not None]


def _equal_parts(split: ir.Node) -> bool:
    if len(split.inputs) < 2 or split.inputs[1] is None:
        return True
    sizes = constant(split.inputs[1])
    return sizes is not None and len({int(s) for s in sizes}) == 1


