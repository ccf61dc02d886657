"""PyCUDA's GPUArrays go through an engine where they lie on the GPU.

    pip install "dyndeploy[tensorrt,pycuda]"
    dyndeploy build bundles/digits --target tensorrt
    python samples/tensorrt_pycuda.py bundles/digits

A kernel of PyCUDA's own runs before the engine, in the same stream: it inverts the picture.
"""

from __future__ import annotations

import argparse
import sys

import dyndeploy
from dyndeploy.errors import DynError
from dyndeploy.tensors import seeded_arrays, sizes_at


def main() -> int:
    """Open, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", help="folder of a bundle that has an engine")
    parser.add_argument("--runtime", choices=["tensorrt", "tensorrt-rtx"], default="tensorrt")
    options = parser.parse_args()
    try:
        bundle = dyndeploy.Bundle.open(options.bundle)
        arrays = seeded_arrays(bundle.manifest.inputs, sizes_at(bundle.manifest.dims, "opt"), bundle.manifest.seed)
        with dyndeploy.open_session(bundle, runtime=options.runtime) as session:
            # Both use the GPU's primary context, in which their memory and their streams are the same things.
            import pycuda.autoprimaryctx  # noqa: F401, TID251
            from pycuda import driver, gpuarray  # noqa: TID251

            stream = driver.Stream()
            given = {name: gpuarray.to_gpu_async(array, stream=stream) for name, array in arrays.items()}
            inverted = {name: 1 - array for name, array in given.items()}
            outputs = {
                name: gpuarray.empty(array.shape, array.dtype)
                for name, array in session.run_device(inverted, stream=stream).items()
            }
            session.run_device(inverted, outputs=outputs, stream=stream)
            stream.synchronize()
            for name, array in outputs.items():
                print(f"{name} {list(array.shape)} {array.dtype} {array.get().ravel()[:4]}")
    except DynError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
