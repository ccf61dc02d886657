"""AttachBodies."""

from __future__ import annotations

import onnx_ir as ir

from dyndeploy.graph._rewrite import custom_nodes, require_no_bodies
from dyndeploy.ops._onnx import OPSET, bodies
from dyndeploy.ops._spec import DOMAIN, VERSION


class AttachBodies(ir.passes.InPlacePass):
    """Attach one function body of standard ops per custom op type, so that every runtime can execute the model.

    Args:
        gridsample: take the body of ModulatedDeformConv2d that needs no DeformConv kernel.

    Requires: it is the last pass: the torch exporter's optimizer inlines functions, and other passes do not see them.
    Ensures: the model imports domain "dyndeploy" and holds exactly one function per custom op type in it.
    """

    def __init__(self, *, gridsample: bool = False) -> None:
        super().__init__()
        self.gridsample = gridsample

    def requires(self, model: ir.Model) -> None:
        """No function is attached yet, and the opset is the bodies'."""
        require_no_bodies(model, "AttachBodies")
        assert model.opset_imports[""] >= OPSET

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Attach."""
        keys = {spec.key for _, spec in custom_nodes(model)}
        if not keys:
            return ir.passes.PassResult(model, False)
        model.opset_imports[DOMAIN] = VERSION
        for function in bodies(sorted(keys), gridsample=self.gridsample).values():
            model.functions[function.identifier()] = function
        return ir.passes.PassResult(model, True)
