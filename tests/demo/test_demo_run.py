import json
import sys

import pytest
import torch
from pydantic_core import to_json

from dyndeploy import demo
from dyndeploy.bundle import Bundle
from dyndeploy.errors import DynError, MissingPackageError
from dyndeploy.pipeline.recipe import Recipe


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    lines = []
    torch.manual_seed(7)
    result = demo.run(tmp_path_factory.mktemp("demo"), max_steps=4, iterations=3, progress=lines.append)
    assert lines
    assert torch.initial_seed() == 7
    return result


def test_the_bundle_is_there(result):
    bundle = Bundle.open(result.bundle)
    assert bundle.name == "digits"
    assert {record.folder for record in bundle.manifest.ops} == {"dcnv2", "ddf", "drconv", "dgc"}
    assert len(result.layers) == 5


def test_every_runtime_agrees(result):
    assert result.check.ok
    assert {len(runtime.points) for runtime in result.check.runtimes if runtime.verdict} == {3}
    assert [row.runtime for row in result.accuracy] == ["torch", "onnxruntime", "onnxruntime-bodies"]
    for row in result.accuracy:
        assert row.images == 450
        assert all(row.images % batch for batch in row.batches), "no batch leaves a remainder"
        # four steps teach nothing: what counts is that the digits are the same ones
        assert row.differ <= 2
    assert result.accuracy[0].accuracy == pytest.approx(result.accuracy[1].accuracy, abs=0.01)


def test_latency_of_every_runtime_at_every_batch(result):
    assert [bench.sizes["batch"] for bench in result.latency] == [1, 8, 32]
    for bench in result.latency:
        assert [row.runtime for row in bench.rows] == ["torch", "onnxruntime", "onnxruntime-bodies"]
        assert all(row.median_ms > 0 for row in bench.rows)


def test_engines_of_every_way(result):
    if not result.engines:
        assert result.no_engines
        pytest.skip(result.no_engines)
    hows = {way: {op.how for op in built.record.ops} for way, built in result.engines.items()}
    expected = {"bodies": {"inlined"}, "plugins inside": {"plugin"}, "plugins": {"plugin"}}
    assert hows == (expected if not result.no_engines else {"bodies": {"inlined"}})
    assert all(len(built.record.ops) == 4 for built in result.engines.values())


def test_it_is_json(result):
    again = json.loads(to_json(result))
    assert again["training"]["steps"] == 4
    assert again["check"]["verdict"] == result.check.verdict.value


def test_the_recipe_says_what_the_demo_says():
    recipe = Recipe.load("export/digits")
    assert {i.name: list(i.shape) for i in recipe.inputs} == demo.INPUTS
    assert {i.name: i.range for i in recipe.inputs} == demo.RANGES
    assert {n: (d.min, d.opt, d.max) for n, d in recipe.file.dims.items()} == demo.DIMS
    assert recipe.file.outputs.names == demo.OUTPUTS


@pytest.mark.parametrize("package", ["onnxruntime", "torch"])
def test_a_missing_package_is_named_before_the_training(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"'{package}'.*\n.*dyndeploy\[demo\]"):
        demo.run(tmp_path, seconds=1e6)


def test_a_folder_that_is_not_a_bundle_is_refused(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "letter.txt").write_text("mine")
    with pytest.raises(DynError, match="not a bundle"):
        demo.run(tmp_path, max_steps=1)
    assert (tmp_path / "digits" / "letter.txt").read_text() == "mine"
