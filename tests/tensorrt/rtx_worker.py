"""Builds engines with TensorRT for RTX, in a process of its own: the vendor's library can end it.

Reads a list of jobs as JSON from standard input:

    {"model": path, "library": path or null, "opened": path or null, "build": bool, "embed": bool,
     "words": [word], "profile": {input: [min, opt, max]}}

and writes a line for each:

    {"parsed": bool, "layers": [[type, name, shape, dtype]], "engine": bytes or null, "log": [line],
     "contains": {word: bool}}

Where there is nothing to build, the network is parsed only. A library that is "opened" is not given to TensorRT.
"""

import ctypes
import json
import sys


def main() -> None:
    """Run all jobs."""
    import tensorrt_rtx as trt

    for job in json.load(sys.stdin):
        print(json.dumps(build(trt, job)), flush=True)


def build(trt, job):
    """Parse and build one model; errors and warnings of TensorRT are part of what comes back."""
    lines = []

    class Logger(trt.ILogger):
        def __init__(self):
            super().__init__()

        def log(self, severity, message):
            if severity <= trt.ILogger.Severity.WARNING:
                lines.append(f"{severity.name}: {message}")

    logger = Logger()
    builder = trt.Builder(logger)
    if job["opened"]:
        ctypes.CDLL(job["opened"])
    if job["library"]:
        assert builder.get_plugin_registry().load_library(job["library"]) is not None, lines
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    with open(job["model"], "rb") as file:
        result = {"parsed": parser.parse(file.read()), "layers": [], "engine": None, "log": lines, "contains": {}}
    if not result["parsed"]:
        return result
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        output = layer.get_output(0)
        result["layers"].append([layer.type.name, layer.name, list(output.shape), output.dtype.name])
    if not job["build"]:
        return result
    config = builder.create_builder_config()
    if job["profile"]:
        profile = builder.create_optimization_profile()
        for name, shapes in job["profile"].items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    if job["embed"]:
        config.plugins_to_serialize = [job["library"]]
    engine = builder.build_serialized_network(network, config)
    if engine is not None:
        result["engine"] = engine.nbytes
        content = bytes(engine)
        result["contains"] = {word: word.encode() in content for word in job["words"]}
    return result


if __name__ == "__main__":
    main()
