"""A model before and after a pass, and what ONNX Runtime computes with each."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from dyndeploy.graph.attach_bodies import AttachBodies
from dyndeploy.tracing.lower import lower
from dyndeploy.tracing.trace import trace

Run = Callable[[ir.Model, Mapping[str, np.ndarray]], list[np.ndarray]]


@pytest.fixture
def lowered() -> Callable[[torch.nn.Module, torch.Tensor], ir.Model]:
    """Translate a module; its input is called "x", and its first dim is dynamic."""

    def build(module: torch.nn.Module, x: torch.Tensor, **arguments) -> ir.Model:
        traced = trace(
            module, x, **({"inputs": {"x": ["batch", *x.shape[1:]]}, "dims": {"batch": (1, 2, 4)}} | arguments)
        )
        return lower(traced.program, [s.name for s in traced.inputs], traced.output_names)

    return build


@pytest.fixture
def run() -> Run:
    """Run a model in ONNX Runtime, with the bodies attached to a copy."""

    def execute(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        copy = ir.from_proto(ir.to_proto(model))
        AttachBodies()(copy)
        copy.ir_version = 10
        proto = ir.to_proto(copy)
        onnx.checker.check_model(proto, full_check=True)
        return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, dict(feeds))

    return execute
