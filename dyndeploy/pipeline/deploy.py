"""Does a network of `list_models()` survive the way into deployment?"""

from __future__ import annotations

import os
from typing import Any

from dyndeploy.bundle import Bundle
from dyndeploy.pipeline.check import check
from dyndeploy.pipeline.export import export
from dyndeploy.testing.networks import RANGE, deployment_shapes, example_inputs, lively_model
from dyndeploy.verdict.result import CheckResult


def deploy(name: str, folder: str | os.PathLike[str], **options: Any) -> tuple[Bundle, CheckResult]:
    """Export a network with lively weights and check it in torch and in ONNX Runtime.

    Args:
        name, options: as for `create_model`.
        folder: of the bundle.

    Raises:
        DynError: the network cannot be made or exported.
    """
    network = lively_model(name, **options)
    inputs, dims = deployment_shapes(network)
    ranges = dict.fromkeys(inputs, RANGE)
    bundle = export(network, example_inputs(inputs, dims), folder, inputs=inputs, dims=dims, ranges=ranges)
    return bundle, check(bundle, runtimes=["torch", "onnxruntime"])
