"""Every network exports with dynamic batch and space, and agrees with float64 in ONNX Runtime."""

import pytest

from dyndeploy.models import list_models
from dyndeploy.pipeline.deploy import deploy
from dyndeploy.testing.numeric import Verdict

# The networks use the standard body of ModulatedDeformConv2d.
pytest.importorskip("onnxruntime", minversion="1.25")

RESNET = {"width": 16, "layers": (1, 1, 1, 1), "num_classes": 7}
REDUCED = {
    "resnet50_dcnv2": RESNET | {"offset_groups": 2, "in_channels": 4},
    "resnet101_dcnv2": RESNET | {"modulated": False, "stages": (5,), "style": "caffe", "output_stride": 16},
    "ddf_resnet50": RESNET,
    "ddf_resnet101": RESNET | {"combine": "add", "features_only": True},
    "drconv_shufflenetv2_x0_5": {"layers": (1, 2, 1), "channels": (8, 16, 32, 64, 128)},
    "drconv_shufflenetv2_x1_0": {"layers": (1, 1, 1), "channels": (8, 16, 32, 64, 128), "generator": "paper"},
    "drconv_mobilenetv1": {"width": 0.25},
    "dgc_resnet18": RESNET,
    "dgc_densenet86": {"stages": (2, 2, 2)},
    "dgc_condensenet": {"stages": (1, 1, 2, 1, 1), "features_only": True},
    "scnet50": RESNET | {"dilated": True, "features_only": True},
    "scnet50_v1d": RESNET,
}


def check(name, folder, **options):
    bundle, result = deploy(name, folder / "bundle", **options)
    assert {spec.shape[0] for spec in bundle.manifest.inputs} == {"batch"}
    assert {runtime.runtime for runtime in result.runtimes if runtime.verdict} == {"torch", "onnxruntime"}
    assert result.ok
    assert result.verdict <= Verdict.WITHIN_NOISE
    for runtime in result.runtimes:
        assert {point.point for point in runtime.points} == {"min", "opt", "max"}


#: One of every family; the others are left to `make test-long`.
FIRST = ("resnet50_dcnv2", "ddf_resnet50", "drconv_shufflenetv2_x0_5", "dgc_resnet18", "scnet50")


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.long) for name in REDUCED]
)
def test_a_reduced_network(name, tmp_path):
    check(name, tmp_path, **REDUCED[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_the_full_network(name, tmp_path):
    check(name, tmp_path)
