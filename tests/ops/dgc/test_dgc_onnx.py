"""The function body in ONNX Runtime and in ONNX's own evaluator, against the float64 op."""

import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from dyndeploy.ops.dgc.op import SPEC, dynamic_group_conv2d
from dyndeploy.testing.single_op import single_op_model

SHAPES = [(1, (7, 6)), (3, (5, 9)), (2, (12, 5))]
CASES = {
    "nothing dropped": {},
    "three quarters dropped": {"inactive": 6, "padding": (1, 1, 1, 1)},
    "everything dropped": {"inactive": 8},
    "anisotropic": {
        "kernel": (3, 2),
        "stride": (2, 1),
        "padding": (1, 0, 2, 1),
        "dilation": (1, 2),
        "heads": 2,
        "inactive": 3,
        "relu": True,
    },
    "stride along the width": {
        "kernel": (2, 3),
        "stride": (1, 3),
        "padding": (0, 2, 1, 0),
        "dilation": (2, 1),
        "inactive": 5,
        "shuffle": False,
    },
    "threshold": {"inactive": -1, "threshold": 0.75, "heads": 2},
    "one tap, one head": {"kernel": (1, 1), "heads": 1, "inactive": 4},
}
ONNX_NAMES = {a.torch_name: a.name for a in SPEC.attributes}


def attributes_of(case):
    return {k: v for k, v in case.items() if k != "kernel"}


def model_of(case, dtype="float32"):
    return single_op_model(SPEC, {ONNX_NAMES[k]: v for k, v in attributes_of(case).items()}, dtype)


def drawn(draw, case, dtype="float32", **more):
    """Inputs in `dtype`, and the float64 output."""
    own = {k: v for k, v in case.items() if k in ("kernel", "heads")}
    tensors = [t.to(getattr(torch, dtype)) for t in draw(**own, **more)]
    return tensors, expected(tensors, case)


def expected(tensors, case):
    return dynamic_group_conv2d(*(t.double() for t in tensors), **attributes_of(case))


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
@pytest.mark.parametrize("inactive", range(9))
def test_drops_what_the_reference_drops(draw, inactive, dtype):
    """Every number of inactive channels, with many ties and zeros: a wrong choice is a large error."""
    case = {"inactive": inactive}
    session = onnxruntime.InferenceSession(model_of(case, dtype).SerializeToString())
    for seed in range(3):
        tensors, truth = drawn(draw, case, dtype, n=8, size=(3, 3), seed=seed)
        (y,) = session.run(None, feeds(tensors))
        assert relative_error(y, truth) < SPEC.tolerance[dtype]


def test_all_saliencies_zero(draw):
    """One dropped channel drops all: the bias is left. Without one, all are kept, at zero."""
    for inactive in (0, 1):
        (x, saliency, weight, bias), _ = drawn(draw, {}, n=1)
        tensors = [x, saliency * 0, weight, bias]
        session = onnxruntime.InferenceSession(model_of({"inactive": inactive}).SerializeToString())
        (y,) = session.run(None, feeds(tensors))
        assert relative_error(y, expected(tensors, {"inactive": inactive})) < 1e-7


def test_threshold_is_compared_in_float32(draw):
    """0.3 in half is 0.30005: a half saliency of just that is above the threshold, and kept."""
    case = {"inactive": -1, "threshold": 0.3}
    (x, saliency, weight, bias), _ = drawn(draw, case, "float16", n=1)
    saliency[:] = 0.3
    tensors = [x, saliency, weight, bias]
    truth = expected(tensors, case)
    assert not torch.equal(truth, expected([x, saliency * 0, weight, bias], case))
    session = onnxruntime.InferenceSession(model_of(case, "float16").SerializeToString())
    (y,) = session.run(None, feeds(tensors))
    assert relative_error(y, truth) < SPEC.tolerance["float16"]


@pytest.mark.parametrize("name", ["anisotropic", "threshold"])
def test_reference_evaluator(draw, name):
    case = CASES[name]
    tensors, truth = drawn(draw, case, size=(4, 5))
    (y,) = ReferenceEvaluator(model_of(case)).run(None, feeds(tensors))
    assert relative_error(y, truth) < 1e-6


def test_one_body_serves_nodes_of_different_attributes(draw):
    """Two nodes in one model, one function: nothing of a node may be in it."""
    one, two = CASES["three quarters dropped"], CASES["anisotropic"]
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
    tail, _ = drawn(draw, two, o=6, seed=1)
    truth = expected([middle, *tail[1:]], two)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (y,) = session.run(
        None,
        {f"first_{k}": v for k, v in feeds(head).items()}
        | {f"second_{k}": v for k, v in feeds(tail).items() if k != "X"},
    )
    assert relative_error(y, truth) < SPEC.tolerance["float32"]


def test_bfloat16_is_valid():
    """ONNX Runtime has no bfloat16 kernels on the CPU; the checker knows the types of every node."""
    model = model_of({}, "bfloat16")
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    assert inferred.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16


def test_schema_infers_the_shape():
    case = {ONNX_NAMES[k]: v for k, v in attributes_of(CASES["anisotropic"]).items()}
    model = single_op_model(SPEC, case, shapes=[(2, 8, 9, 9), (2, 16), (6, 8, 3, 2), (6,)])
    del model.functions[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert [d.dim_value for d in inferred.graph.output[0].type.tensor_type.shape.dim] == [2, 6, 5, 8]


def test_no_bigger_than_needed():
    """No loop over heads: one TopK, one grouped convolution, one pass for the shuffle."""
    used = [node.op_type for node in model_of({}).functions[0].node]
    assert used.count("TopK") == used.count("Conv") == used.count("Gather") == 1
    assert {"Loop", "If", "Scan"}.isdisjoint(used)
