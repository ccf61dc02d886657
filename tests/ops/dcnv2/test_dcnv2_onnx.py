"""Both function bodies in ONNX Runtime against the float64 op."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from dyndeploy.ops.dcnv2.op import SPEC, modulated_deform_conv2d
from dyndeploy.testing.single_op import single_op_model

SHAPES = [(1, (7, 6)), (3, (5, 9)), (2, (12, 4))]
CASES = {
    "plain": ({}, {}),
    "anisotropic": (
        {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2)},
        {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]},
    ),
    "groups": ({"groups": 2, "padding": (1, 1, 1, 1)}, {"group": 2, "pads": [1, 1, 1, 1]}),
    "offset groups": (
        {"groups": 2, "offset_groups": 4, "kernel": (2, 3), "stride": (1, 3)},
        {"group": 2, "offset_group": 4, "strides": [1, 3]},
    ),
    "large offsets": ({"spread": 8.0, "padding": (1, 1, 1, 1)}, {"pads": [1, 1, 1, 1]}),
    "one tap": ({"kernel": (1, 1)}, {}),
    "relu, 2*sigmoid": ({}, {"relu": 1, "mask_scale": 2.0}),
    "no sigmoid": ({}, {"sigmoid": 0, "mask_scale": -0.5}),
}
TORCH_NAMES = {a.name: a.torch_name for a in SPEC.attributes}


@pytest.fixture(params=[False, True], ids=["deformconv", "gridsample"])
def gridsample(request):
    return request.param


def open_session(attributes, dtype="float32", *, gridsample):
    model = single_op_model(SPEC, attributes, dtype, gridsample=gridsample)
    return onnxruntime.InferenceSession(model.SerializeToString())


def feeds(tensors):
    return {t.name: value.numpy() for t, value in zip(SPEC.inputs, tensors)}


def relative_error(y, truth):
    return ((torch.from_numpy(y).double() - truth).norm() / truth.norm()).item()


def expected(tensors, attributes):
    return modulated_deform_conv2d(
        *(t.double() for t in tensors), **{TORCH_NAMES[name]: value for name, value in attributes.items()}
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("case", "attributes"), CASES.values(), ids=CASES)
def test_one_session_serves_every_shape(draw, case, attributes, dtype, gridsample):
    session = open_session(attributes, dtype, gridsample=gridsample)
    for n, size in SHAPES:
        tensors = [t.to(getattr(torch, dtype)) for t in draw(n=n, size=size, **case)]
        (y,) = session.run(None, feeds(tensors))
        truth = expected(tensors, attributes)
        assert y.shape == truth.shape
        assert y.dtype == dtype
        assert relative_error(y, truth) < SPEC.tolerance[dtype]


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_maps_of_one_row_or_column(draw, size, gridsample):
    tensors = [t.float() for t in draw(size=size, padding=(1, 1, 1, 1))]
    attributes = {"pads": [1, 1, 1, 1]}
    (y,) = open_session(attributes, gridsample=gridsample).run(None, feeds(tensors))
    assert relative_error(y, expected(tensors, attributes)) < SPEC.tolerance["float32"]


@pytest.mark.parametrize("offset", [np.nan, np.inf, -np.inf, 1e30, -1e30, 3e9])
@pytest.mark.parametrize("axis", [0, 1])
def test_offsets_that_reach_nothing_contribute_nothing(draw, offset, axis, gridsample):
    tensors = [t.float() for t in draw(padding=(1, 1, 1, 1))]
    tensors[1][0, 2 * 5 + axis] = offset
    attributes = {"pads": [1, 1, 1, 1]}
    (y,) = open_session(attributes, gridsample=gridsample).run(None, feeds(tensors))
    assert relative_error(y, expected(tensors, attributes)) < SPEC.tolerance["float32"]


@pytest.mark.parametrize("at", [-1.0, 0.0, 2.0, 3.0, -0.5, 2.5])
def test_samples_on_the_border(at, gridsample):
    """One tap that samples a 3x4 map at row `at`, column 1; -1 and H = 3 are the first that give zero."""
    x = np.full((1, 1, 3, 4), 8, np.float32)
    offset_mask = np.array([at, 1, 1], np.float32).reshape(1, 3, 1, 1)
    arrays = [x, offset_mask, np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32)]
    session = open_session({"strides": [9, 9], "sigmoid": 0}, gridsample=gridsample)
    (y,) = session.run(None, {t.name: a for t, a in zip(SPEC.inputs, arrays)})
    inside = {-1.0: 0, 0.0: 8, 2.0: 8, 3.0: 0, -0.5: 4, 2.5: 4}
    assert y.item() == pytest.approx(inside[at], abs=1e-5)


def test_half_positions_are_float32(draw, gridsample):
    """Rows of 1003 pixels: half cannot tell positions closer than half a pixel apart."""
    tensors = [t.half() for t in draw(n=1, size=(3, 1003))]
    (y,) = open_session({}, "float16", gridsample=gridsample).run(None, feeds(tensors))
    assert relative_error(y, expected(tensors, {})) < SPEC.tolerance["float16"]


def test_gridsample_body_needs_no_deformconv():
    (function,) = single_op_model(SPEC, {}, gridsample=True).functions
    used = {node.op_type for node in function.node}
    assert "DeformConv" not in used
    assert [node.op_type for node in function.node].count("GridSample") == 1  # whatever the kernel


def test_one_body_serves_nodes_of_different_attributes(draw, gridsample):
    """Two nodes in one model, one function: nothing of a node may be in it."""
    first = single_op_model(SPEC, {"pads": [1, 1, 1, 1]}, gridsample=gridsample)
    attributes = {"strides": [2, 1], "dilations": [1, 2], "group": 2, "relu": 1}
    second = single_op_model(SPEC, attributes, gridsample=gridsample)
    assert first.functions[0] == second.functions[0]
    merged = onnx.compose.merge_graphs(
        onnx.compose.add_prefix_graph(first.graph, "first_"),
        onnx.compose.add_prefix_graph(second.graph, "second_"),
        io_map=[("first_Y", "second_X")],
    )
    model = onnx.helper.make_model(
        merged, opset_imports=first.opset_import, functions=first.functions, ir_version=first.ir_version
    )
    one = [t.float() for t in draw(o=4, padding=(1, 1, 1, 1))]
    two = [t.float() for t in draw(o=6, kernel=(2, 3), stride=(2, 1), dilation=(1, 2), groups=2, seed=1)]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (y,) = session.run(
        None,
        {f"first_{k}": v for k, v in feeds(one).items()}
        | {f"second_{k}": v for k, v in feeds(two).items() if k != "X"},
    )
    middle = expected(one, {"pads": [1, 1, 1, 1]})
    truth = expected([middle, *two[1:]], attributes)
    assert relative_error(y, truth) < SPEC.tolerance["float32"]


def test_bfloat16_is_valid(gridsample):
    """ONNX Runtime has no bfloat16 kernels on the CPU; the checker knows the types of every node."""
    model = single_op_model(SPEC, {}, "bfloat16", gridsample=gridsample)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    assert inferred.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16


def test_gridsample_body_in_the_reference_evaluator(draw):
    tensors = [t.float() for t in draw(n=1, o=2, size=(1, 5), padding=(1, 1, 1, 1))]
    attributes = {"pads": [1, 1, 1, 1]}
    (y,) = ReferenceEvaluator(single_op_model(SPEC, attributes, gridsample=True)).run(None, feeds(tensors))
    assert relative_error(y, expected(tensors, attributes)) < 1e-5
