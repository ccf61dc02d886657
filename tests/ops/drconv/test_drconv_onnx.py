"""The function body in ONNX Runtime and in ONNX's own evaluator, against the float64 op."""

import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from dyndeploy.ops.drconv.op import SPEC, dynamic_region_aware_conv2d
from dyndeploy.testing.single_op import single_op_model

SHAPES = [(1, (7, 6)), (3, (5, 9)), (2, (12, 4))]
CASES = {
    "plain": {"kernel_size": (3, 3)},
    "anisotropic": {
        "kernel_size": (3, 2),
        "stride": (2, 1),
        "padding": (1, 0, 2, 1),
        "dilation": (1, 2),
        "regions": 5,
        "relu": True,
    },
    "stride along the width": {
        "kernel_size": (2, 3),
        "stride": (1, 3),
        "padding": (0, 2, 1, 0),
        "dilation": (2, 1),
    },
    "one tap": {"kernel_size": (1, 1)},
    "one region": {"kernel_size": (3, 3), "regions": 1, "relu": True},
}
ONNX_NAMES = {a.torch_name: a.name for a in SPEC.attributes}


def model_of(case, dtype="float32"):
    return single_op_model(SPEC, {ONNX_NAMES[name]: value for name, value in case.items()}, dtype)


def drawn(draw, case, dtype="float32", **more):
    """Inputs in `dtype`, and the float64 output."""
    tensors = [t.to(getattr(torch, dtype)) for t in draw(**{k: v for k, v in case.items() if k != "relu"}, **more)]
    return tensors, dynamic_region_aware_conv2d(*(t.double() for t in tensors), **case)


def feeds(tensors):
    return {t.name: value.numpy() for t, value in zip(SPEC.inputs, tensors)}


def relative_error(y, truth):
    return ((torch.from_numpy(y).double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_session_serves_every_shape(draw, case, dtype):
    session = onnxruntime.InferenceSession(model_of(case, dtype).SerializeToString())
    for n, size in SHAPES:
        tensors, truth = drawn(draw, case, dtype, n=n, size=size)
        (y,) = session.run(None, feeds(tensors))
        assert y.shape == truth.shape
        assert y.dtype == dtype
        assert relative_error(y, truth) < SPEC.tolerance[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_all_regions_tied(draw, dtype):
    """Region 0 everywhere; a filter of any other would be infinitely wrong."""
    case = CASES["plain"]
    (x, filters, guide, bias), _ = drawn(draw, case, dtype)
    guide[:] = 0.25
    filters[:, 5:] = torch.nan
    truth = dynamic_region_aware_conv2d(*(t.double() for t in (x, filters, guide, bias)), **case)
    session = onnxruntime.InferenceSession(model_of(case, dtype).SerializeToString())
    (y,) = session.run(None, feeds([x, filters, guide, bias]))
    assert relative_error(y, truth) < SPEC.tolerance[dtype]


def test_reference_evaluator(draw):
    case = CASES["anisotropic"]
    tensors, truth = drawn(draw, case, size=(4, 5))
    (y,) = ReferenceEvaluator(model_of(case)).run(None, feeds(tensors))
    assert relative_error(y, truth) < 1e-6


def test_one_body_serves_nodes_of_different_attributes(draw):
    """Two nodes in one model, one function: nothing of a node may be in it."""
    one, two = CASES["plain"], CASES["anisotropic"]
    first, second = model_of(one), model_of(two)
    assert first.functions[0] == second.functions[0]
    merged = onnx.compose.merge_graphs(
        onnx.compose.add_prefix_graph(first.graph, "first_"),
        onnx.compose.add_prefix_graph(second.graph, "second_"),
        io_map=[("first_Y", "second_X")],
    )
    model = onnx.helper.make_model(
        merged, opset_imports=first.opset_import, functions=first.functions, ir_version=first.ir_version
    )
    head, middle = drawn(draw, one)
    tail, _ = drawn(draw, two, c=5, o=2, size=middle.shape[2:], seed=1)
    truth = dynamic_region_aware_conv2d(middle, *(t.double() for t in tail[1:]), **two)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (y,) = session.run(
        None,
        {f"first_{k}": v for k, v in feeds(head).items()}
        | {f"second_{k}": v for k, v in feeds(tail).items() if k != "X"},
    )
    assert relative_error(y, truth) < SPEC.tolerance["float32"]


def test_bfloat16_is_valid():
    """ONNX Runtime has no bfloat16 kernels on the CPU; the checker knows the types of every node."""
    model = model_of(CASES["plain"], "bfloat16")
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    assert inferred.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16


def test_schema_infers_the_shape():
    case = {ONNX_NAMES[name]: value for name, value in CASES["anisotropic"].items()}
    model = single_op_model(SPEC, case, shapes=[(2, 3, 9, 9), (2, 25, 18), (2, 5, 5, 8), (5,)])
    del model.functions[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert [d.dim_value for d in inferred.graph.output[0].type.tensor_type.shape.dim] == [2, 5, 5, 8]


def test_no_bigger_than_needed():
    """No loop is unrolled: one MatMul for all taps and regions."""
    used = [node.op_type for node in model_of(CASES["plain"]).functions[0].node]
    assert used.count("MatMul") == used.count("ArgMax") == used.count("GatherElements") == 1
    assert {"Loop", "If", "Scan"}.isdisjoint(used)
