"""The function body where FilterNorm and bfloat16 are special."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dyndeploy.ops.ddf.op import SPEC
from dyndeploy.testing.cases import Case, cases
from dyndeploy.testing.numeric import compare
from dyndeploy.testing.single_op import single_op_model


def test_half_filters_are_normalised_in_float32(body_error):
    """Their variance, 1e-8, is not a half any more: it would be 0, and the filters infinite."""
    case = Case.of(SPEC)
    feeds = case.draw()
    feeds["channel_filter"] *= 1e-4
    feeds["spatial_filter"] *= 1e-4
    assert body_error(case, {name: a.astype(np.float16) for name, a in feeds.items()}) < SPEC.tolerance["float16"]


def test_constant_filters_are_zero():
    case = Case.of(SPEC)
    feeds = case.draw(dtype="float32")
    feeds["spatial_filter"][:] = 0.1  # the mean of nine of them is another float32
    session = onnxruntime.InferenceSession(single_op_model(SPEC, case.attributes).SerializeToString())
    (y,) = session.run(None, feeds)
    assert not y.any()


def test_bfloat16_runs_on_the_cpu():
    """The body computes in float32, so that ONNX Runtime, which has next to no bfloat16 on the CPU, runs it there."""
    pytest.importorskip("onnxruntime", minversion="1.25")  # older ones take no bfloat16 arrays
    case = next(case for case in cases(SPEC) if case.name == "sum of filters")
    feeds = case.draw(dtype="bfloat16")
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(a.view(np.uint16), onnx.TensorProto.BFLOAT16)
        for name, a in feeds.items()
    }
    session = onnxruntime.InferenceSession(single_op_model(SPEC, case.attributes, "bfloat16").SerializeToString())
    (y,) = session.run_with_ort_values(None, values)
    truth = case.run(*(torch.from_numpy(a.astype(np.float64)) for a in feeds.values()))
    assert compare(torch.from_dlpack(y).float().numpy(), truth.numpy()).relative_l2 < SPEC.tolerance["bfloat16"]


def test_body_is_not_unrolled():
    """The number of nodes does not depend on the kernel, because one body serves them all."""
    small, large = (
        single_op_model(SPEC, {"kernel_shape": [k, k], "scale": s}).functions[0] for k, s in ((1, 1), (7, 4))
    )
    assert small == large
