"""Polygraphy on a bundle: its inputs, its sizes and our plugins go into `polygraphy run`, `convert` or `inspect`.

    python samples/tensorrt_polygraphy.py run bundles/digits --onnxrt --trt
    python samples/tensorrt_polygraphy.py --rtx run bundles/digits --onnxrt --trt
    python samples/tensorrt_polygraphy.py --rtx convert bundles/digits -o digits.engine    # needs no GPU

Polygraphy's own option for plugins only opens a library and expects that this registers them. Here they are loaded into
TensorRT's registry, and then Polygraphy's command line runs in the same process. What is behind the bundle goes to it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path

from dyndeploy import Bundle
from dyndeploy.errors import DynError
from dyndeploy.tensorrt import vendor
from dyndeploy.tensors import POINTS, sizes_at

#: Verbs that make an engine, and those that also run it.
BUILDS, RUNS = ("convert", "run"), ("run",)


def profile(bundle: Bundle) -> list[str]:
    """--trt-min-shapes and its like, from the bundle's named dims."""
    manifest = bundle.manifest
    if not manifest.dims:
        return []
    words = []
    for point in POINTS:
        sizes = sizes_at(manifest.dims, point)
        words.append(f"--trt-{point}-shapes")
        words += [f"{spec.name}:[{','.join(map(str, spec.size_at(sizes)))}]" for spec in manifest.inputs]
    return words


def save_inputs(bundle: Bundle, path: Path) -> None:
    """The bundle's golden inputs, as `polygraphy run --load-inputs` takes them."""
    from polygraphy.json import save_json

    feeds = []
    for point in bundle.manifest.goldens:
        inputs, _ = bundle.goldens(point)
        feeds.append({spec.name: inputs[spec.name].astype(spec.numpy_dtype) for spec in bundle.manifest.inputs})
    save_json(feeds, str(path))


def main() -> int:
    """Load, write the command, run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rtx", action="store_true", help="TensorRT for RTX")
    parser.add_argument("verb", help="run, convert, inspect, …")
    parser.add_argument("bundle", help="folder of a bundle")
    options, rest = parser.parse_known_args()

    target = vendor.target_of("tensorrt-rtx" if options.rtx else "tensorrt")
    if vendor.missing_link(target):  # before the vendor's library is loaded: start again with the path that it needs
        with tempfile.TemporaryDirectory() as folder:
            environment = vendor.environment(target, Path(folder))
            return os.spawnve(os.P_WAIT, sys.executable, [sys.executable, *sys.argv], environment)
    if options.rtx:
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
    try:
        bundle = Bundle.open(options.bundle)
        vendor.load(target).load_plugins()
    except DynError as error:
        print(error, file=sys.stderr)
        return 1
    command = [options.verb, str(bundle.onnx_path), *(profile(bundle) if options.verb in BUILDS else []), *rest]
    with tempfile.TemporaryDirectory() as folder:
        if options.verb in RUNS:
            save_inputs(bundle, Path(folder) / "inputs.json")
            command += ["--load-inputs", str(Path(folder) / "inputs.json")]
        print(shlex.join(["polygraphy", *command]))
        sys.argv = ["polygraphy", *command]
        from polygraphy.tools import main as polygraphy

        try:
            status = polygraphy()
        except SystemExit as end:
            status = end.code
    return int(status or 0)


if __name__ == "__main__":
    sys.exit(main())
