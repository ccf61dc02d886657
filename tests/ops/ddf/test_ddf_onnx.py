"""The function body in ONNX Runtime and in onnx's reference evaluator, against the float64 op."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from dyndeploy.ops.ddf.op import SPEC, decoupled_dynamic_filter
from dyndeploy.testing.single_op import single_op_model

SHAPES = [(1, (7, 6)), (3, (5, 9)), (2, (12, 4))]
ANISOTROPIC = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2)}
CASES = {
    "plain": {"kernel_size": (3, 3)},
    "padded": {"kernel_size": (3, 3), "padding": (1, 1, 1, 1), "spatial_gain": 0.47},
    "anisotropic": ANISOTROPIC,
    "heads": {"kernel_size": (2, 3), "stride": (1, 3), "heads": 4},
    "sum of filters": dict(**ANISOTROPIC, heads=2, combine="add", spatial_gain=0.5),
    "no FilterNorm": dict(**ANISOTROPIC, filter_norm=False, spatial_gain=0.5),
    "one tap": {"kernel_size": (1, 1), "filter_norm": False},
    "upsampling": dict(**ANISOTROPIC, heads=2, scale=2),
    "upsampling by three, sum": {"kernel_size": (3, 3), "padding": (1, 1, 1, 1), "scale": 3, "combine": "add"},
    "relu": {"kernel_size": (3, 3), "relu": True},
}
ONNX_NAMES = {a.torch_name: a.name for a in SPEC.attributes}


def attributes_of(case):
    """The arguments of the function as attributes of the node."""
    spelled = {"mul": 0, "add": 1}
    return {
        ONNX_NAMES[name]: spelled[value] if name == "combine" else int(value) if isinstance(value, bool) else value
        for name, value in case.items()
    }


def open_session(case, dtype="float32"):
    model = single_op_model(SPEC, attributes_of(case), dtype)
    return onnxruntime.InferenceSession(model.SerializeToString())


def feeds(tensors):
    return {t.name: value.numpy() for t, value in zip(SPEC.inputs, tensors)}


def relative_error(y, truth):
    return ((torch.from_numpy(y).double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_session_serves_every_shape(draw, case, dtype):
    session = open_session(case, dtype)
    for n, size in SHAPES:
        tensors = [t.to(getattr(torch, dtype)) for t in draw(n=n, size=size, **case)]
        (y,) = session.run(None, feeds(tensors))
        truth = decoupled_dynamic_filter(*(t.double() for t in tensors), **case)
        assert y.shape == truth.shape
        assert y.dtype == dtype
        assert relative_error(y, truth) < SPEC.tolerance[dtype]


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_maps_of_one_row_or_column(draw, size):
    case = {"kernel_size": (3, 3), "padding": (1, 1, 1, 1), "scale": 2}
    tensors = [t.float() for t in draw(size=size, **case)]
    (y,) = open_session(case).run(None, feeds(tensors))
    assert relative_error(y, decoupled_dynamic_filter(*(t.double() for t in tensors), **case)) < 1e-5


def test_half_filters_are_normalised_in_float32(draw):
    """Their variance, 1e-8, is not a half any more: it would be 0, and the filters infinite."""
    x, channel_filter, spatial_filter, channel_gain = draw()
    tensors = [t.half() for t in (x, channel_filter * 1e-4, spatial_filter * 1e-4, channel_gain)]
    (y,) = open_session(CASES["plain"], "float16").run(None, feeds(tensors))
    truth = decoupled_dynamic_filter(*(t.double() for t in tensors), kernel_size=3)
    assert relative_error(y, truth) < SPEC.tolerance["float16"]


def test_constant_filters_are_zero(draw):
    x, channel_filter, spatial_filter, channel_gain = (t.float() for t in draw())
    session = open_session(CASES["plain"])
    (y,) = session.run(None, feeds([x, channel_filter, torch.full_like(spatial_filter, 0.5), channel_gain]))
    assert not y.any()


def test_one_body_serves_nodes_of_different_attributes(draw):
    """Two nodes in one model, one function: nothing of a node may be in it."""
    up = {"kernel_size": (3, 3), "padding": (1, 1, 1, 1), "scale": 2, "combine": "add", "spatial_gain": 0.3}
    down = {"kernel_size": (2, 3), "stride": (2, 1), "dilation": (1, 2), "heads": 2, "relu": True}
    first, second = (single_op_model(SPEC, attributes_of(case)) for case in (up, down))
    assert first.functions[0] == second.functions[0]
    merged = onnx.compose.merge_graphs(
        onnx.compose.add_prefix_graph(first.graph, "first_"),
        onnx.compose.add_prefix_graph(second.graph, "second_"),
        io_map=[("first_Y", "second_X")],
    )
    model = onnx.helper.make_model(
        merged, opset_imports=first.opset_import, functions=first.functions, ir_version=first.ir_version
    )
    one = [t.float() for t in draw(size=(4, 5), **up)]
    two = [t.float() for t in draw(size=(8, 10), **down, seed=1)]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (y,) = session.run(
        None,
        {f"first_{k}": v for k, v in feeds(one).items()}
        | {f"second_{k}": v for k, v in feeds(two).items() if k != "X"},
    )
    middle = decoupled_dynamic_filter(*(t.double() for t in one), **up)
    truth = decoupled_dynamic_filter(middle, *(t.double() for t in two[1:]), **down)
    assert relative_error(y, truth) < SPEC.tolerance["float32"]


def test_bfloat16_runs_on_the_cpu(draw):
    """The body computes in float32, so that ONNX Runtime, which has next to no bfloat16 on the CPU, runs it there."""
    case = CASES["sum of filters"]
    tensors = [t.bfloat16() for t in draw(**case)]
    values = {
        t.name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            value.view(torch.uint16).numpy(), onnx.TensorProto.BFLOAT16
        )
        for t, value in zip(SPEC.inputs, tensors)
    }
    (y,) = open_session(case, "bfloat16").run_with_ort_values(None, values)
    truth = decoupled_dynamic_filter(*(t.double() for t in tensors), **case)
    assert (torch.from_dlpack(y).double() - truth).norm() / truth.norm() < SPEC.tolerance["bfloat16"]


def test_body_is_not_unrolled():
    """The number of nodes does not depend on the kernel, because one body serves them all."""
    small, large = (
        single_op_model(SPEC, {"kernel_shape": [k, k], "scale": s}).functions[0] for k, s in ((1, 1), (7, 4))
    )
    assert small == large


@pytest.mark.parametrize("name", ["anisotropic", "upsampling", "sum of filters"])
def test_reference_evaluator(draw, name):
    case = CASES[name]
    tensors = [t.float() for t in draw(n=1, size=(4, 5), **case)]
    (y,) = ReferenceEvaluator(single_op_model(SPEC, attributes_of(case))).run(None, feeds(tensors))
    truth = decoupled_dynamic_filter(*(t.double() for t in tensors), **case)
    assert relative_error(np.asarray(y), truth) < 1e-5
