"""FuseMixture."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dyndeploy.graph._rewrite import (
    Array,
    add_constant,
    attribute,
    constant,
    custom_nodes,
    input_of,
    only_consumer,
)
from dyndeploy.ops._spec import OpSpec, spec_of

_MIXED = spec_of("drconv_mix")


class FuseMixture(ir.passes.InPlacePass):
    """The MatMul that mixes the filters of DynamicRegionAwareConv2d from banks becomes part of the convolution.

    filters = Reshape(MatMul(share, banks)), with constant banks [bases, O*C*K], in front of DynamicRegionAwareConv2d
    -> MixedRegionAwareConv2d(X, share, banks, guide, B), whose kernels never have the filters as a tensor.

    1. Between the two there are Reshapes only, any number of them, and nothing else reads what they pass on.
    2. The product is a MatMul or a Gemm without a third input; rows of share are (sample, region), in that order.
    3. A product whose node's name or op type is in `keep` stays, and is computed in float32.

    `DRConv2d` makes the mixed operator itself: this is for models that call `dynamic_region_aware_conv2d` with filters
    of their own.

    Args:
        keep: node names or op types that stay in float32.

    Requires: constants are folded, so that banks that were transposed or reshaped are initializers; shapes are known.
    Ensures: the same function up to rounding; the node keeps its name, its output and what it refers to.
    """

    def __init__(self, keep: Collection[str] = ()) -> None:
        super().__init__()
        self.keep = frozenset(keep)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse every pair that fits."""
        modified = False
        for node, spec in custom_nodes(model):
            if spec.key != "drconv":
                continue
            found = _mixture(node, spec)
            if found is None or {found.product.name, found.product.op_type} & self.keep:
                continue
            _replace(node, spec, found)
            modified = True
        if modified:
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified)


@dataclass(frozen=True)
class _Mixture:
    """A product that makes filters: its node, the share, and so many banks as [bases*O, C*K]."""

    product: ir.Node
    share: ir.Value
    banks: Array
    bases: int


def _mixture(node: ir.Node, spec: OpSpec) -> _Mixture | None:
    """What makes the filters of a node, if it is a product with constant banks."""
    filters, bias = input_of(node, spec, "filters"), input_of(node, spec, "B")
    if filters.shape is None or bias.shape is None:
        return None
    outputs, depth = bias.shape[0], filters.shape[2]
    reader, made = node, filters
    while (producer := made.producer()) is not None and producer.op_type == "Reshape" and not producer.domain:
        if only_consumer(made) is not reader or producer.inputs[0] is None:
            return None
        reader, made = producer, producer.inputs[0]
    if producer is None or producer.domain or only_consumer(made) is not reader:
        return None
    share, banks = _factors(producer)
    if share is None or banks is None or not isinstance(outputs, int) or not isinstance(depth, int):
        return None
    # Then the rows of the product are samples and regions, whatever they are reshaped to in between.
    if banks.ndim != 2 or banks.shape[1] != outputs * depth or share.shape is None or len(share.shape) < 2:
        return None
    return _Mixture(producer, share, banks.reshape(-1, depth), bases=banks.shape[0])


def _factors(product: ir.Node) -> tuple[ir.Value | None, Array | None]:
    """(a, b) of a node that computes a @ b with a constant b."""
    if product.op_type == "MatMul":
        return product.inputs[0], constant(product.inputs[1])
    if product.op_type == "Gemm" and not attribute(product, "transA", 0) and attribute(product, "alpha", 1.0) == 1:
        if len(product.inputs) == 2 or product.inputs[2] is None:
            banks = constant(product.inputs[1])
            return product.inputs[0], banks.T if banks is not None and attribute(product, "transB", 0) else banks
    return None, None


def _replace(node: ir.Node, spec: OpSpec, found: _Mixture) -> None:
    graph, regions = node.graph, attribute(node, "regions")
    assert graph is not None and found.share.shape is not None
    share = found.share
    if len(found.share.shape) != 3 or found.share.shape[1] != regions:
        shape = add_constant(graph, np.array([-1, regions, found.bases], np.int64), f"{node.name}.share_shape")
        shaping = ir.node("Reshape", [share, shape], name=f"{node.name}.share")
        shaping.outputs[0].type = share.type
        samples = input_of(node, spec, "X").shape
        shaping.outputs[0].shape = ir.Shape([samples[0] if samples is not None else None, regions, found.bases])
        shaping.outputs[0].name = f"{node.name}.share"
        graph.insert_before(node, shaping)
        share = shaping.outputs[0]
    banks = add_constant(graph, found.banks, f"{node.name}.banks")
    inputs = [input_of(node, spec, "X"), share, banks, input_of(node, spec, "guide"), input_of(node, spec, "B")]
    fused = ir.node(
        str(_MIXED.name),
        inputs,
        {name: attr.value for name, attr in node.attributes.items()},
        domain=node.domain,
        name=node.name,
        metadata_props=dict(node.metadata_props),
    )
    old, new = node.outputs[0], fused.outputs[0]
    new.type, new.shape = old.type, old.shape
    graph.insert_before(node, fused)
    name = old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.name = name
