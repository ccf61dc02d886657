"""Every recipe exports, every runtime agrees with the float64 reference, and TensorRT for RTX builds its engine."""

from importlib.util import find_spec
from pathlib import Path

import pytest

import dyndeploy
from dyndeploy.pipeline.recipe import Recipe
from dyndeploy.testing.numeric import Verdict

# The recipes use the standard body of ModulatedDeformConv2d.
pytest.importorskip("onnxruntime", minversion="1.25")

EXPORT = Path(__file__).parents[1] / "export"
RECIPES = sorted(EXPORT.glob("*/recipe.toml"))
each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
#: Those of whole networks take a minute each, and are left to `make test-long`.
each_recipe_or_later = pytest.mark.parametrize(
    "path",
    [path if path.parent.name == "digits" else pytest.param(path, marks=pytest.mark.long) for path in RECIPES],
    ids=lambda path: path.parent.name,
)


def test_there_is_a_recipe():
    assert EXPORT / "digits" / "recipe.toml" in RECIPES


@each_recipe_or_later
def test_recipe_exports_checks_and_builds(path, tmp_path, request, monkeypatch):
    recipe = Recipe.load(path)
    # The smallest sizes are proof enough, and the quickest; what varies still varies.
    small = {name: (d.min, d.min + d.multiple, d.min + d.multiple, d.multiple) for name, d in recipe.file.dims.items()}
    bundle = dyndeploy.export_recipe(recipe, tmp_path / recipe.name, dims=small)
    assert [spec.name for spec in bundle.manifest.inputs] == [spec.name for spec in recipe.inputs]
    result = dyndeploy.check(bundle, runtimes=["torch", *recipe.file.export.targets])
    assert result.ok
    assert result.verdict <= Verdict.WITHIN_NOISE
    if find_spec("tensorrt_rtx"):
        library = request.getfixturevalue("plugins")
        monkeypatch.setattr("dyndeploy.pipeline.build.library_path", lambda _name: library)
        record = dyndeploy.build(bundle, "tensorrt-rtx").record
        assert [(op.name, op.how) for op in record.ops] == [(op.name, "plugin") for op in bundle.manifest.ops]
        assert record.dims == bundle.manifest.dims


@each_recipe
def test_recipe_explains_itself_and_stays_small(path):
    assert Recipe.load(path).file.description
    assert (path.parent / "README.md").is_file()
    assert sum(file.stat().st_size for file in path.parent.iterdir()) < 1_000_000


@pytest.mark.parametrize(
    ("precision", "tolerance", "runs"),
    [("fp16", 4e-3, {"torch", "onnxruntime-bodies"}), ("bf16", 3e-2, {"torch"})],
)
def test_digits_in_half_precision(precision, tolerance, runs, tmp_path):
    """As docs/support-matrix.md says, bfloat16 in ONNX Runtime included: it has no CPU kernels, and says so.

    Without the compiled kernels in float16: of a node that ONNX Runtime widens nobody can read the decisions.
    """
    bundle = dyndeploy.export_recipe(EXPORT / "digits", tmp_path / "digits", precision=precision)
    result = dyndeploy.check(bundle, bodies=True)
    assert result.ok
    assert {runtime.runtime for runtime in result.runtimes if runtime.verdict} == runs
    for runtime in result.runtimes:
        for point in runtime.points:
            assert [o.name for o in point.outputs if o.error.relative_l2 > tolerance] == []


def test_kernels_in_half_precision_agree_node_by_node(tmp_path):
    bundle = dyndeploy.export_recipe(EXPORT / "digits", tmp_path / "digits", precision="fp16")
    result = dyndeploy.check(bundle, runtimes=["onnxruntime", "onnxruntime-bodies"], points=["min"])
    assert result.ok
    assert len(result.operators) == 4
    assert max(operator.kernel.relative_l2 for operator in result.operators) < 5e-4
