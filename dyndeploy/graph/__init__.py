"""Passes over the ONNX graph, one class a file. Each says what it requires and ensures; bodies come last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyndeploy.errors import DynError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_ir as ir


def apply(model: ir.Model, passes: Iterable[ir.passes.PassBase]) -> None:
    """Run passes in order, in place.

    Raises:
        DynError: a pass cannot do what it is asked; onnx_ir would wrap it in errors of its own.
    """
    for each in passes:
        try:
            each(model)
        except Exception as error:
            cause = error.__cause__
            if isinstance(cause, DynError):
                raise cause from None
            raise
