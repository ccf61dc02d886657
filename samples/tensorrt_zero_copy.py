"""Tensors of PyTorch or arrays of CuPy go through an engine where they lie, in the order of their own stream.

dyndeploy build bundles/digits --target tensorrt
python samples/tensorrt_zero_copy.py bundles/digits                   # PyTorch
python samples/tensorrt_zero_copy.py bundles/digits --library cupy --runtime tensorrt-rtx
"""

from __future__ import annotations

import argparse
import sys
import time

import dyndeploy
from dyndeploy.errors import DynError
from dyndeploy.runtimes import DeviceSession
from dyndeploy.tensors import seeded_arrays, sizes_at


def run_torch(session: DeviceSession, arrays: dict, repeats: int) -> None:
    """Preprocessing, the engine and what follows it are queued in one stream; the host waits once, at the end."""
    import torch

    inputs = {name: torch.from_numpy(array).cuda() for name, array in arrays.items()}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        outputs = session.run_device(inputs, stream=stream)  # made by the session: the shapes are known now
        outputs = {name: torch.from_dlpack(array) for name, array in outputs.items()}
        for _ in range(2):  # the same places again and again: the second time a CUDA graph is captured
            session.run_device(inputs, outputs=outputs, stream=stream)
        stream.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            session.run_device(inputs, outputs=outputs, stream=stream)
        total = {name: output.float().sum() for name, output in outputs.items()}  # behind the engine, without waiting
        stream.synchronize()
    milliseconds = 1000 * (time.perf_counter() - start) / repeats
    for name, output in outputs.items():
        print(f"{name} {list(output.shape)} {output.dtype} sum {float(total[name]):g}")
    print(f"{milliseconds:.3f} ms a run, {session.statistics}")


def run_cupy(session: DeviceSession, arrays: dict, repeats: int) -> None:
    """The same with CuPy, which takes what the session gives by its `__cuda_array_interface__`."""
    import cupy

    inputs = {name: cupy.asarray(array) for name, array in arrays.items()}
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        outputs = {name: cupy.asarray(array) for name, array in session.run_device(inputs, stream=stream).items()}
        for _ in range(2):
            session.run_device(inputs, outputs=outputs, stream=stream)
        stream.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            session.run_device(inputs, outputs=outputs, stream=stream)
        total = {name: output.sum() for name, output in outputs.items()}
        stream.synchronize()
    milliseconds = 1000 * (time.perf_counter() - start) / repeats
    for name, output in outputs.items():
        print(f"{name} {list(output.shape)} {output.dtype} sum {float(total[name]):g}")
    print(f"{milliseconds:.3f} ms a run, {session.statistics}")


def main() -> int:
    """Open, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", help="folder of a bundle that has an engine")
    parser.add_argument("--runtime", choices=["tensorrt", "tensorrt-rtx"], default="tensorrt")
    parser.add_argument("--library", choices=["torch", "cupy"], default="torch")
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args()
    try:
        bundle = dyndeploy.Bundle.open(options.bundle)
        arrays = seeded_arrays(bundle.manifest.inputs, sizes_at(bundle.manifest.dims, "opt"), bundle.manifest.seed)
        with dyndeploy.open_session(bundle, runtime=options.runtime) as session:
            {"torch": run_torch, "cupy": run_cupy}[options.library](session, arrays, options.repeats)
    except DynError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
