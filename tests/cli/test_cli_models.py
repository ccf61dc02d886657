"""`dyndeploy models`: the table of the networks, here and in docs/networks.md."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dyndeploy.cli import app
from dyndeploy.errors import DynError
from dyndeploy.models import list_models
from dyndeploy.models.published import PUBLISHED, value_of
from dyndeploy.pipeline.models import models

PAGE = Path(__file__).parents[2] / "docs/networks.md"


@pytest.fixture(autouse=True)
def _width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def call(*arguments, code=0):
    result = CliRunner().invoke(app, ["models", *arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def test_the_page_has_the_table_that_the_command_prints():
    """All networks, with all figures."""
    printed = call("--markdown").stdout
    assert printed in PAGE.read_text(encoding="utf-8"), "dyndeploy models --markdown"
    assert [line.split("`")[1] for line in printed.splitlines() if line.startswith("| `")] == list_models()


def test_every_network_is_described_and_has_a_source():
    text = PAGE.read_text(encoding="utf-8")
    assert set(PUBLISHED) == set(list_models())
    for name, published in PUBLISHED.items():
        assert published.source
        family, _, width = name.partition("v2_")
        assert f"`{name}`" in text.partition("## What they are")[2] or f"`_{width}`" in text, family


def test_what_disagrees_has_a_note():
    """Beyond the rounding of the published figures."""
    for row in models("s*"):
        assert abs(row.parameters_difference) < 0.5
        if row.macs_difference is not None and abs(row.macs_difference) > 0.2:
            assert row.published.note


def test_table_is_narrow_and_numbers_the_notes():
    result = call("drconv_shufflenetv2_x0_5")
    assert [line for line in result.stdout.splitlines() if len(line.rstrip()) > 80] == []
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("drconv")]
    assert row.split() == ["drconv_shufflenetv2_x0_5", "2.294M", "2.294M", "0.0", "50.10M", "46M", "+8.9", "[1]"]
    assert "\n[1] The paper's 46 M are not reproduced" in result.stdout
    assert result.stderr == "models: drconv_shufflenetv2_x0_5\n"


def test_json():
    (first,) = json.loads(call("dgc_*86", "--json").stdout)
    assert first["name"] == "dgc_densenet86"
    assert (first["parameters"], first["input_shapes"]) == (4_264_810, [[1, 3, 32, 32]])
    assert first["macs"] + sum(first["elementwise"].values()) == value_of(first["published"]["macs"])
    assert 0 < first["generator"] < first["macs"]
    assert first["macs_difference"] == 0, "the official counter has the elementwise operations in it"


def test_a_figure_that_nobody_published_is_left_out():
    (row,) = models("ddf_joint_upsampler")
    assert (row.parameters_difference, row.macs_difference) == (None, None)
    (line,) = [line for line in call("ddf_joint_upsampler").stdout.splitlines() if line.startswith("ddf")]
    assert line.split() == ["ddf_joint_upsampler", "155.6k", "4.268G"]


def test_unknown_names():
    with pytest.raises(DynError, match=r"There is no model 'scnet5'"):
        models("scnet5")
    assert "fix: scnet50? Allowed: " in call("scnet5", code=2).stderr


@pytest.mark.parametrize(
    ("figure", "value"), [("46 M", 46e6), ("2.298 G", 2.298e9), ("12,335,144", 12_335_144), ("3 k", 3000)]
)
def test_values(figure, value):
    assert value_of(figure) == value
