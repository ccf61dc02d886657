"""The engines that are measured: this project's kernels and what else computes the same, or a plain convolution.

An engine is a function of a problem, its inputs and the number of threads; it returns the call that is timed and a
function that turns the call's result into an array, NCHW. Inputs lie ready in the engine's own form and layout, and
weights are packed, before anything is timed. Every engine runs in a process of its own, where it alone is imported.

The rivals of DCNv2 have no sigmoid: they get the masks activated and apart from the offsets; ours gets them raw.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from gate import LeftOutError
from problems import Arrays, Network, Problem, flat

import dyndeploy
from dyndeploy import DynError

Call = Callable[[], Any]
Ready = tuple[Call, Callable[[Any], np.ndarray[Any, Any]]]
Engine = Callable[[Any, Arrays, int], Ready]

#: ONNX Runtime with our library and without.
KERNELS, BODIES = "onnxruntime", "onnxruntime-bodies"
#: What holds as long as the process lives.
_PROCESS = ExitStack()


def prepare(engine: str, problem: Problem | Network, threads: int) -> tuple[Call, np.ndarray[Any, Any]]:
    """What a worker does with a task: the call of an engine, and the output of one."""
    call, array = ENGINES[engine][1](problem, problem.draw(), threads)
    return call, np.array(array(call()))


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise LeftOutError(f"{package} is not installed: pip install {package}") from None
        raise LeftOutError(f"{package} is installed, but does not load: {error}") from None


def _need(library: str) -> None:
    """An engine of ours takes part with its compiled library only; the references are not what is measured."""
    try:
        dyndeploy.library_path(library)
    except DynError as error:
        raise LeftOutError(f"{error.what} {error.fix}") from None


# --- ONNX Runtime: ours, the function bodies, its own operators


def ours_onnxruntime(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    _need("onnxruntime")
    return _session(_single_op(problem, arrays), arrays, threads, KERNELS)


def body_onnxruntime(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    return _session(_single_op(problem, arrays), arrays, threads)


def deform_conv_onnxruntime(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    offset, mask = _offset_and_mask(arrays)
    feeds = {"X": arrays["X"], "offset": offset, "mask": mask}
    node = ["X", "W", "offset", "", "mask"]
    return _session(_model(problem, "DeformConv", node, feeds, {"W": arrays["W"]}), feeds, threads)


def conv_onnxruntime(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    feeds = {"X": arrays["X"]}
    model = _model(problem, "Conv", ["X", "W"], feeds, {"W": problem.plain_weight(arrays)})
    return _session(model, feeds, threads)


def _session(source: bytes | Path, arrays: Arrays, threads: int, runtime: str = BODIES) -> Ready:
    session = dyndeploy.open_session(source, runtime, threads=threads)
    feeds = {spec.name: arrays[spec.name] for spec in session.inputs}
    return lambda: session.run(feeds), lambda outputs: next(iter(outputs.values()))


def _single_op(problem: Problem, arrays: Arrays) -> bytes:
    """The custom op with its body; its weights are constants, as in a network."""
    import onnx

    from dyndeploy.testing.single_op import single_op_model

    model = single_op_model(problem.case.spec, problem.case.attributes, shapes=problem.case.shapes())
    for constant in (value for value in list(model.graph.input) if value.name in ("W", "B")):
        model.graph.input.remove(constant)
        model.graph.initializer.append(onnx.numpy_helper.from_array(arrays[constant.name], constant.name))
    return model.SerializeToString()


def _model(problem: Problem, op: str, inputs: list[str], feeds: Arrays, constants: Arrays) -> bytes:
    import onnx
    from onnx import helper, numpy_helper

    from dyndeploy.ops._onnx import OPSET

    float32 = onnx.TensorProto.FLOAT
    window = {"strides": [problem.stride] * 2, "pads": [1] * 4, "kernel_shape": [3, 3]}
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["Y"], **window)],
        "peer",
        [helper.make_tensor_value_info(name, float32, array.shape) for name, array in feeds.items()],
        [helper.make_tensor_value_info("Y", float32, list("NCHW"))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return model.SerializeToString()


def _offset_and_mask(arrays: Arrays) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    offset, logits = arrays["offset_mask"][:, :18], arrays["offset_mask"][:, 18:]
    return np.ascontiguousarray(offset), 1 / (1 + np.exp(-logits))


# --- OpenVINO


def deform_conv_openvino(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    offset, mask = _offset_and_mask(arrays)

    def build(ops: Any, x: Any, offset: Any, mask: Any) -> Any:
        weight, strides = ops.constant(arrays["W"]), [problem.stride] * 2
        window = {"strides": strides, "pads_begin": [1, 1], "pads_end": [1, 1], "dilations": [1, 1]}
        return ops.deformable_convolution(x, offset, weight, mask=mask, bilinear_interpolation_pad=True, **window)

    return _openvino([arrays["X"], offset, mask], build, threads)


def conv_openvino(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    weight = problem.plain_weight(arrays)

    def build(ops: Any, x: Any) -> Any:
        return ops.convolution(x, ops.constant(weight), [problem.stride] * 2, [1, 1], [1, 1], [1, 1])

    return _openvino([arrays["X"]], build, threads)


def _openvino(inputs: list[np.ndarray[Any, Any]], build: Callable[..., Any], threads: int) -> Ready:
    openvino = _import("openvino")
    ops = importlib.import_module("openvino.opset8")
    parameters = [ops.parameter(array.shape, np.float32) for array in inputs]
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.Model([build(ops, *parameters)], parameters)
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    for index, array in enumerate(inputs):
        request.set_input_tensor(index, openvino.Tensor(array))
    return lambda: request.infer(share_outputs=True), lambda _: request.get_output_tensor(0).data


# --- ncnn


def deform_conv_ncnn(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    ncnn = _import("ncnn")
    if problem.shape[0] != 1:
        raise LeftOutError("its Python package runs one image at a time")
    channels, weight = problem.shape[1], arrays["W"]
    # 0: output channels, 1: taps per side, 3: stride, 4: padding, 5: bias, 6: values of the weight
    layer = f"0={channels} 1=3 3={problem.stride} 4=1 5=0 6={weight.size}"
    text = f"7767517\n4 4\nInput x 0 1 x\nInput o 0 1 o\nInput m 0 1 m\nDeformableConv2D y 3 1 x o m y {layer}\n"
    net = ncnn.Net()
    net.opt.num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        param, values = Path(folder) / "net.param", Path(folder) / "net.bin"
        param.write_text(text)
        values.write_bytes(np.int32(0).tobytes() + weight.tobytes())  # 0: the values are raw float32
        assert net.load_param(str(param)) == 0 and net.load_model(str(values)) == 0
    maps = [ncnn.Mat(np.ascontiguousarray(array[0])).clone() for array in (arrays["X"], *_offset_and_mask(arrays))]

    def call() -> Any:
        extractor = net.create_extractor()
        for name, value in zip("xom", maps):
            extractor.input(name, value)
        return extractor.extract("y")[1]

    return call, lambda y: np.array(y)[None]


# --- torch: ours, torchvision, plain convolutions, and the operators as their papers' code composes them


def ours_torch(problem: Problem, arrays: Arrays, threads: int, channels_last: bool = False) -> Ready:
    _need("cpu")
    tensors = _tensors(arrays, threads, channels_last)
    op = problem.public_function()
    keywords = problem.public_keywords()
    return lambda: op(*tensors, **keywords), _array


def ours_torch_channels_last(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    return ours_torch(problem, arrays, threads, channels_last=True)


def deform_conv_torchvision(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    x, _, weight, _ = _tensors(arrays, threads)
    ops = _import("torchvision").ops
    offset, mask = _tensors(dict(zip("om", _offset_and_mask(arrays))), threads)
    return lambda: ops.deform_conv2d(x, offset, weight, stride=problem.stride, padding=1, mask=mask), _array


def conv_torch(problem: Problem, arrays: Arrays, threads: int, channels_last: bool = False) -> Ready:
    import torch

    feeds = {"X": arrays["X"], "W": problem.plain_weight(arrays)}
    x, weight = _tensors(feeds, threads, channels_last)
    groups, stride = problem.shape[1] // weight.shape[1], problem.stride
    return lambda: torch.nn.functional.conv2d(x, weight, None, stride, 1, 1, groups), _array


def conv_torch_channels_last(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    return conv_torch(problem, arrays, threads, channels_last=True)


def copy_torch(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    (x,) = _tensors({"X": arrays["X"]}, threads)
    y = x.clone()
    return lambda: y.copy_(x), _array


def ddf_up_composed(problem: Problem, arrays: Arrays, threads: int, channels_last: bool = False) -> Ready:
    """One DDF per sub-pixel with our own kernel, stacked, and a pixel shuffle: what the official DDF-Up does."""
    import torch

    _need("cpu")
    x, channel, spatial, gain = _tensors(arrays, threads, channels_last)
    sub_pixels = problem.scale**2
    op = problem.public_function()
    keywords = {**problem.public_keywords(), "scale": 1}
    filters = list(zip(channel.chunk(sub_pixels, 1), spatial.chunk(sub_pixels, 1), gain.chunk(sub_pixels)))

    def call() -> Any:
        parts = torch.stack([op(x, *three, **keywords) for three in filters], 2)
        return torch.nn.functional.pixel_shuffle(parts.flatten(1, 2), problem.scale)

    return call, _array


def ddf_up_composed_channels_last(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    return ddf_up_composed(problem, arrays, threads, channels_last=True)


def _composed(form: str) -> Engine:
    """One of compositions.py."""

    def engine(problem: Problem, arrays: Arrays, threads: int) -> Ready:
        tensors = _tensors(arrays, threads)
        compose = getattr(importlib.import_module("compositions"), form)
        return lambda: compose(problem, *tensors), _array

    return engine


def step_ours(problem: Problem, arrays: Arrays, threads: int, channels_last: bool = False) -> Ready:
    """Forward and backward, by the compiled kernels."""
    from training import training_step

    from dyndeploy.native import kernels

    _need("cpu")
    tensors = _tensors(arrays, threads, channels_last, learning=True)
    assert kernels.available(problem.case.spec, "backward", tensors[0])
    op, keywords = problem.public_function(), problem.public_keywords()
    return training_step(lambda *leaves: op(*leaves, **keywords), tensors), flat


def step_ours_channels_last(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    return step_ours(problem, arrays, threads, channels_last=True)


def step_reference(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    tensors = _tensors(arrays, threads, learning=True)
    return lambda: problem.gradients(tensors), flat


def step_composed(problem: Problem, arrays: Arrays, threads: int) -> Ready:
    """Forward and backward of what the papers' code composes."""
    from compositions import LEARNING
    from training import training_step

    tensors = _tensors(arrays, threads, learning=True)
    if problem.operator == "dcnv2":
        _import("torchvision")
    compose = LEARNING[problem.operator]
    return training_step(lambda *leaves: compose(problem, *leaves), tensors), flat


def _tensors(arrays: Arrays, threads: int, channels_last: bool = False, learning: bool = False) -> list[Any]:
    import torch

    torch.set_num_threads(threads)
    if not learning:
        _PROCESS.enter_context(torch.inference_mode())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    tensors = map(torch.from_numpy, arrays.values())
    return [tensor.contiguous(memory_format=layout) if tensor.dim() == 4 else tensor for tensor in tensors]


def _array(y: Any) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = y.contiguous().numpy()
    return array


# --- Networks


def network_ours(network: Network, arrays: Arrays, threads: int) -> Ready:
    _need("onnxruntime")
    return _session(network.bundle, arrays, threads, KERNELS)


def network_bodies(network: Network, arrays: Arrays, threads: int) -> Ready:
    return _session(network.bundle, arrays, threads)


def network_eager(network: Network, arrays: Arrays, threads: int) -> Ready:
    from dyndeploy.native import disabled

    (x,) = _tensors(arrays, threads)
    model = network.make()

    def call() -> Any:
        with disabled():
            return model(x)

    return call, _array


#: Name -> (what it computes, how it is made ready).
ENGINES: dict[str, tuple[str, Engine]] = {
    "ours in ONNX Runtime": ("operator", ours_onnxruntime),
    "function body in ONNX Runtime": ("operator", body_onnxruntime),
    "DeformConv of ONNX Runtime": ("operator", deform_conv_onnxruntime),
    "OpenVINO": ("operator", deform_conv_openvino),
    "ncnn": ("operator", deform_conv_ncnn),
    "torchvision": ("operator", deform_conv_torchvision),
    "conv2d of torch, NCHW": ("plain", conv_torch),
    "conv2d of torch, channels_last": ("plain", conv_torch_channels_last),
    "conv2d of OpenVINO": ("plain", conv_openvino),
    "conv2d of ONNX Runtime": ("plain", conv_onnxruntime),
    "ours in torch, NCHW": ("operator", ours_torch),
    "ours in torch, channels_last": ("operator", ours_torch_channels_last),
    "copy of X": ("copy", copy_torch),
    "unfold": ("operator", _composed("unfold")),
    "4 calls of ours, NCHW": ("operator", ddf_up_composed),
    "4 calls of ours, channels_last": ("operator", ddf_up_composed_channels_last),
    "all regions, then select": ("operator", _composed("select")),
    "official masked form": ("operator", _composed("masked")),
    "step of ours, NCHW": ("step", step_ours),
    "step of ours, channels_last": ("step", step_ours_channels_last),
    "step of the composition": ("step", step_composed),
    "step of the references": ("step", step_reference),
    "network, ours": ("network", network_ours),
    "network, function bodies": ("network", network_bodies),
    "network, torch eager": ("network", network_eager),
}
