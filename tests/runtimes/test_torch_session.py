import numpy as np
import pytest
import torch
from torch import nn

from dyndeploy.errors import DynError
from dyndeploy.pipeline.export import export
from dyndeploy.runtimes import Session, open_session


class Head(nn.Module):
    """A float and an integer output."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        scores = self.linear(x)
        return {"scores": scores, "label": scores.argmax(1)}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    torch.manual_seed(0)
    folder, head = tmp_path_factory.mktemp("torch"), Head()
    return {
        precision: export(head, torch.randn(2, 4), folder / precision, dims={"batch": (1, 2, 3)}, precision=precision)
        for precision in ("fp32", "fp16")
    }


@pytest.mark.parametrize(("precision", "distance"), [("fp32", 1e-6), ("fp16", 1e-2)])
def test_runs_in_the_precision_of_the_bundle(bundles, precision, distance):
    bundle = bundles[precision]
    inputs, expected = bundle.goldens("max")
    with open_session(bundle.path, "torch") as session:
        assert isinstance(session, Session)
        assert session.runtime == "torch"
        outputs = session.run(inputs)
    for spec in bundle.manifest.outputs:
        assert outputs[spec.name].dtype == spec.numpy_dtype
    error = np.abs(outputs["scores"] - expected["scores"]).max()
    assert distance * 1e-3 < error < distance
    np.testing.assert_array_equal(outputs["label"], expected["label"])


def test_another_dtype_can_be_asked_for(bundles):
    inputs, expected = bundles["fp16"].goldens("opt")
    with open_session(bundles["fp16"], "torch", dtype="float64") as session:
        scores = session.run(inputs)["scores"]
    np.testing.assert_array_equal(scores, expected["scores"].astype(np.float32))


def test_a_dtype_that_is_none(bundles):
    with pytest.raises(DynError, match="does not compute in 'int8'") as caught:
        open_session(bundles["fp16"], "torch", dtype="int8")
    assert caught.value.fix == "one of float64, float32, float16, bfloat16"


def test_dims_are_those_of_the_manifest(bundles):
    session = open_session(bundles["fp32"], "torch")
    with pytest.raises(DynError, match=r"batch=4 is outside 1\.\.3"):
        session.run({"x": np.zeros((4, 4), np.float32)})


def test_an_onnx_file_is_not_for_torch(bundles):
    with pytest.raises(DynError, match="cannot open an ONNX file") as caught:
        open_session(bundles["fp32"].onnx_path, "torch")
    assert "model.pt2" in caught.value.why
