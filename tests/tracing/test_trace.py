"""trace(): names, dims, and an error for each kind of bad input."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.tracing.trace import trace


class Two(nn.Module):
    """Two inputs that share the batch, and a dict of outputs."""

    def forward(self, image, scale):
        return {"scaled": image * scale[:, None, None, None], "pair": (scale, image.sum((2, 3)))}


def test_names_come_from_the_signature_and_the_returned_dict():
    traced = trace(Two(), (torch.rand(1, 3, 4, 4), torch.rand(1)), dims={"batch": (1, 2, 4)})
    assert [s.name for s in traced.inputs] == ["image", "scale"]
    assert [s.shape for s in traced.inputs] == [("batch", 3, 4, 4), ("batch",)]
    assert traced.output_names == ["scaled", "pair_0", "pair_1"]


def test_keywords_and_own_names():
    traced = trace(
        Two(),
        {"scale": torch.rand(2), "image": torch.rand(2, 3, 4, 4)},
        inputs={"image": ["n", 3, "h", 4], "scale": ["n"]},
        dims={"n": (1, 2, 4), "h": 4},
        outputs=["a", "b", "c"],
    )
    assert [s.name for s in traced.inputs] == ["scale", "image"]
    assert traced.inputs[1].shape == ("n", 3, 4, 4), "a dim of one size is a number"
    assert set(traced.dims) == {"n"}
    assert traced.output_names == ["a", "b", "c"]


def test_ranges_come_from_the_examples_unless_given():
    x = torch.linspace(-1, 3, 8).reshape(2, 4)
    assert trace(nn.ReLU(), x).inputs[0].range == (-1.0, 3.0)
    assert trace(nn.ReLU(), x, ranges={"input": (0.0, 1.0)}).inputs[0].range == (0.0, 1.0)
    assert trace(nn.ReLU(), torch.zeros(2, 4)).inputs[0].range is None


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout())
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    traced = trace(model, torch.rand(2, 3, 4, 4))
    assert [m.training for m in model] == [True, False, True]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert "dropout.default](args = (%batch_norm, 0.5, False)" in str(traced.program.graph)


class Pyramid(nn.Module):
    """Down by four, up by four, and add: sizes must be multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 3, 3, 2, 1)

    def forward(self, x):
        return x + F.interpolate(self.down(self.down(x)), scale_factor=4, mode="nearest")


def test_a_size_the_model_does_not_take_is_named_with_the_multiple_to_type():
    names = {"x": ["batch", 3, "height", 16]}
    with pytest.raises(DynError, match=r'"height": \(8, 16, 32, 4\)'):
        trace(Pyramid(), torch.rand(1, 3, 16, 16), inputs=names, dims={"batch": (1, 2, 4), "height": (8, 16, 32)})
    traced = trace(Pyramid(), torch.rand(1, 3, 16, 16), inputs=names, dims={"batch": 1, "height": (8, 16, 32, 4)})
    assert traced.symbols.values() == {"(height//4)"} or list(traced.symbols.values()) == ["(height//4)"]


class Moody(nn.Module):
    """Returns something else on every call."""

    calls = 0

    def forward(self, x):
        Moody.calls += 1
        return x * Moody.calls


class Shy(nn.Module):
    """Returns a number beside its tensor."""

    def forward(self, x):
        return x, 3


class Exponential(nn.Module):
    """Overflows for large values."""

    def forward(self, input):
        return input.exp()


class Branching(nn.Module):
    """Decides by the data."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


class Upsampled(nn.Module):
    """A map, and a guide at twice its size."""

    def forward(self, x, guide):
        return F.interpolate(x, scale_factor=2.0) * guide


def broken(model):
    with torch.no_grad():
        model.bias[0] = torch.nan
    return model


@pytest.mark.parametrize(
    ("h", "h2", "fix"),
    [
        ((4, 8, 16), (8, 16, 32), '"2[*]h" for "h2"'),
        ((4, 8, 16), (8, 16, 32, 2), '"2[*]h" for "h2"'),
        ((4, 8, 16, 4), (8, 16, 32), '"2[*]h" for "h2"'),
    ],
)
def test_dims_that_depend_on_each_other_are_named(h, h2, fix):
    shapes = {"x": [1, 3, "h", 8], "guide": [1, 3, "h2", 16]}
    with pytest.raises(DynError, match=fix):
        trace(Upsampled(), (X, torch.rand(1, 3, 16, 16)), inputs=shapes, dims={"h": h, "h2": h2})


def test_a_dim_may_be_a_multiple_of_another():
    shapes = {"x": ["batch", 3, "h", "w"], "guide": ["batch", 3, "2*h", "2*w"]}
    dims = {"batch": (1, 1, 2), "h": (4, 8, 16, 4), "w": 8}
    traced = trace(Upsampled(), (X, torch.rand(1, 3, 16, 16)), inputs=shapes, dims=dims)
    assert [s.shape for s in traced.inputs] == [("batch", 3, "h", 8), ("batch", 3, "2*h", 16)]
    assert sorted(traced.symbols.values()) == ["(h//4)", "batch"]


def test_what_torch_prints_of_a_failure_is_not_shown(capfd):
    levels = {name: logging.getLogger(name).level for name in ("torch.fx.experimental.symbolic_shapes",)}
    with pytest.raises(DynError, match=r"data-dependent expression"):
        trace(Branching(), X, dims={"batch": (1, 2, 4)})
    assert capfd.readouterr() == ("", "")
    assert {name: logging.getLogger(name).level for name in levels} == levels


INF = float("inf")
X = torch.rand(1, 3, 8, 8)
BAD = {
    "not a module": (lambda: trace(abs, X), "takes an nn.Module"),
    "half weights": (lambda: trace(nn.Conv2d(3, 4, 1).half(), X), "casts the graph"),
    "no tensor": (lambda: trace(nn.ReLU(), [np.zeros(3)]), "holds a ndarray"),
    "no place for dims": (lambda: trace(nn.ReLU(), X, dims={"height": (1, 2, 3)}), "nothing says where"),
    "unknown dim": (lambda: trace(nn.ReLU(), X, inputs={"x": ["n", 3, 8, 8]}), "dims does not define"),
    "unused dim": (lambda: trace(nn.ReLU(), X, inputs={"x": [1, 3, 8, 8]}, dims={"n": (1, 2, 3)}), "no input uses"),
    "unordered dim": (lambda: trace(nn.ReLU(), X, dims={"batch": (4, 2, 8)}), "min <= opt <= max"),
    "not a multiple": (lambda: trace(nn.ReLU(), X, dims={"batch": (1, 2, 8, 2)}), "not a multiple of 2"),
    "wrong rank": (lambda: trace(nn.ReLU(), X, inputs={"x": [1, 3]}), "has 2 dims, the example 4"),
    "wrong size": (lambda: trace(nn.ReLU(), X, inputs={"x": [1, 4, 8, 8]}), "says 4 for dim 1"),
    "too many names": (lambda: trace(nn.ReLU(), X, inputs={"x": [1], "y": [1]}), "names 2 tensors"),
    "unknown range": (lambda: trace(nn.ReLU(), X, ranges={"y": (0, 1)}), "is no input"),
    "wrong outputs": (lambda: trace(nn.ReLU(), X, outputs=["a", "b"]), "returns 1 tensors"),
    "does not run": (lambda: trace(nn.Conv2d(4, 4, 1), X), "does not run on inputs of shape"),
    "not a tensor out": (lambda: trace(Shy(), X), "returns a int"),
    "no examples": (lambda: trace(nn.ReLU(), None), "example_inputs is a NoneType"),
    "inputs as list": (lambda: trace(nn.ReLU(), X, inputs=["x"]), "inputs is a list, expected a dict"),
    "shape as text": (lambda: trace(nn.ReLU(), X, inputs={"x": "batch"}), "is not a shape"),
    "dims as list": (lambda: trace(nn.ReLU(), X, dims=["batch"]), "dims is a list, expected a dict"),
    "range reversed": (
        lambda: trace(nn.ReLU(), X, ranges={"input": (1, 0)}),
        r"ranges.input=\(1, 0\)(.|\n)*low < high",
    ),
    "range endless": (lambda: trace(nn.ReLU(), X, ranges={"input": (0, INF)}), "both finite"),
    "range not a number": (lambda: trace(nn.ReLU(), X, ranges={"input": (0, INF - INF)}), "both finite"),
    "range of one": (lambda: trace(nn.ReLU(), X, ranges={"input": (0,)}), "is not a range"),
    "no dim name": (lambda: trace(nn.ReLU(), X, dims={"my dim": (1, 2, 3)}), "'my dim', which is not a name"),
    "unknown expression": (
        lambda: trace(nn.ReLU(), X, inputs={"x": ["n+1", 3, 8, 8]}, dims={"n": (1, 2, 3)}),
        "a multiple of one such as",
    ),
    "broken weights": (
        lambda: trace(broken(nn.Conv2d(3, 4, 1)), X),
        "weight bias is not finite",
    ),
    "too large": (lambda: trace(Exponential(), X, ranges={"input": (0, 1e3)}), "does not survive"),
    "not a function": (lambda: trace(Moody(), X), "computes something else"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, text = BAD[case]
    with pytest.raises(DynError, match=text):
        call()
