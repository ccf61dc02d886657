"""The layer in ONNX Runtime at shapes other than the exported one, and the ops that it becomes."""

import functools
import io

import onnxruntime
import pytest
import torch
from torch.export import Dim

from dyndeploy.ops.scconv.onnx import INDEX_OPS, ONNX_OPS, SPEC

LAYERS = {
    "official": {},
    "nearest": {"split": True, "stride": 2, "dilation": 2, "groups": 2, "pooling": 3},
    "bilinear": {"split": True, "upsample": "bilinear"},
}
#: None of these is a multiple of 4 along both axes; the last is smaller than the smallest of the export.
SHAPES = [(1, 9, 14), (3, 8, 23), (2, 33, 10), (1, 4, 5)]


@pytest.fixture(scope="module")
def export(build):
    """A function that exports a layer, each once."""
    sizes = {0: Dim("batch", max=8), 2: Dim("height", min=8, max=64), 3: Dim("width", min=8, max=64)}

    @functools.cache
    def export_layer(name):
        example = (torch.randn(2, 8, 16, 20),)
        program = torch.export.export(build(**LAYERS[name]), example, dynamic_shapes={"x": sizes})
        return torch.onnx.export(program, dynamo=True, opset_version=22, verbose=False)

    return export_layer


@pytest.mark.parametrize("name", LAYERS)
def test_one_session_serves_every_shape(build, truth, export, name):
    buffer = io.BytesIO()
    export(name).save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue())
    layer = build(**LAYERS[name])
    for n, h, w in SHAPES:
        x = torch.randn(n, 8, h, w)
        (y,) = session.run(None, {"x": x.numpy()})
        expected = truth(layer, x)
        error = (torch.from_numpy(y).double() - expected).norm() / expected.norm()
        assert error < SPEC.tolerance["float32"]


@pytest.mark.parametrize(("name", "other"), [("nearest", "Resize"), ("bilinear", "Gather")])
def test_becomes_the_ops_that_are_documented(export, name, other):
    used = {node.op_type for node in export(name).model.graph}
    expected = set(ONNX_OPS) - {other}
    assert expected <= used
    assert used <= expected | set(INDEX_OPS)
