"""Run a model with dyndeploy's operators in plain ONNX Runtime. The library is all that it needs, not the package.

    python samples/onnxruntime_plain.py libdyndeploy_ort.so bundles/digits/model.onnx --dim batch=8 --profile

`dyndeploy.library_path("onnxruntime")` says where the library lies. The model runs on random inputs; with --profile
the time of every operator is printed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime


def draw(argument: onnxruntime.NodeArg, dims: dict[str, int]) -> onnxruntime.OrtValue:
    """A random tensor for an input of the model; a dim that was not given a size is 1."""
    shape = [size if isinstance(size, int) else dims.get(size, 1) for size in argument.shape]
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    if argument.type == "tensor(float)":
        return onnxruntime.OrtValue.ortvalue_from_numpy(values)
    if argument.type == "tensor(float16)":
        return onnxruntime.OrtValue.ortvalue_from_numpy(values.astype(np.float16))
    if argument.type == "tensor(bfloat16)":  # numpy has none: the upper half of a float32, and ONNX's number for it
        halves = (values.view(np.uint32) >> 16).astype(np.uint16)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(halves, 16)
    raise SystemExit(f"{argument.name} is a {argument.type}; this sample draws float32, float16 and bfloat16")


def print_kernels(profile: Path) -> None:
    """Print the time that ONNX Runtime's profile says of every operator, and remove the profile."""
    events = json.loads(profile.read_text())
    profile.unlink()
    microseconds: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            microseconds[event["args"]["op_name"]] += event["dur"]
    for name, total in microseconds.most_common():
        print(f"  {name:28} {total / 1000:9.3f} ms")


def main() -> None:
    """Load, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path, help="libdyndeploy_ort.so")
    parser.add_argument("model", type=Path, help="a model.onnx")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE", help="size of a dynamic dim")
    parser.add_argument("--threads", type=int, default=0, help="threads of one operator (default: one per core)")
    parser.add_argument("--profile", action="store_true", help="print the time by operator")
    options = parser.parse_args()

    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = options.threads
    session_options.enable_profiling = options.profile
    session_options.register_custom_ops_library(str(options.library))  # all there is to do
    session = onnxruntime.InferenceSession(options.model, session_options, providers=["CPUExecutionProvider"])

    dims = {name: int(size) for name, _, size in (given.partition("=") for given in options.dim)}
    feeds = {argument.name: draw(argument, dims) for argument in session.get_inputs()}
    start = time.perf_counter()
    outputs = session.run_with_ort_values(None, feeds)
    milliseconds = 1000 * (time.perf_counter() - start)
    for argument, value in zip(session.get_outputs(), outputs):
        print(f"{argument.name}: {argument.type} {value.shape()}")
    print(f"onnxruntime {onnxruntime.__version__}, first run {milliseconds:.1f} ms")
    if options.profile:
        print_kernels(Path(session.end_profiling()))


if __name__ == "__main__":
    main()
