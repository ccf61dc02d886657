"""Are the two 1x1 convolutions of an SCNet block faster as one? They read the same input, each has a ReLU behind it.

    python benchmarks/merged_convolutions.py

Exports SCNet-50, merges every such pair into Conv, Relu and Split, and runs both files in ONNX Runtime by turns.
The decision that rests on it: docs/decisions/006-scnet-pairs-stay-apart.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from onnx_ir.passes import common
from rich.console import Console
from rich.table import Table

import dyndeploy
from dyndeploy.graph._rewrite import add_constant, constant, only_consumer
from dyndeploy.models import create_model
from dyndeploy.testing.weights import enliven


def merge_pairs(model: ir.Model) -> int:
    """Conv-Relu twice on the same input, with kernels of one shape, becomes Conv-Relu-Split; returns how often."""
    count = 0
    for first in [node for node in model.graph if node.op_type == "Conv"]:
        convs = [use.node for use in first.inputs[0].uses() if use.node.op_type == "Conv"]
        pair = [node for node in convs if _kind(node) == _kind(first)]
        relus = [only_consumer(node.outputs[0]) for node in pair]
        if len(pair) != 2 or pair[0] is not first or _kind(first)[0][2:] != (1, 1):
            continue
        if any(relu is None or relu.op_type != "Relu" for relu in relus):
            continue
        joined = [
            add_constant(model.graph, np.concatenate([constant(node.inputs[i]) for node in pair]), f"pair.{count}.{i}")
            for i in (1, 2)
        ]
        conv = ir.node("Conv", [first.inputs[0], *joined], dict(first.attributes))
        relu = ir.node("Relu", conv.outputs)
        split = ir.node("Split", relu.outputs, {"axis": 1, "num_outputs": 2}, num_outputs=2)
        model.graph.insert_before(first, [conv, relu, split])
        for half, old in zip(split.outputs, relus):
            old.outputs[0].replace_all_uses_with(half)
        count += 1
    common.RemoveUnusedNodesPass()(model)
    return count


def _kind(node: ir.Node) -> tuple[tuple[int, ...], str]:
    return constant(node.inputs[1]).shape, str(node.attributes)


def main() -> None:
    """Export, merge, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=30)
    iterations = parser.parse_args().iterations
    torch.manual_seed(0)
    network = enliven(create_model("scnet50"), torch.rand(2, 3, 224, 224))
    table = Table("threads", "batch", "two, ms", "one, ms", "one / two", title="SCNet-50, 224x224, medians")
    with tempfile.TemporaryDirectory() as folder:
        apart = Path(folder) / "bundle" / "model.onnx"
        dyndeploy.export(network, torch.rand(1, 3, 224, 224), apart.parent, dims={"batch": (1, 1, 8)})
        model = ir.load(apart)
        print(f"{merge_pairs(model)} pairs merged")
        ir.save(model, Path(folder) / "merged.onnx")
        for threads, batch in ((1, 1), (1, 8), (2, 1), (2, 8)):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            sessions = [onnxruntime.InferenceSession(p, options) for p in (apart, Path(folder) / "merged.onnx")]
            feed = {"x": np.random.default_rng(0).random((batch, 3, 224, 224), dtype=np.float32)}
            results = [session.run(None, feed)[0] for session in sessions]
            np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)
            times: list[list[float]] = [[], []]
            for _ in range(max(3, iterations // batch)):
                for session, taken in zip(sessions, times):
                    start = time.perf_counter()
                    session.run(None, feed)
                    taken.append(1000 * (time.perf_counter() - start))
            two, one = map(statistics.median, times)
            table.add_row(str(threads), str(batch), f"{two:.1f}", f"{one:.1f}", f"{one / two:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
