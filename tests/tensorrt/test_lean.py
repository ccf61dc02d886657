"""The plugins in a genuine TensorRT, the lean runtime: found, made in both phases, cloned, kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dyndeploy.ops._spec import DOMAIN, custom_ops
from dyndeploy.testing.cases import cases

HERE = Path(__file__).parent
KINDS = ["PLUGIN", "PLUGIN_V3ONE_CORE", "PLUGIN_V3ONE_BUILD", "PLUGIN_V3ONE_RUNTIME"]
DEFORM_CONV = {
    "kernel_shape": [3, 2],
    "strides": [2, 1],
    "pads": [1, 0, 2, 1],
    "dilations": [1, 2],
    "group": 2,
    "offset_group": 4,
}


@pytest.fixture
def look(plugins):
    """Runs lean_worker.py."""
    pytest.importorskip("tensorrt_lean_libs")

    def look(*creators):
        done = subprocess.run(
            [sys.executable, HERE / "lean_worker.py", plugins],
            input=json.dumps({"creators": creators}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    return look


def written(case):
    """A case's attributes as a node writes them."""
    values = {a.name: case.attributes[a.name] for a in case.spec.attributes}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def check(found, asked):
    """All four plugins of a life are the same, and have what was asked for."""
    assert found["found"]
    assert len(found["life"]) == 4
    for seen in found["life"]:
        assert seen["kinds"] == KINDS
        assert (seen["name"], seen["version"], seen["namespace"]) == (
            asked["name"],
            asked["version"],
            asked["namespace"],
        )
        assert seen["outputs"] == 1
        assert seen["fields"] == {k: pytest.approx(v) for k, v in asked["fields"].items()}
        assert seen["timing_id"] == found["life"][0]["timing_id"]


@pytest.mark.parametrize("spec", custom_ops(), ids=lambda s: s.key)
@pytest.mark.parametrize("version", ["1", "1-tf32"])
def test_operators(spec, version, look):
    asked = [
        {"name": spec.name, "version": version, "namespace": DOMAIN, "fields": written(case)} for case in cases(spec)
    ]
    results, _ = look(*asked)
    assert len(results) == len(asked)
    if version != "1" and spec.folder == "ddf":  # it has no products
        assert not any(r["found"] for r in results)
        return
    for found, one in zip(results, asked):
        assert found["names"] == [a.name for a in spec.attributes]
        check(found, one)
    assert len({found["life"][0]["timing_id"] for found in results}) == len({json.dumps(a["fields"]) for a in asked})


def test_deform_conv(look):
    asked = {"name": "DeformConv", "version": "1", "namespace": "", "fields": DEFORM_CONV}
    (found,), _ = look(asked)
    assert found["names"] == list(DEFORM_CONV)
    check(found, asked)


@pytest.mark.parametrize("spec", custom_ops(), ids=lambda s: s.key)
def test_refusals_are_logged_with_the_node(spec, look):
    """An attribute that is left out, unknown or out of range."""
    good = written(cases(spec)[0])
    refused = {
        "is missing": {k: v for k, v in good.items() if k != "strides"},
        "unknown attribute deform_groups": {**good, "deform_groups": 2},
        "relu = 7 is outside": {**good, "relu": 7},
        "strides has 3 values": {**good, "strides": [1, 1, 1]},
        "pads = -1 is outside": {**good, "pads": [0, -1, 0, 0]},
    }
    results, log = look(
        *({"name": spec.name, "version": "1", "namespace": DOMAIN, "fields": f} for f in refused.values())
    )
    assert [r["life"] for r in results] == [None] * len(refused)
    lines = [line for line in log.splitlines() if line.startswith("dyndeploy: ")]
    assert len(lines) == len(refused)
    for line, reason in zip(lines, refused):
        assert f"{spec.name} node 'node'" in line
        assert reason in line
