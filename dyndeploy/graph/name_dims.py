"""NameDims."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx_ir as ir


class NameDims(ir.passes.InPlacePass):
    """Give the exporter's symbols (s77) the names the user gave the dims, in every shape of the graph.

    Args:
        names: symbol -> the expression that replaces it: a dim's name, or "(height//32)" for a dim that is a multiple.

    Requires: nothing. Ensures: shapes are equal up to the names of their symbols.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self.names = names

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename in inputs, outputs and all values between."""
        values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
        for value in values:
            if value.shape is not None:
                value.shape = ir.Shape([self._renamed(d) for d in value.shape])
        return ir.passes.PassResult(model, bool(self.names))

    def _renamed(self, dim: int | ir.SymbolicDim) -> int | str | None:
        if isinstance(dim, int):
            return dim
        if dim.value is None:
            return None
        text = re.sub(r"\b[A-Za-z_]\w*", lambda m: self.names.get(m[0], m[0]), str(dim.value))
        # A dim that is a multiple m*(name//m) is the name itself, and k*m*(name//m) is k*name.
        whole = re.fullmatch(r"(\d+)\*\((\w+)//(\d+)\)", text)
        if whole is None or int(whole[1]) % int(whole[3]):
            return text
        factor = int(whole[1]) // int(whole[3])
        return whole[2] if factor == 1 else f"{factor}*{whole[2]}"
