"""The nearest upsampling in whole numbers, where F.interpolate and ONNX Runtime's Resize are not, and the gate."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.ops.scconv.op import self_calibrate, upsample_nearest


def index_map(upsample, low, size):
    """The index that an upsampling of one axis picks at every position."""
    return upsample(torch.arange(low, dtype=torch.float32)[None, None, :, None], (size, 1)).flatten().long()


def exact(low, size):
    return torch.arange(size) * low // size


@pytest.fixture(scope="module")
def resize():
    """ONNX Runtime's Resize as the torch exporter writes F.interpolate."""
    node = helper.make_node(
        "Resize",
        ["X", "", "", "sizes"],
        ["Y"],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "resize",
        [value("X", TensorProto.FLOAT, [1, 1, "h", "w"]), value("sizes", TensorProto.INT64, [4])],
        [value("Y", TensorProto.FLOAT, [1, 1, "H", "W"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())

    def run(x, size):
        (y,) = session.run(None, {"X": x.numpy(), "sizes": np.array([1, 1, *size])})
        return torch.from_numpy(y)

    return run


@pytest.mark.parametrize("pooling", [2, 4, 8])
def test_agrees_with_interpolate_where_that_is_exact(pooling):
    """These factors are exact up to 2048: checkpoints of the official code keep their outputs."""
    for size in range(pooling, 2049, 5):
        low = size // pooling
        expected = exact(low, size)
        assert torch.equal(index_map(F.interpolate, low, size), expected)
        assert torch.equal(index_map(upsample_nearest, low, size), expected)


@pytest.mark.parametrize(("pooling", "size"), [(3, 74), (3, 698), (5, 82), (5, 562)])
def test_is_exact_where_interpolate_is_not(pooling, size):
    low = size // pooling
    assert not torch.equal(index_map(F.interpolate, low, size), exact(low, size))
    assert torch.equal(index_map(upsample_nearest, low, size), exact(low, size))


@pytest.mark.parametrize(("pooling", "size"), [(4, 114), (4, 171), (4, 234), (5, 142), (8, 285)])
def test_is_exact_where_resize_is_not(resize, pooling, size):
    """Why the layer exports a gather: Resize picks other pixels than torch does."""
    low = size // pooling
    assert torch.equal(index_map(F.interpolate, low, size), exact(low, size))
    assert not torch.equal(index_map(resize, low, size), exact(low, size))


@pytest.mark.parametrize(("low", "size"), [((3, 2), (14, 9)), ((1, 1), (7, 5)), ((4, 5), (4, 5)), ((5, 4), (3, 1))])
def test_both_axes(low, size):
    x = torch.randn(2, 3, *low, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(upsample_nearest(x, size), F.interpolate(x, size), rtol=0, atol=0)


def test_gate():
    torch.manual_seed(0)
    x, response, calibration = torch.randn(1, 2, 6, 7), torch.randn(1, 2, 6, 7), torch.randn(1, 2, 3, 2)
    for upsample in ("nearest", "bilinear"):
        y = self_calibrate(x, response, calibration, upsample)
        torch.testing.assert_close(y, response * (x + F.interpolate(calibration, (6, 7), mode=upsample)).sigmoid())


def test_gradient():
    torch.manual_seed(0)
    shapes = ((1, 2, 5, 4), (1, 2, 5, 4), (1, 2, 2, 1))
    inputs = tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    assert torch.autograd.gradcheck(self_calibrate, inputs)


def test_unknown_upsampling():
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(DynError, match="upsample='bicubic'"):
        self_calibrate(x, x, x, "bicubic")
