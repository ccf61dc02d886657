"""Every recipe exports, and every runtime agrees with the float64 reference."""

from pathlib import Path

import pytest

import dyndeploy
from dyndeploy.pipeline.recipe import Recipe
from dyndeploy.testing.numeric import Verdict

RECIPES = sorted((Path(__file__).parents[1] / "export").glob("*/recipe.toml"))


def test_there_is_a_recipe():
    assert "digits" in [path.parent.name for path in RECIPES]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_recipe_exports_and_checks(path, tmp_path):
    recipe = Recipe.load(path)
    bundle = dyndeploy.export_recipe(recipe, tmp_path / recipe.name)
    assert bundle.manifest.targets == recipe.file.export.targets
    assert [spec.name for spec in bundle.manifest.inputs] == [spec.name for spec in recipe.inputs]
    result = dyndeploy.check(bundle.path)
    assert result.verdict <= Verdict.WITHIN_NOISE


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_recipe_explains_itself_and_stays_small(path):
    assert Recipe.load(path).file.description
    assert (path.parent / "README.md").is_file()
    assert sum(file.stat().st_size for file in path.parent.iterdir()) < 1_000_000
