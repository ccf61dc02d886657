"""Both function bodies where positions are special, against the float64 op."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from dyndeploy.ops.dcnv2.op import SPEC
from dyndeploy.testing.cases import Case
from dyndeploy.testing.numeric import compare
from dyndeploy.testing.single_op import single_op_model

PADDED = Case.of(SPEC, pads=(1, 1, 1, 1))


@pytest.fixture(params=[False, True], ids=["deformconv", "gridsample"])
def gridsample(request):
    return request.param


@pytest.mark.parametrize("offset", [np.nan, np.inf, -np.inf, 1e30, -1e30, 3e9])
@pytest.mark.parametrize("axis", [0, 1])
def test_offsets_that_reach_nothing_contribute_nothing(body_error, offset, axis, gridsample):
    feeds = PADDED.draw(dtype="float32")
    feeds["offset_mask"][0, 2 * 5 + axis] = offset
    assert body_error(PADDED, feeds, gridsample=gridsample) < SPEC.tolerance["float32"]


@pytest.mark.parametrize("at", [-1.0, 0.0, 2.0, 3.0, -0.5, 2.5])
def test_samples_on_the_border(at, gridsample):
    """One tap that samples a 3x4 map at row `at`, column 1; -1 and H = 3 are the first that give zero."""
    x = np.full((1, 1, 3, 4), 8, np.float32)
    offset_mask = np.array([at, 1, 1], np.float32).reshape(1, 3, 1, 1)
    arrays = [x, offset_mask, np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32)]
    model = single_op_model(SPEC, {"strides": [9, 9], "sigmoid": 0}, gridsample=gridsample)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (y,) = session.run(None, {t.name: a for t, a in zip(SPEC.inputs, arrays)})
    inside = {-1.0: 0, 0.0: 8, 2.0: 8, 3.0: 0, -0.5: 4, 2.5: 4}
    assert y.item() == pytest.approx(inside[at], abs=1e-5)


def test_half_positions_are_float32(body_error, gridsample):
    """Rows of 1003 pixels: half cannot tell positions closer than half a pixel apart."""
    case = Case.of(SPEC, N=1, H=3, W=1003)
    assert body_error(case, case.draw(dtype="float16"), gridsample=gridsample) < SPEC.tolerance["float16"]


def test_gridsample_body_needs_no_deformconv():
    (function,) = single_op_model(SPEC, {}, gridsample=True).functions
    used = {node.op_type for node in function.node}
    assert "DeformConv" not in used
    assert [node.op_type for node in function.node].count("GridSample") == 1  # whatever the kernel


def test_one_row_in_the_reference_evaluator():
    """Of the body with GridSample; ONNX's own DeformConv divides by size - 1."""
    feeds = PADDED.draw(dtype="float32", N=1, O=2, H=1, W=5)
    (y,) = ReferenceEvaluator(single_op_model(SPEC, PADDED.attributes, gridsample=True)).run(None, feeds)
    truth = PADDED.run(*(torch.from_numpy(a).double() for a in feeds.values()))
    assert compare(y, truth.numpy()).relative_l2 < 1e-5
