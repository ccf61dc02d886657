import json
import shutil
import sys
import types

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file
from torch import nn

import dyndeploy.runtimes
from dyndeploy.bundle import Bundle
from dyndeploy.demo import body_for
from dyndeploy.errors import DynError
from dyndeploy.nn import DDF, DDFUp, DGConv2d, DRConv2d, ModulatedDeformConv2d, SCConv2d
from dyndeploy.ops.drconv.op import dynamic_region_aware_conv2d
from dyndeploy.pipeline.check import check
from dyndeploy.pipeline.export import export
from dyndeploy.runtimes import BaseSession, UnavailableError, register_runtime
from dyndeploy.testing.numeric import Verdict, compare
from dyndeploy.verdict.result import CheckResult


class AllFive(nn.Module):
    """Every dynamic layer once, and plain ones around them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.deform = ModulatedDeformConv2d(4, 4, 3, padding=1)
        self.ddf = DDF(4)
        self.region = DRConv2d(4, 4, 3, padding=1, regions=3)
        self.gate = DGConv2d(4, 4, 3, padding=1, heads=2, squeeze=2, keep=0.5)
        self.calibrated = SCConv2d(4)
        self.up = DDFUp(4)
        self.tail = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = x + self.ddf(self.deform(x))
        return self.tail(self.up(self.calibrated(self.gate(self.region(x)))))


class NearTies(nn.Module):
    """Two of three logits are the same sum in two orders: in exact arithmetic they are equal everywhere."""

    def forward(self, x, filters):
        a, b, c, d = (x / 3).split(1, dim=1)
        guide = torch.cat([(a + b) + c, a + (b + c), d], dim=1)
        return dynamic_region_aware_conv2d(x, filters, guide, kernel_size=1, regions=3)


def randomised(model):
    """Weights that make every layer do something: offsets, gates, generators."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export(
        randomised(AllFive()),
        torch.randn(1, 2, 8, 8),
        tmp_path_factory.mktemp("check") / "all_five",
        inputs={"x": ["batch", 2, "height", "width"]},
        dims={"batch": (1, 2, 2), "height": (8, 8, 12, 4), "width": (8, 12, 16, 4)},
        body=body_for(onnxruntime.__version__),
    )


@pytest.fixture(scope="module")
def ties(tmp_path_factory):
    torch.manual_seed(0)
    return export(
        NearTies(),
        (torch.randn(1, 4, 16, 16), torch.randn(1, 3 * 2, 4)),
        tmp_path_factory.mktemp("check") / "ties",
    )


@pytest.fixture
def copy(tmp_path):
    """A bundle of the test's own, to break."""

    def make(bundle):
        return Bundle.open(shutil.copytree(bundle.path, tmp_path / bundle.name))

    return make


def change_weight(bundle, node, index, count=1):
    """Add a tenth of its spread to the first value (or `count` of them) of an initializer of a node of model.onnx."""
    model = onnx.load(bundle.onnx_path)
    name = next(n for n in model.graph.node if n.name == node).input[index]
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[:count] += 0.1 * (array.std() or 1)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, bundle.onnx_path)


def convolution_of(bundle, weight):
    """The name of the Conv node that uses an initializer."""
    return next(n.name for n in onnx.load(bundle.onnx_path).graph.node if weight in n.input)


def of(result, runtime):
    return next(r for r in result.runtimes if r.runtime == runtime)


def test_every_runtime_passes_at_every_point(exported, copy):
    bundle = copy(exported)
    lines = []
    result = check(bundle.path, progress=lines.append)
    assert result.ok
    assert result.exit_code == 0
    assert result.changed_files == ()
    for runtime in map(of, [result] * 3, ["torch", "onnxruntime", "onnxruntime-bodies"]):
        assert runtime.verdict.ok
        assert [p.point for p in runtime.points] == ["min", "opt", "max"]
        assert [c.node for c in runtime.points[0].choices] == ["region", "gate"]
        assert [c.decisions for c in runtime.points[2].choices] == [2 * 12 * 16, 2 * 2 * 4]
        assert runtime.guilty is None
        for point in runtime.points:
            (output,) = point.outputs
            assert 0 < output.error.relative_l2 < 1e-5
            assert output.error.shape == (point.sizes["batch"], 3, 2 * point.sizes["height"], 2 * point.sizes["width"])
    assert "onnxruntime float32 at max" in lines
    assert [o.node for o in result.operators] == ["deform", "ddf", "region", "gate", "up"]
    for operator in result.operators:
        assert operator.judgement.verdict.ok
        assert 0 < operator.kernel.relative_l2 < 1e-6
        assert 0 < operator.body.relative_l2 < 1e-6


def test_the_summary_is_kept_in_the_manifest(exported, copy):
    bundle = copy(exported)
    result = check(bundle, points=["opt"], runtimes=["onnxruntime"])
    kept = Bundle.open(bundle.path).manifest.check
    assert kept == bundle.manifest.check == result.summary()
    assert kept["ok"] is True
    assert kept["runtimes"] == [
        {
            "runtime": "onnxruntime",
            "dtype": "float32",
            "verdict": result.verdict.value,
            "unavailable": None,
            "points": {"opt": result.verdict.value},
            "guilty": None,
        }
    ]


@pytest.mark.parametrize(
    ("node", "index", "count"),
    # a head of "gate" reads half of its four channels: all 3x3 weights of one row, so that one of them is
    # read
    [("deform", 2, 1), ("ddf", 3, 1), ("region", 4, 1), ("gate", 2, 4 * 9), ("up", 3, 1)],
)
def test_one_changed_weight_of_a_dynamic_op_is_found(exported, copy, node, index, count):
    bundle = copy(exported)
    change_weight(bundle, node, index, count)
    result = check(bundle, points=["min"], runtimes=["onnxruntime"])
    assert (result.verdict, result.ok, result.exit_code) == (Verdict.BROKEN, False, 1)
    assert result.changed_files == ("model.onnx",)
    guilty = of(result, "onnxruntime").guilty
    assert guilty.node == node
    assert guilty.judgement.statistic != "digest", "the numbers alone find it"
    assert guilty.judgement.value > 10 * guilty.judgement.limit
    assert bundle.manifest.check["runtimes"][0]["guilty"] == node


@pytest.mark.parametrize(
    "weight", ["stem.weight", "deform.predictor.weight", "region.guide_conv.weight", "tail.weight"]
)
def test_one_changed_weight_of_a_plain_convolution_is_found(exported, copy, weight):
    bundle = copy(exported)
    node = convolution_of(bundle, weight)
    change_weight(bundle, node, 1)
    result = check(bundle, points=["min"], runtimes=["onnxruntime"])
    assert result.verdict is Verdict.BROKEN
    guilty = of(result, "onnxruntime").guilty
    assert (guilty.node, guilty.op_type, guilty.among) == (node, "Conv", (node,))


def test_choices_that_rounding_flips_are_counted_and_not_failed(ties):
    result = check(ties, points=["min"])
    assert result.ok
    inputs, golden = ties.goldens("min")
    for runtime in (of(result, "torch"), of(result, "onnxruntime")):
        (choice,) = runtime.points[0].choices
        assert 0 < choice.flips < choice.decisions == 256
        assert 0 < choice.gap < 1e-12  # far below what float32 can tell
        assert choice.gap < choice.margin < 1e-4
        assert runtime.points[0].outputs[0].error.relative_l2 < 1e-6
    with dyndeploy.runtimes.open_session(ties) as session:
        output = session.run(inputs)
    # compared with the reference as it stands, the flipped pixels are as wrong as can be
    assert compare(output["output"], golden["output"]).relative_l2 > 0.1


def test_choices_that_flip_beyond_the_margin_are_broken(ties, copy):
    bundle = copy(ties)
    model = onnx.load(bundle.onnx_path)
    region = next(n for n in model.graph.node if n.op_type == "DynamicRegionAwareConv2d")
    source = next(n for n in model.graph.node if region.input[2] in n.output)
    tilt = numpy_helper.from_array(np.array([0, 0, 0.1], np.float32).reshape(1, 3, 1, 1), "tilt")
    model.graph.initializer.append(tilt)
    at = list(model.graph.node).index(region)
    tilted = onnx.helper.make_node("Add", ["before", "tilt"], [region.input[2]], name="tilted")
    model.graph.node.insert(at, tilted)
    source.output[0] = "before"
    onnx.save(model, bundle.onnx_path)
    result = check(bundle, points=["min"], runtimes=["onnxruntime"])
    runtime = of(result, "onnxruntime")
    (choice,) = runtime.points[0].choices
    assert not choice.admissible
    assert choice.margin < 1e-4 < choice.gap
    assert runtime.verdict is Verdict.BROKEN
    assert runtime.guilty.node == "tilted"


def test_a_choice_beyond_the_margin_by_a_guide_within_noise_names_the_node_that_decides(ties, monkeypatch):
    """The margin is narrower than what a single value may err: then there is nobody else to blame."""
    monkeypatch.setattr("dyndeploy.verdict.choices.margin_of", lambda own, dtype: 0.0)
    runtime = of(check(ties, points=["min"], runtimes=["onnxruntime"]), "onnxruntime")
    assert runtime.verdict is Verdict.BROKEN
    assert (runtime.guilty.op_type, runtime.guilty.judgement.statistic) == ("DynamicRegionAwareConv2d", "gap")


class TiesInHalf(nn.Module):
    """The second region is ahead by less than half can tell, as 1 is followed by 1 + 2**-10: rounded, they are tied."""

    def __init__(self):
        super().__init__()
        self.tail = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        filters = torch.tensor([[1.0], [-3.0]]).expand(len(x), 2, 1)
        guide = x + torch.tensor([0, 2.0**-13]).view(2, 1, 1)
        return self.tail(dynamic_region_aware_conv2d(x, filters, guide, kernel_size=1, regions=2))


@pytest.fixture(scope="module")
def half_ties(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check") / "half_ties"
    example = 1 + torch.rand(1, 1, 4, 4)
    return export(randomised(TiesInHalf()), example, folder, ranges={"x": (1, 2)}, precision="fp16")


def test_a_runtime_is_asked_for_its_decisions(half_ties):
    """ONNX Runtime's CPU adds and decides in float32: what it rounds to give it out is not what it decides by."""
    result = check(half_ties)
    assert result.ok
    (own,) = next(r for r in result.runtimes if r.dtype == "float16").points[0].choices
    assert own.flips == own.decisions == 16


def test_behind_a_decision_of_the_runtime_the_changed_node_is_found(half_ties, copy):
    bundle = copy(half_ties)
    node = next(n.name for n in onnx.load(bundle.onnx_path).graph.node if n.op_type == "Conv")
    change_weight(bundle, node, 1)
    guilty = of(check(bundle, runtimes=["onnxruntime"]), "onnxruntime").guilty
    assert (guilty.node, guilty.judgement.statistic != "digest") == (node, True)


def test_half_precision_is_judged_by_pytorch_at_half_precision(tmp_path):
    bundle = export(
        randomised(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))),
        torch.randn(1, 2, 12, 12),
        tmp_path / "half",
        precision="fp16",
    )
    result = check(bundle)
    assert result.ok
    rows = {(r.runtime, r.dtype): r for r in result.runtimes if r.verdict}
    assert {("torch", "float32"), ("torch", "float16"), ("onnxruntime", "float16")} <= rows.keys()
    assert rows["torch", "float16"].verdict is Verdict.IDENTICAL
    assert rows["torch", "float32"].verdict is Verdict.WITHIN_NOISE
    errors = {key: row.points[0].outputs[0].error.relative_l2 for key, row in rows.items()}
    assert errors["torch", "float32"] < 1e-6 < 1e-5 < errors["torch", "float16"]
    assert errors["onnxruntime", "float16"] < 4e-3


class Outsider(BaseSession):
    """A runtime that misbehaves as the test asks."""

    runtime = "outsider"
    behaviour = "absent"

    @classmethod
    def open(cls, source):
        if cls.behaviour == "absent":
            raise UnavailableError("There is no such device.", fix="Plug it in.")
        if cls.behaviour == "unreadable":
            raise DynError("The file is cut off.")
        manifest = source.manifest
        session = cls(manifest.inputs, manifest.outputs, manifest.dims)
        session._bundle = source
        return session

    def _run(self, arrays):
        if self.behaviour == "fails":
            raise DynError("Out of memory.")
        reference = self._bundle.goldens("min")[1]["output"].astype(np.float32)
        if self.behaviour == "infinite":
            reference[0, 0, 0, 0] = np.inf
        return {"output": reference[..., :-1] if self.behaviour == "cropped" else reference}


@pytest.fixture
def outsider(monkeypatch):
    module = types.ModuleType("outside")
    module.Outsider = Outsider
    monkeypatch.setitem(sys.modules, "outside", module)
    monkeypatch.setattr(dyndeploy.runtimes, "_RUNTIMES", {})
    register_runtime("outsider", "outside:Outsider", package="outside", extra="outside")

    def behave(how):
        monkeypatch.setattr(Outsider, "behaviour", how)

    return behave


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check") / "plain"
    return export(randomised(nn.Conv2d(2, 3, 3)), torch.randn(1, 2, 6, 6), folder)


def test_a_runtime_that_is_not_available_fails_only_when_asked_for(plain, outsider):
    outsider("absent")
    result = check(plain)
    assert result.ok
    assert result.runtimes[0].verdict is None
    assert "There is no such device" in result.runtimes[0].unavailable
    asked = check(plain, runtimes=["outsider"])
    assert (asked.ok, asked.exit_code) == (False, 1)
    assert Bundle.open(plain.path).manifest.check["ok"] is False


@pytest.mark.parametrize(("behaviour", "message"), [("unreadable", "cut off"), ("fails", "Out of memory")])
def test_a_runtime_that_cannot_run_the_model_is_broken(plain, outsider, behaviour, message):
    outsider(behaviour)
    result = check(plain)
    (runtime,) = result.runtimes
    assert (runtime.verdict, result.exit_code) == (Verdict.BROKEN, 1)
    assert message in (runtime.failure or runtime.points[0].failure)


def test_outputs_that_cannot_be_compared_are_broken_and_still_are_json(plain, outsider, monkeypatch):
    monkeypatch.setattr("dyndeploy.pipeline.check.find_guilty", lambda *arguments: None)
    outsider("cropped")
    (output,) = check(plain).runtimes[0].points[0].outputs
    assert (output.error, output.judgement.statistic) == (None, "shape")
    outsider("infinite")
    result = check(plain)
    (output,) = result.runtimes[0].points[0].outputs
    assert (output.judgement.statistic, output.judgement.value) == ("mismatched", 1)
    content = json.loads(result.model_dump_json())
    assert content["runtimes"][0]["points"][0]["outputs"][0]["error"]["max"] == "Infinity"
    assert content["verdict"] == "broken"
    assert CheckResult.model_validate_json(result.model_dump_json()) == result


def test_a_program_that_is_not_the_reference_any_more_measures_nothing(plain, copy):
    bundle = copy(plain)
    file = bundle.path / "goldens.safetensors"
    tensors = load_file(file)
    save_file({k: v + 1e-6 if "/outputs/" in k else v for k, v in tensors.items()}, file)
    with pytest.raises(DynError, match="does not compute the stored reference of output at min") as caught:
        check(bundle)
    assert "goldens.safetensors" in caught.value.why


def test_a_file_that_is_not_onnx(plain, copy):
    bundle = copy(plain)
    bundle.onnx_path.write_bytes(b"not a model")
    with pytest.raises(DynError, match=r"model\.onnx is not an ONNX file"):
        check(bundle)


def test_one_name_may_stand_alone(plain):
    (runtime,) = check(plain, runtimes="onnxruntime", points="min").runtimes
    assert (runtime.runtime, [p.point for p in runtime.points]) == ("onnxruntime", ["min"])


def test_wrong_arguments(plain):
    with pytest.raises(DynError, match="no runtime tensorflow"):
        check(plain, runtimes=["tensorflow"])
    with pytest.raises(DynError, match="no runtime tensorflow"):
        check(plain, runtimes="tensorflow")
    with pytest.raises(DynError, match="no point foo"):
        check(plain, points=["foo"])
    with pytest.raises(DynError, match="no goldens at max"):
        check(plain, points=["max"])


def test_a_changed_weight_that_no_golden_reaches_is_named(exported, copy):
    bundle = copy(exported)
    model = onnx.load(bundle.onnx_path)
    node = next(n for n in model.graph.node if n.name == "gate")
    # the smallest change there is; that of a weight whose channel every golden drops is as invisible
    tensor = next(t for t in model.graph.initializer if t.name == node.input[2])
    array = numpy_helper.to_array(tensor).copy()
    array.flat[5] = np.nextafter(array.flat[5], np.float32(1))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, bundle.onnx_path)
    runtime = of(check(bundle, points=["min"], runtimes=["onnxruntime"]), "onnxruntime")
    assert runtime.points[0].verdict.ok, "the numbers do not show it"
    assert runtime.verdict is Verdict.BROKEN
    assert (runtime.guilty.node, runtime.guilty.judgement.statistic, runtime.guilty.among) == (
        "gate",
        "digest",
        ("gate",),
    )


def test_a_file_that_was_only_written_again_is_not_blamed(exported, copy):
    bundle = copy(exported)
    model = onnx.load(bundle.onnx_path)
    for tensor in model.graph.initializer:  # another storage of the same values
        array = numpy_helper.to_array(tensor)
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, tensor.data_type, array.shape, array.ravel().tolist()))
    onnx.save(model, bundle.onnx_path)
    result = check(bundle, points=["min"], runtimes=["onnxruntime"])
    assert result.changed_files == ("model.onnx",)
    assert result.ok


@pytest.mark.parametrize(
    "reduce", [lambda x: x.mean((1, 2, 3)), lambda x: (x - x.mean((2, 3), True)).square().mean((2, 3))]
)
def test_long_sums_in_another_order_are_noise(reduce, tmp_path):
    class Sums(torch.nn.Module):
        def forward(self, x):
            return reduce(x)

    bundle = export(Sums(), torch.rand(1, 8, 112, 112), tmp_path / "sums", dims={"batch": (1, 2, 4)})
    assert check(bundle, runtimes=["onnxruntime"]).ok
