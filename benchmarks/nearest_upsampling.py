"""Which pixels nearest upsampling picks: torch, ONNX Runtime's Resize, whole numbers, and what SCConv2d does.

Prints the table in dyndeploy/ops/scconv/README.md:

    python benchmarks/nearest_upsampling.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import onnx
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from dyndeploy.ops.scconv.op import upsample_nearest

RESIZE = """<ir_version: 10, opset_import: ["": 22]>
resize (float[n, c, h, w] x, int64[4] sizes) => (float[N, C, H, W] y) {
  y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (x, , , sizes)
}"""
GATHER = """<ir_version: 10, opset_import: ["": 22]>
gather (float[n, c, h, w] x, int64[4] sizes) => (float[N, C, H, W] y) {
  zero = Constant <value = int64 {0}> ()
  one = Constant <value = int64 {1}> ()
  two = Constant <value = int64 {2}> ()
  three = Constant <value = int64 {3}> ()
  shape = Shape (x)
  out_w = Gather (sizes, three)
  in_w = Gather (shape, three)
  at_w = Range (zero, out_w, one)
  scaled_w = Mul (at_w, in_w)
  columns = Div (scaled_w, out_w)
  wide = Gather <axis = 3> (x, columns)
  out_h = Gather (sizes, two)
  in_h = Gather (shape, two)
  at_h = Range (zero, out_h, one)
  scaled_h = Mul (at_h, in_h)
  rows = Div (scaled_h, out_h)
  y = Gather <axis = 2> (wide, rows)
}"""


def session(text: str, threads: int = 0) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(onnx.parser.parse_model(text).SerializeToString(), options)


def index_maps(small: int, size: int, resize: onnxruntime.InferenceSession, gather: onnxruntime.InferenceSession):
    """The picked positions along one axis: torch, ONNX Runtime, exact, ours in torch, ours in ONNX Runtime."""
    ramp = torch.arange(small, dtype=torch.float32).reshape(1, 1, small, 1)
    feeds = {"x": ramp.numpy(), "sizes": np.array([1, 1, size, 1])}
    return (
        F.interpolate(ramp, size=(size, 1), mode="nearest").flatten().numpy(),
        resize.run(None, feeds)[0].reshape(-1),
        (np.arange(size) * small // size).astype(np.float32),
        upsample_nearest(ramp, (size, 1)).flatten().numpy(),
        gather.run(None, feeds)[0].reshape(-1),
    )


def milliseconds(calls, rounds: int = 15) -> list[float]:
    """Median time of each call, measured in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 2):
        for call, row in zip(calls, times):
            start = time.perf_counter()
            call()
            row.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(row[2:]) for row in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=2048, help="largest size H")
    largest = parser.parse_args().largest
    resize, gather = session(RESIZE), session(GATHER)
    columns = ("pooling", "sizes", "torch != ORT", "torch != exact", "ORT != exact", "ours != exact")
    table = Table(*columns, title=f"sizes H <= {largest} with another index somewhere")
    for pooling in (2, 3, 4, 5, 8):
        sizes = range(max(4, pooling), largest + 1)
        counts = np.zeros(4, int)
        for size in sizes:
            torch_, ort, exact, ours, ours_ort = index_maps(size // pooling, size, resize, gather)
            pairs = ((torch_, ort), (torch_, exact), (ort, exact))
            counts[:3] += [not np.array_equal(a, b) for a, b in pairs]
            counts[3] += not (np.array_equal(ours, exact) and np.array_equal(ours_ort, exact))
        table.add_row(str(pooling), str(len(sizes)), *map(str, counts))
    Console().print(table)

    torch.set_num_threads(1)
    x = torch.randn(8, 128, 14, 14)
    feeds = {"x": x.numpy(), "sizes": np.array([8, 128, 56, 56])}
    one, other = session(RESIZE, 1), session(GATHER, 1)
    times = milliseconds(
        (
            lambda: F.interpolate(x, size=(56, 56), mode="nearest"),
            lambda: upsample_nearest(x, (56, 56)),
            lambda: one.run(None, feeds),
            lambda: other.run(None, feeds),
        )
    )
    print("[8, 128, 14, 14] to 56 x 56, float32, one thread, median ms of 15 in turns:")
    print(f"torch: F.interpolate {times[0]:.1f}, ours {times[1]:.1f}; ratio {times[1] / times[0]:.2f}")
    print(f"ONNX Runtime: Resize {times[2]:.1f}, ours {times[3]:.1f}; ratio {times[3] / times[2]:.2f}")


if __name__ == "__main__":
    main()
