"""export(): what a bundle holds, at which precision, and that nothing is lost when it fails."""

import json
import warnings

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from dyndeploy.bundle import Bundle
from dyndeploy.errors import DynError
from dyndeploy.nn import DDFUp, DGConv2d, DRConv2d, ModulatedDeformConv2d
from dyndeploy.pipeline.export import export
from dyndeploy.runtimes import open_session
from dyndeploy.runtimes.program import Program
from dyndeploy.tensors import seeded_arrays
from dyndeploy.testing.numeric import compare


class Net(nn.Module):
    """One deformable, one region-aware and one group layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ModulatedDeformConv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(DRConv2d(8, 8, 1, regions=4), nn.ReLU(), DGConv2d(8, 8, 3, 1, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, image):
        features = self.body(self.stem(image))
        return {"logits": self.head(features.mean((2, 3))), "features": features}


SETTINGS = {
    "inputs": {"image": ["batch", 3, "height", "width"]},
    "dims": {"batch": (1, 2, 3), "height": (12, 16, 24), "width": (12, 16, 20)},
    "ranges": {"image": (0.0, 1.0)},
}
X = torch.rand(1, 3, 16, 16)


def _export(folder, **settings) -> Bundle:
    torch.manual_seed(0)
    return export(Net().eval(), X, folder, **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return _export(tmp_path_factory.mktemp("export") / "net")


def test_a_bundle_is_complete_and_says_what_it_is(bundle):
    assert sorted(p.name for p in bundle.path.iterdir()) == [
        "goldens.safetensors",
        "manifest.json",
        "model.onnx",
        "model.pt2",
    ]
    manifest = bundle.manifest
    assert bundle.name == "net"
    assert [str(s) for s in manifest.inputs] == ["image: float32 [batch, 3, height, width]"]
    assert str(manifest.outputs[0]) == "logits: float32 [batch, 5]"
    assert [(op.name, op.folder) for op in manifest.ops] == [
        ("stem.0", "dcnv2"),
        ("body.0", "drconv"),
        ("body.2", "dgc"),
    ]
    assert manifest.ops[0].source == "modulated_deform_conv2d"
    assert manifest.ops[0].reference == "relu"
    assert bundle.changed_files() == []
    assert {"torch", "onnx", "dyndeploy"} <= manifest.versions.keys()
    assert "/" not in json.dumps(manifest.versions)


def test_the_onnx_file_is_clean_and_whole(bundle):
    model = onnx.load(bundle.onnx_path)
    onnx.checker.check_model(model, full_check=True)
    custom = [n for n in model.graph.node if n.domain == "dyndeploy"]
    assert len(custom) == 3
    for node in custom:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes["plugin_namespace"] == b"dyndeploy"
        assert attributes["plugin_version"] == b"1"
    assert {f.name for f in model.functions} == {n.op_type for n in custom}
    shape = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 3, "height", "width"]


def test_goldens_are_the_float64_program_at_min_opt_max(bundle):
    assert bundle.manifest.goldens == ["min", "opt", "max"]
    program = Program.load(bundle.program_path, "float64")
    session = onnxruntime.InferenceSession(str(bundle.onnx_path))
    for point, height in (("min", 12), ("opt", 16), ("max", 24)):
        inputs, outputs = bundle.goldens(point)
        assert inputs["image"].shape[2] == height
        assert inputs["image"].min() >= 0
        assert inputs["image"].max() <= 1
        assert outputs["logits"].dtype == np.float64
        for actual, name in zip(program.run([inputs["image"]])[0], ("logits", "features")):
            np.testing.assert_array_equal(actual, outputs[name])
        for actual, name in zip(session.run(None, inputs), ("logits", "features")):
            assert compare(actual, outputs[name]).relative_l2 < 1e-5


def test_the_program_is_the_model(bundle):
    torch.manual_seed(0)
    model = Net().eval().double()
    inputs, outputs = bundle.goldens("max")
    expected = model(torch.from_numpy(inputs["image"]).double())
    for name in ("logits", "features"):
        np.testing.assert_allclose(outputs[name], expected[name].detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
@pytest.mark.parametrize("low_io", [False, True])
def test_precision(precision, dtype, low_io, tmp_path):
    bundle = _export(tmp_path / "net", precision=precision, io_precision=precision if low_io else "fp32")
    manifest = bundle.manifest
    assert manifest.inputs[0].numpy_dtype == (dtype if low_io else np.float32)
    assert manifest.outputs[0].numpy_dtype == (dtype if low_io else np.float32)
    model = onnx.load(bundle.onnx_path)
    onnx.checker.check_model(model, full_check=True)
    weights = {t.data_type for t in model.graph.initializer if t.data_type != onnx.TensorProto.INT64}
    assert weights == {onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16}
    inputs, _ = bundle.goldens("opt")
    assert inputs["image"].dtype == manifest.inputs[0].numpy_dtype
    if precision == "fp16":  # ONNX Runtime has no CPU kernels for bfloat16
        results = onnxruntime.InferenceSession(str(bundle.onnx_path)).run(None, inputs)
        assert results[0].dtype == manifest.outputs[0].numpy_dtype


def test_keep_fp32_is_noted(tmp_path):
    bundle = _export(tmp_path / "net", precision="fp16", keep_fp32=["Gemm"])
    assert bundle.manifest.kept_fp32 == ["node_linear_2 (Gemm): asked for"] or "(Gemm): asked for" in str(
        bundle.manifest.kept_fp32
    )


def test_the_gridsample_body_runs_without_deform_conv(tmp_path):
    bundle = _export(tmp_path / "net", body="gridsample")
    model = onnx.load(bundle.onnx_path)
    assert "DeformConv" not in {n.op_type for f in model.functions for n in f.node}
    inputs, outputs = bundle.goldens("opt")
    (logits, _) = onnxruntime.InferenceSession(str(bundle.onnx_path)).run(None, inputs)
    assert compare(logits, outputs["logits"]).relative_l2 < 1e-5


def test_a_model_with_torchs_own_ops_only(tmp_path):
    bundle = export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), X, tmp_path / "plain")
    assert bundle.manifest.ops == []
    assert bundle.manifest.dims == {}
    assert bundle.manifest.goldens == ["min"], "points of equal sizes are stored once"
    model = onnx.load(bundle.onnx_path)
    assert not model.functions
    assert "dyndeploy" not in {o.domain for o in model.opset_import}


def test_a_model_that_calls_torchvision_is_exported_unchanged(torchvision_op, tmp_path):
    class Vision(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predictor, self.weight = nn.Conv2d(3, 27, 3, 1, 1), nn.Parameter(torch.randn(4, 3, 3, 3))

        def forward(self, image):
            first, second, mask = self.predictor(image).chunk(3, dim=1)
            return torch.ops.torchvision.deform_conv2d(
                image, self.weight, torch.cat([first, second], 1), mask.sigmoid(), image.new_zeros(4),
                1, 1, 1, 1, 1, 1, 1, 1, True,
            )  # fmt: skip

    bundle = export(Vision(), X, tmp_path / "vision", **SETTINGS)
    assert [n.op_type for n in onnx.load(bundle.onnx_path).graph.node] == ["Conv", "ModulatedDeformConv2d"]
    inputs, outputs = bundle.goldens("max")
    (result,) = onnxruntime.InferenceSession(str(bundle.onnx_path)).run(None, inputs)
    assert compare(result, outputs["output"]).relative_l2 < 1e-5
    assert not any("torchvision" in str(n.target) for n in torch.export.load(bundle.program_path).graph.nodes)


def test_export_prints_nothing_and_warns_of_nothing(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _export(tmp_path / "net")
    assert capfd.readouterr() == ("", "")


class Constant(nn.Module):
    """Returns a parameter beside its output."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * 2, self.c


def test_a_parameter_may_be_an_output(tmp_path, capfd):
    bundle = export(Constant(), X, tmp_path / "constant")
    assert capfd.readouterr() == ("", "")
    with open_session(bundle) as session:
        np.testing.assert_array_equal(session.run(bundle.goldens("min")[0])["output_1"], np.ones(3))


@pytest.mark.parametrize("height", [(4, 8, 12), (4, 8, 12, 4)])
def test_one_dim_may_be_twice_another(tmp_path, height):
    torch.manual_seed(0)
    bundle = export(
        DDFUp(8, guide_channels=3),
        (torch.rand(1, 8, 8, 8), torch.rand(1, 3, 16, 16)),
        tmp_path / "up",
        inputs={"x": ["batch", 8, "h", "w"], "guide": ["batch", 3, "2*h", "2*w"]},
        dims={"batch": (1, 1, 2), "h": height, "w": (5, 6, 7)},
    )
    assert [str(s) for s in bundle.manifest.inputs] == [
        "x: float32 [batch, 8, h, w]",
        "guide: float32 [batch, 3, 2*h, 2*w]",
    ]
    assert str(bundle.manifest.outputs[0]) == "output: float32 [batch, 8, 2*h, 2*w]"
    guide = onnx.load(bundle.onnx_path).graph.input[1].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in guide] == ["batch", 3, "2*h", "2*w"]
    with open_session(bundle) as session:
        for point in bundle.manifest.goldens:
            inputs, outputs = bundle.goldens(point)
            assert inputs["guide"].shape[2:] == tuple(2 * size for size in inputs["x"].shape[2:])
            assert compare(session.run(inputs)["output"], outputs["output"]).relative_l2 < 1e-5
        with pytest.raises(DynError, match=r"2\*w is 14 by x and 10 in guide"):
            session.run({**inputs, "guide": inputs["guide"][..., :10]})


def test_steps_are_told(tmp_path):
    steps: list[str] = []
    _export(tmp_path / "net", progress=steps.append)
    assert steps[0] == "tracing the model"
    assert steps[-1] == "computing the float64 reference"


def test_a_failed_export_leaves_the_old_bundle(bundle):
    before = (bundle.path / "manifest.json").read_text()
    with pytest.raises(DynError, match="dims defines nowhere"):
        _export(bundle.path, dims={**SETTINGS["dims"], "nowhere": (1, 2, 3)})
    assert (bundle.path / "manifest.json").read_text() == before
    assert [p.name for p in bundle.path.parent.iterdir()] == ["net"]


class Explosive(nn.Module):
    """Fine for small values only."""

    def forward(self, image):
        return torch.exp(image * 1000)


BAD = {
    "precision": ({"precision": "int8"}, "precision='int8' is not known"),
    "io_precision": ({"precision": "fp16", "io_precision": "bf16"}, "io_precision='bf16' is not known"),
    "body": ({"body": "fast"}, "body='fast' is not known"),
    "keep without cast": ({"keep_fp32": ["Conv"]}, "precision is fp32"),
    "keep unknown": ({"precision": "fp16", "keep_fp32": ["Softmax"]}, "keep_fp32 names Softmax"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings(case, tmp_path):
    settings, text = BAD[case]
    with pytest.raises(DynError, match=text):
        _export(tmp_path / "net", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_reference_that_is_not_finite_is_refused(tmp_path):
    with pytest.raises(DynError, match="not finite"):
        export(Explosive(), torch.rand(2, 3) * 0.01, tmp_path / "net", ranges={"image": (0.0, 10.0)})


def test_a_folder_that_is_not_a_bundle_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DynError, match="is not a bundle"):
        _export(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_seeds_give_the_same_goldens(tmp_path, bundle):
    again = _export(tmp_path / "net")
    other = _export(tmp_path / "other", seed=5)
    inputs = [b.goldens("opt")[0]["image"] for b in (bundle, again, other)]
    np.testing.assert_array_equal(inputs[0], inputs[1])
    assert not np.array_equal(inputs[0], inputs[2])
    expected = seeded_arrays(bundle.manifest.inputs, {"batch": 2, "height": 16, "width": 16}, 1)
    np.testing.assert_array_equal(inputs[0], expected["image"])


def test_integer_inputs(tmp_path):
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 4)

        def forward(self, ids):
            return self.table(ids)

    settings = {"ranges": {"ids": (0, 6)}, "dims": {"batch": (1, 2, 4)}}
    bundle = export(Lookup(), torch.randint(0, 7, (2, 5)), tmp_path / "lookup", **settings)
    assert str(bundle.manifest.inputs[0]) == "ids: int64 [batch, 5]"
    inputs, outputs = bundle.goldens("max")
    (result,) = onnxruntime.InferenceSession(str(bundle.onnx_path)).run(None, inputs)
    assert compare(result, outputs["output"]).relative_l2 < 1e-6


class Parameters(nn.Module):
    """With parameters called like the inputs and outputs that users like."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(3, 3, 1, 1)), nn.Parameter(torch.rand(1, 3, 8, 8))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight) + self.bias * x


@pytest.mark.parametrize(
    ("inputs", "outputs"), [("bias", "weight"), ("weight", "conv2d"), ("output", "mul"), ("x", "y")]
)
def test_names_of_inputs_and_outputs_are_free(inputs, outputs, tmp_path):
    bundle = export(
        Parameters(),
        torch.rand(1, 3, 8, 8),
        tmp_path / "net",
        inputs={inputs: ["batch", 3, 8, 8]},
        dims={"batch": (1, 2, 4)},
        outputs=[outputs],
    )
    session = onnxruntime.InferenceSession(str(bundle.onnx_path))
    assert [v.name for v in session.get_inputs()] == [inputs]
    feeds, expected = bundle.goldens("max")
    assert compare(session.run([outputs], feeds)[0], expected[outputs]).relative_l2 < 1e-6


def test_a_name_for_two_tensors_is_refused(tmp_path):
    with pytest.raises(DynError, match="'x' is the name of an input and of an output"):
        export(nn.ReLU(), torch.rand(1, 3), tmp_path / "net", inputs={"x": [1, 3]}, outputs=["x"])
    with pytest.raises(DynError, match="has no name"):
        export(nn.ReLU(), torch.rand(1, 3), tmp_path / "net", outputs=[""])
    assert list(tmp_path.iterdir()) == []
