"""OpSpec: shape rules, attribute checks, and what the specs of all operators have in common."""

import itertools
import math

import onnx
import pytest
import torch

from dyndeploy.errors import DynError
from dyndeploy.ops._spec import SPECS, Attribute, OpSpec, Tensor, custom_ops, spec_of

WINDOW = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]}
DCN = {**WINDOW, "group": 2, "offset_group": 1, "sigmoid": 1, "mask_scale": 1.0, "relu": 0}
DCN_SHAPES = [(2, 4, 9, 7), (2, 27, 7, 5), (6, 2, 3, 3), (6,)]


def conv_size(size, kernel, stride, pads, dilation):
    """The output size that torch gives an ordinary convolution."""
    x = torch.empty(1, 1, size[0] + pads[0] + pads[2], size[1] + pads[1] + pads[3], device="meta")
    weight = torch.empty(1, 1, *kernel, device="meta")
    return tuple(torch.nn.functional.conv2d(x, weight, stride=stride, dilation=dilation).shape[2:])


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 3), (5, 1)])
def test_window_is_that_of_a_convolution(kernel):
    spec = spec_of("drconv")
    grid = itertools.product(
        [(9, 11), (12, 10)],
        [(1, 1), (2, 1), (1, 3), (4, 2)],
        [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 1, 3)],
        [(1, 1), (1, 2), (2, 1)],
    )
    for size, stride, pads, dilation in grid:
        ho, wo = conv_size(size, kernel, stride, pads, dilation)
        taps = kernel[0] * kernel[1]
        shapes = [(2, 3, *size), (2, 4 * 5, 3 * taps), (2, 4, ho, wo), (5,)]
        attributes = {
            "kernel_shape": kernel,
            "strides": stride,
            "pads": pads,
            "dilations": dilation,
            "regions": 4,
            "relu": 0,
        }
        assert spec.output_shape(shapes, attributes) == (2, 5, ho, wo)
        with pytest.raises(DynError, match=r"guide has shape .* dim 2 must be Ho"):
            spec.output_shape([*shapes[:2], (2, 4, ho + 1, wo), (5,)], attributes)


def test_bind_returns_every_symbol():
    symbols = spec_of("dcnv2").bind(DCN_SHAPES, DCN)
    expected = {
        "N": 2,
        "C": 4,
        "H": 9,
        "W": 7,
        "O": 6,
        "kh": 3,
        "kw": 3,
        "K": 9,
        "Ho": 7,
        "Wo": 5,
        "group": 2,
    }
    assert {name: symbols[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("folder", "shapes", "attributes", "message"),
    [
        ("dcnv2", DCN_SHAPES[:3], DCN, "modulated_deform_conv2d takes 4 tensors, got 3"),
        ("dcnv2", [(4, 9, 7), *DCN_SHAPES[1:]], DCN, r"X has 3 dims \[4, 9, 7\], expected \[N, C, H, W\]"),
        ("dcnv2", [*DCN_SHAPES[:3], (5,)], DCN, r"B has shape \[5\], but dim 0 must be O = 6"),
        ("dcnv2", DCN_SHAPES, {**DCN, "group": 3}, "C = 4 is not divisible by group = 3"),
        (
            "dcnv2",
            DCN_SHAPES,
            {**DCN, "dilations": [1, 4]},
            r"kernel \(9\) is larger than the padded input \(7\) along W",
        ),
        ("dcnv2", DCN_SHAPES, {**DCN, "extra": 1}, r"(?s)fix: missing: \[\], unknown: \['extra'\]"),
        (
            "dcnv2",
            DCN_SHAPES,
            WINDOW,
            r"(?s)fix: missing: \['group', 'mask_scale', 'offset_group', 'relu', 'sigmoid'\]",
        ),
        (
            "dgc",
            [(1, 4, 5, 5), (1, 8), (6, 4, 3, 3), (6,)],
            {**WINDOW, "heads": 2, "inactive": 5, "threshold": 0.0, "shuffle": 1, "relu": 0},
            "inactive = 5 is larger than C = 4",
        ),
    ],
)
def test_what_does_not_fit_is_refused(folder, shapes, attributes, message):
    with pytest.raises(DynError, match=message):
        spec_of(folder).output_shape(shapes, attributes)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (Attribute("a", "int", 0, "a", low=-1), -1),
        (Attribute("a", "int", 0, "a", low=0, high=1), True),
        (Attribute("a", "float", 0.0, "a"), 1),
        (Attribute("a", "float", 0.0, "a"), -1e30),
        (Attribute("a", "ints", (1, 1), "a", 2, low=1), (1, 7)),
        (Attribute("a", "ints", (1, 1), "a", 2, low=1), [1, 7]),
    ],
)
def test_good_attribute_values(attribute, value):
    attribute.check("op", value)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        (Attribute("a", "int", 0, "arg"), 1.5, "op: arg=1.5 is not int"),
        (Attribute("a", "int", 0, "arg"), "1", "arg='1' is not one int"),
        (Attribute("a", "int", 0, "arg"), None, "arg=None is not int"),
        (Attribute("a", "int", 0, "arg"), [1], r"arg=\[1\] is not one int"),
        (Attribute("a", "int", 0, "arg", low=1), 0, "arg=0 is outside >= 1"),
        (Attribute("a", "int", 0, "arg", low=0, high=1), 2, r"arg=2 is outside 0\.\.1"),
        (Attribute("a", "float", 0.0, "arg"), math.nan, "arg=nan is outside"),
        (Attribute("a", "float", 0.0, "arg"), (1.0,), r"arg=\(1.0,\) is not one float"),
        (Attribute("a", "ints", (1, 1), "arg", 2), 3, "arg=3 is not 2 ints"),
        (Attribute("a", "ints", (1, 1), "arg", 2), (1, 2, 3), r"arg=\(1, 2, 3\) is not 2 ints"),
        (Attribute("a", "ints", (1, 1), "arg", 2), (1, 2.0), r"arg=\(1, 2.0\) is not ints"),
        (Attribute("a", "ints", (1, 1), "arg", 2, low=1), (1, 0), r"arg=\(1, 0\) is outside >= 1"),
    ],
)
def test_bad_attribute_values(attribute, value, message):
    with pytest.raises(DynError, match=message):
        attribute.check("op", value)


def test_why_of_a_bad_attribute_is_its_doc():
    with pytest.raises(DynError) as caught:
        Attribute("a", "int", 0, "arg", low=1, doc="Number of things.").check("op", 0)
    assert caught.value.why == "Number of things."


def test_switches_are_told_from_other_ints():
    spec = spec_of("dcnv2")
    assert [a.name for a in spec.attributes if a.is_switch] == ["sigmoid", "relu"]
    assert not spec_of("drconv").attribute("regions").is_switch


def test_defaults_leave_out_what_has_to_be_given():
    assert spec_of("dcnv2").defaults() == {
        "strides": (1, 1),
        "pads": (0, 0, 0, 0),
        "dilations": (1, 1),
        "group": 1,
        "offset_group": 1,
        "sigmoid": 1,
        "mask_scale": 1.0,
        "relu": 0,
    }
    assert "kernel_shape" not in spec_of("drconv").defaults()


def test_sizes_bind_to_the_first_input_that_bears_them():
    spec = OpSpec(
        "toy",
        "Toy",
        "Toy",
        "toy",
        (Tensor("A", ("N", "C")), Tensor("B", ("C", "M"))),
        Tensor("Y", ("N", "2*M")),
    )
    assert spec.output_shape([(2, 3), (3, 5)], {}) == (2, 10)
    with pytest.raises(DynError, match=r"toy: B has shape \[4, 5\], but dim 0 must be C = 3"):
        spec.output_shape([(2, 3), (4, 5)], {})


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.key)
def test_spec_is_found_under_each_of_its_names(spec):
    for name in (spec.key, spec.name, spec.torch_name):
        assert name is None or spec_of(name) is spec


def test_unknown_operator():
    with pytest.raises(
        DynError, match=r"There is no operator 'dcn'\.\n  fix: one of dcnv2, ddf, drconv, drconv_mix, dgc, scconv"
    ):
        spec_of("dcn")


def test_custom_ops_are_those_with_a_name():
    assert [s.key for s in custom_ops()] == ["dcnv2", "ddf", "drconv", "drconv_mix", "dgc"]


@pytest.mark.parametrize("spec", custom_ops(), ids=lambda s: s.key)
def test_name_is_no_standard_op(spec):
    """TensorRT's parser finds an op by its type alone, in whatever domain."""
    assert not onnx.defs.has(spec.name)


@pytest.mark.parametrize("spec", custom_ops(), ids=lambda s: s.key)
def test_names_are_unique_and_defaults_are_allowed(spec):
    for names in (
        [a.name for a in spec.attributes],
        [a.torch_name for a in spec.attributes],
        [t.name for t in (*spec.inputs, spec.output)],
    ):
        assert len(set(names)) == len(names)
    for attribute in spec.attributes:
        if attribute.default is not None:
            attribute.check(spec.label, attribute.default)
        assert attribute.doc
    assert spec.tolerance.keys() >= {"float64", *spec.dtypes}
    assert spec.choice in (None, *(t.name for t in spec.inputs))
