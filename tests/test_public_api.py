"""The names of the package: all there, imported when they are asked for."""

import importlib
import subprocess
import sys

import pytest

import dyndeploy
from dyndeploy.errors import DynError


@pytest.mark.parametrize("name", dyndeploy.__all__)
def test_every_name_is_there(name):
    assert getattr(dyndeploy, name) is not None
    assert name in dir(dyndeploy)


def test_names_are_what_they_say():
    assert dyndeploy.DynError is DynError
    assert callable(dyndeploy.export)
    assert dyndeploy.nn is importlib.import_module("dyndeploy.nn")
    assert dyndeploy.__version__[0].isdigit()


def test_layers():
    layers = {"ModulatedDeformConv2d", "ModulatedDeformRoIPool", "DDF", "DDFUp", "DRConv2d", "SCConv2d", "DGConv2d"}
    assert set(dyndeploy.nn.__all__) == layers
    for name in dyndeploy.nn.__all__:
        assert getattr(dyndeploy.nn, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'deploy'"):
        _ = dyndeploy.deploy


def test_from_import_works_in_a_fresh_interpreter():
    program = "from dyndeploy import Bundle, doctor, __version__\nprint(Bundle.__module__, doctor.__module__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "dyndeploy.bundle dyndeploy.pipeline.doctor\n"
