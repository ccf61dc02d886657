import subprocess
import sys
import types

import numpy as np
import pytest

import dyndeploy.runtimes
from dyndeploy.errors import DynError, MissingPackageError
from dyndeploy.runtimes import BaseSession, Session, open_session, register_runtime, runtime_names
from dyndeploy.tensors import Dim, TensorSpec


class Double(BaseSession):
    """y = 2 x, in NumPy."""

    runtime = "double"

    def __init__(self, source, scale):
        specs = [TensorSpec(name=name, shape=("batch", 3)) for name in ("x", "y")]
        super().__init__(specs[:1], specs[1:], {"batch": Dim(min=1, opt=2, max=4)})
        self.source, self.scale, self.released = source, scale, 0

    @classmethod
    def open(cls, source, *, scale=2.0):
        return cls(source, scale)

    def _run(self, arrays):
        return {"y": np.float32(self.scale) * arrays["x"]}

    def _release(self):
        self.released += 1


@pytest.fixture
def double(monkeypatch):
    """A runtime of an outsider, registered for the test alone."""
    module = types.ModuleType("outside")
    module.Double = Double
    monkeypatch.setitem(sys.modules, "outside", module)
    monkeypatch.setattr(dyndeploy.runtimes, "_RUNTIMES", dict(dyndeploy.runtimes._RUNTIMES))
    register_runtime("double", "outside:Double", package="outside", extra="outside")


def ones(batch, dtype="float32"):
    return {"x": np.ones((batch, 3), dtype)}


def test_a_registered_runtime_opens_and_runs(double):
    assert runtime_names()[-1] == "double"
    with open_session(b"model", "double", scale=3.0) as session:
        assert isinstance(session, Session)
        assert session.source == b"model"
        assert session.run(ones(2))["y"].tolist() == [[3.0] * 3] * 2
    assert session.released == 1


def test_a_request_that_does_not_fit_is_refused_and_the_session_goes_on(double):
    with open_session(b"", "double") as session:
        for wrong, message in (
            (ones(5), "batch=5 is outside 1..4"),
            (ones(2, "float64"), "Input x is float64, expected float32"),
            ({}, "Missing: x"),
            (None, "The inputs are a NoneType, expected a dict"),
            (ones(2)["x"], "The inputs are a ndarray, expected a dict"),
        ):
            with pytest.raises(DynError, match=message):
                session.run(wrong)
        assert session.run(ones(4))["y"].shape == (4, 3)


def test_a_closed_session_says_so(double):
    session = open_session(b"", "double")
    session.close()
    session.close()
    assert session.released == 1
    with pytest.raises(DynError, match="The double session is closed"):
        session.run(ones(1))


def test_unknown_options_are_named(double):
    with pytest.raises(DynError, match="has no option sclae") as caught:
        open_session(b"", "double", sclae=1)
    assert caught.value.fix == "one of scale"


def test_an_unknown_runtime_lists_the_known_ones():
    with pytest.raises(DynError, match="no runtime 'onnx'") as caught:
        open_session("nowhere", "onnx")
    assert caught.value.fix == "one of torch, onnxruntime, onnxruntime-bodies, onnxruntime-cuda, tensorrt, tensorrt-rtx"


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "dyndeploy.runtimes.onnxruntime", raising=False)
    message = "The runtime 'onnxruntime' needs the package 'onnxruntime'"
    with pytest.raises(MissingPackageError, match=message) as caught:
        open_session(b"")
    assert caught.value.fix == 'pip install "dyndeploy[onnxruntime]"'


def test_without_torch_nothing_is_measured():
    code = """if True:
        import sys
        sys.modules["torch"] = None
        from dyndeploy.errors import MissingPackageError
        try:
            from dyndeploy.pipeline.check import check
        except MissingPackageError as error:
            print(error.fix)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'pip install "dyndeploy[export]"'


def test_a_module_that_is_missing_for_another_reason_is_not_blamed_on_the_extra(monkeypatch):
    monkeypatch.setattr(dyndeploy.runtimes, "_RUNTIMES", {})
    register_runtime("typo", "no_such_module:Session", package="outside", extra="outside")
    with pytest.raises(ModuleNotFoundError, match="no_such_module") as caught:
        open_session(b"", "typo")
    assert not isinstance(caught.value, MissingPackageError)


def test_a_target_without_class_is_refused():
    with pytest.raises(DynError, match="'outside' is not module:Class"):
        register_runtime("x", "outside", package="outside", extra="outside")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DynError, match="There is no file"):
        open_session(tmp_path / "model.onnx")
    with pytest.raises(DynError, match="opened from a NoneType"):
        open_session(None)
    with pytest.raises(DynError, match="no runtime None"):
        open_session(b"", None)
    with pytest.raises(DynError, match="it is not a bundle"):
        open_session(tmp_path / "digits")
