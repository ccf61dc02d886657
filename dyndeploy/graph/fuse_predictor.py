"""FusePredictor."""

from __future__ import annotations

import onnx_ir as ir

from dyndeploy.graph._rewrite import attribute, constant, custom_nodes, input_of, set_input


class FusePredictor(ir.passes.InPlacePass):
    """Let ModulatedDeformConv2d read its predictor's raw output.

    Models that call torchvision's or mmcv's op take the predictor's output p apart (chunk, split or slices), apply a
    sigmoid to the last third, and our op joins the parts again. Where they are the channels of p in order, the op can
    read p itself and apply the sigmoid (`sigmoid` 0 -> 1); a factor on the sigmoid moves into `mask_scale`.

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
    parts = _parts(offset_mask)
    mask, scale = _scaled(parts[-1])
    sigmoid = mask.producer()
    if len(parts) < 2 or sigmoid is None or sigmoid.op_type != "Sigmoid" or sigmoid.inputs[0] is None:
        return None
    ranges = [_channels(part) for part in (*parts[:-1], sigmoid.inputs[0])]
    position, raw = 0, ranges[0][0]
    for source, start, stop in ranges:
        if source is not raw or start != position:
            return None
        position = stop
    if raw.shape is None or position != raw.shape[1] or ranges[-1][1] * 3 != position * 2:
        return None
    return raw, scale


def _parts(value: ir.Value) -> list[ir.Value]:
    """What a (nested) Concat over channels joins."""
    node = value.producer()
    if node is None or node.op_type != "Concat" or node.domain or attribute(node, "axis") != 1:
        return [value]
    return [part for v in node.inputs if v is not None for part in _parts(v)]


def _scaled(value: ir.Value) -> tuple[ir.Value, float]:
    """value = factor * result."""
    node = value.producer()
    if node is not None and node.op_type == "Mul" and not node.domain:
        for result, other in (node.inputs, reversed(node.inputs)):
            factor = constant(other)
            if result is not None and factor is not None and factor.size == 1:
                return result, float(factor.reshape(()))
    return value, 1.0


def _channels(value: ir.Value) -> tuple[ir.Value, int, int]:
    """(source, start, stop): value = source[:, start:stop], through Split or Slice."""
    node = value.producer()
    size = value.shape[1] if value.shape is not None and len(value.shape) > 1 else None
    whole = (value, 0, size if isinstance(size, int) else -1)
    if node is None or node.domain or node.inputs[0] is None or whole[2] < 0:
        return whole
    source = node.inputs[0]
    if node.op_type == "Split" and attribute(node, "axis", 0) == 1:
        before = [v.shape[1] if v.shape is not None else None for v in node.outputs[: node.outputs.index(value)]]
        if all(isinstance(b, int) for b in before):
            start = sum(b for b in before if isinstance(b, int))
            return source, start, start + whole[2]
    if node.op_type == "Slice":
        starts, _, axes, *steps = [constant(v) for v in node.inputs[1:]]
        if starts is not None and axes is not None and list(axes) == [1] and starts[0] >= 0:
            if not steps or (steps[0] is not None and list(steps[0]) == [1]):
                return source, int(starts[0]), int(starts[0]) + whole[2]
    return whole
