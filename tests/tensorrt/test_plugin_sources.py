"""What plugins/<op>/tensorrt.cpp says of an operator is what its OpSpec says: attributes, ranges, inputs."""

import math
import re
from pathlib import Path

import pytest

from dyndeploy.ops._spec import custom_ops

PLUGINS = Path(__file__).parents[2] / "plugins"
each_op = pytest.mark.parametrize("spec", custom_ops(), ids=lambda s: s.key)


def source(spec):
    return (PLUGINS / spec.folder / "tensorrt.cpp").read_text(encoding="utf-8")


def plugin(spec):
    """What is written of this operator alone, of those in its file."""
    return re.search(rf'kName = "{spec.name}";.*?\n}};\n', source(spec), re.DOTALL)[0]


@each_op
def test_attributes_and_ranges(spec):
    rows = re.findall(r'node\("(\w+)", a\.(\w+)(?:, (-?\d+))?(?:, (-?\d+))?\);', source(spec))
    expected = []
    for a in spec.attributes:
        bounds = [str(int(b)) if math.isfinite(b) else "" for b in (a.low, a.high)]
        expected.append((a.name, a.name, *bounds))
    assert rows == expected


@each_op
def test_inputs(spec):
    text = plugin(spec)
    rows = re.findall(r'\{"(\w+)", (\d)(, Input::map)?\}', text)
    assert [(name, int(rank)) for name, rank, _ in rows] == [(t.name, len(t.shape)) for t in spec.inputs]
    maps = [t.name for t in spec.inputs if t.shape[-1] in ("W", "Wo")]
    assert [name for name, _, is_map in rows if is_map] == maps


@each_op
def test_is_offered(spec):
    assert f"{spec.key}_operator(), Version::exact" in (PLUGINS / "tensorrt.cpp").read_text(encoding="utf-8")
