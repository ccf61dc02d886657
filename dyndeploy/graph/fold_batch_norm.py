"""FoldBatchNorm."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from dyndeploy.graph._rewrite import (
    REFERENCE,
    Array,
    absorb,
    add_constant,
    attribute,
    constant,
    custom_spec,
    input_of,
    only_consumer,
    only_reader,
    set_input,
)
from dyndeploy.ops._spec import OpSpec


class FoldBatchNorm(ir.passes.InPlacePass):
    """A BatchNormalization that alone reads a convolution's output moves into its constants, if the algebra allows it.

    y -> scale * y + shift, per output channel:

    1. ModulatedDeformConv2d: rows of W and B.
    2. DynamicGroupConv2d: rows of W and B, through the permutation of the channel shuffle.
    3. MixedRegionAwareConv2d: rows of the banks and B. DynamicRegionAwareConv2d: the filters are computed, but linearly
       from constants: rows of the bases (MatMul) or of the generator's last convolution; and B.
    4. DecoupledDynamicFilter with combine "mul": the scale moves into channel_gain; the op has no bias, so the shift
       remains as one Add. With combine "add" the output is not linear in one of the filters: the node stays.

    5. Conv: rows of W and B. The torch exporter does that already, except where something asks for the shape of the
       convolution's output: SCConv's gate does.

    Requires: constants are folded, so that the generator's bases are initializers; no ReLU is fused into the op.
    Ensures: the same function up to rounding; where the whole normalisation was folded, the op's output bears its name.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold every pair that fits."""
        modified = False
        for norm in [node for node in model.graph if node.op_type == "BatchNormalization" and not node.domain]:
            node = norm.inputs[0].producer() if norm.inputs[0] is not None else None
            if node is None or only_reader(node.outputs[0]) is not norm or attribute(node, "relu"):
                continue
            affine, spec = _affine(norm), custom_spec(node)
            if affine is None:
                continue
            if spec is None:
                if node.op_type == "Conv" and not node.domain and _fold_conv(node, *affine):
                    absorb(node, norm)
                    modified = True
            elif _FOLD[spec.key](node, spec, *affine):
                modified = True
                if spec.key == "ddf":
                    _replace_by_add(node, norm, affine[1])
                else:
                    absorb(node, norm)
        return ir.passes.PassResult(model, modified)


def _affine(norm: ir.Node) -> tuple[Array, Array] | None:
    """Scale and shift [O] of a BatchNormalization in inference, computed in float64."""
    if attribute(norm, "training_mode", 0) or norm.inputs[0] is None:
        return None
    parameters = [constant(value) for value in norm.inputs[1:]]
    if any(p is None for p in parameters):
        return None
    gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    scale = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    return scale, beta - mean * scale


def _replace(node: ir.Node, spec: OpSpec, tensor: str, array: Array) -> None:
    assert node.graph is not None
    old = input_of(node, spec, tensor)
    new = add_constant(node.graph, array.astype(np.float32), f"{old.name}.folded")
    set_input(node, spec, tensor, new)


def _fold_conv(node: ir.Node, scale: Array, shift: Array) -> bool:
    weight = constant(node.inputs[1])
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(len(scale), np.float32)
    if weight is None or bias is None:
        return False
    assert node.graph is not None
    names = [f"{node.inputs[1].name}.folded", f"{node.name}.bias.folded"]  # type: ignore[union-attr]
    node.resize_inputs(3)
    for index, array in enumerate((weight * scale[:, None, None, None], bias * scale + shift)):
        node.replace_input_with(index + 1, add_constant(node.graph, array.astype(np.float32), names[index]))
    return True


def _fold_rows(node: ir.Node, spec: OpSpec, scale: Array, shift: Array) -> bool:
    weight, bias = constant(input_of(node, spec, "W")), constant(input_of(node, spec, "B"))
    if weight is None or bias is None:
        return False
    if attribute(node, "shuffle"):  # output channel = row_in_head * heads + head
        heads = attribute(node, "heads")
        channel_of_row = np.arange(len(bias)).reshape(-1, heads).T.reshape(-1)
        scale, shift = scale[channel_of_row], shift[channel_of_row]
    _replace(node, spec, "W", weight * scale[:, None, None, None])
    _replace(node, spec, "B", bias * scale + shift)
    return True


def _fold_banks(node: ir.Node, spec: OpSpec, scale: Array, shift: Array) -> bool:
    banks, bias = constant(input_of(node, spec, "banks")), constant(input_of(node, spec, "B"))
    if banks is None or bias is None:
        return False
    _replace(node, spec, "banks", banks * np.tile(scale, banks.shape[0] // len(scale))[:, None])
    _replace(node, spec, "B", bias * scale + shift)
    return True


def _fold_generated(node: ir.Node, spec: OpSpec, scale: Array, shift: Array) -> bool:
    bias = constant(input_of(node, spec, "B"))
    shaping = input_of(node, spec, "filters").producer()
    if bias is None or shaping is None or shaping.op_type != "Reshape" or shaping.inputs[0] is None:
        return False
    if only_consumer(shaping.outputs[0]) is not node:
        return False
    made = shaping.inputs[0].producer()
    if made is None or only_consumer(made.outputs[0]) is not shaping:
        return False
    weight = constant(made.inputs[1])
    if weight is None:
        return False
    out = len(scale)
    if made.op_type == "MatMul" and weight.ndim == 2 and weight.shape[1] % out == 0:
        # [bases, O*C*K]
        folded = weight * np.repeat(scale, weight.shape[1] // out)
    elif made.op_type == "Conv" and weight.shape[0] % (attribute(node, "regions") * out) == 0:
        # rows [region][O][C], each made by the 1x1 convolution with its bias
        regions = attribute(node, "regions")
        rows = np.tile(np.repeat(scale, weight.shape[0] // (regions * out)), regions)
        folded = weight * rows[:, None, None, None]
        made_bias = constant(made.inputs[2]) if len(made.inputs) > 2 else None
        if len(made.inputs) > 2 and made_bias is None:
            return False
        if made_bias is not None:
            _replace_input(made, 2, made_bias * rows)
    else:
        return False
    _replace_input(made, 1, folded)
    _replace(node, spec, "B", bias * scale + shift)
    return True


def _replace_input(node: ir.Node, index: int, array: Array) -> None:
    old = node.inputs[index]
    assert node.graph is not None and old is not None
    node.replace_input_with(index, add_constant(node.graph, array.astype(np.float32), f"{old.name}.folded"))
    # What the generator computes is no longer what the program's node of that name does.
    node.metadata_props.pop(REFERENCE, None)
    for use in node.outputs[0].uses():
        use.node.metadata_props.pop(REFERENCE, None)


def _fold_gain(node: ir.Node, spec: OpSpec, scale: Array, shift: Array) -> bool:
    gain = constant(input_of(node, spec, "channel_gain"))
    if gain is None or attribute(node, "combine"):
        return False
    kh, kw = attribute(node, "kernel_shape")
    folded = gain.reshape(-1, len(scale), kh * kw) * scale[:, None]
    _replace(node, spec, "channel_gain", folded.reshape(-1))
    return True


def _replace_by_add(node: ir.Node, norm: ir.Node, shift: Array) -> None:
    """BatchNormalization, whose scale is folded -> Add of the shift, under the same name."""
    graph, old = norm.graph, norm.outputs[0]
    assert graph is not None
    node.metadata_props.pop(REFERENCE, None)  # the op's own output is scaled now
    addend = add_constant(graph, shift.astype(np.float32)[:, None, None], f"{norm.name}.shift")
    add = ir.node("Add", [node.outputs[0], addend], name=norm.name, metadata_props=dict(norm.metadata_props))
    graph.insert_after(norm, add)
    new = add.outputs[0]
    new.type, new.shape = old.type, old.shape
    name = old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(norm, safe=True)
    new.name = name


_FOLD: Mapping[str, Callable[[ir.Node, OpSpec, Array, Array], bool]] = {
    "dcnv2": _fold_rows,
    "dgc": _fold_rows,
    "drconv": _fold_generated,
    "drconv_mix": _fold_banks,
    "ddf": _fold_gain,
}
