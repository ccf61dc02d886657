"""Dims, tensor specs, the check of arrays against them, and seeded arrays."""

import ml_dtypes
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dyndeploy.errors import DynError
from dyndeploy.tensors import POINTS, Dim, TensorSpec, check_arrays, seeded_arrays, sizes_at

DIMS = {"batch": Dim(min=1, opt=4, max=8), "height": Dim(min=32, opt=64, max=96, multiple=32)}
IMAGE = TensorSpec(name="image", shape=("batch", 3, "height", 16))
LENGTH = TensorSpec(name="length", dtype="int64", shape=("batch",))


def arrays(**changes):
    good = {"image": np.zeros((2, 3, 64, 16), np.float32), "length": np.zeros(2, np.int64)}
    return {name: array for name, array in {**good, **changes}.items() if array is not None}


@pytest.mark.parametrize(
    "value",
    [
        "32:64:96:32",
        (32, 64, 96, 32),
        [32, 64, 96, 32],
        {"min": 32, "opt": 64, "max": 96, "multiple": 32},
        DIMS["height"],
    ],
)
def test_every_way_to_write_a_dim(value):
    assert Dim.parse("height", value) == DIMS["height"]


@pytest.mark.parametrize("value", [7, "7:7:7", (7, 7, 7)])
def test_one_size_is_fixed(value):
    assert Dim.parse("width", value) == Dim(min=7, opt=7, max=7)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("1:2", "2 numbers"),
        ("1:2:3:4:5", "5 numbers"),
        ("1:4:x", "invalid literal for int"),
        ("", "invalid literal for int"),
        (None, "NoneType"),
        (2.5, "float"),
        (True, "min: Input should be a valid integer"),
        ({"min": "1", "opt": 1, "max": 1}, "min: Input should be a valid integer"),
        ((3, 2, 4), "min <= opt <= max does not hold for 3, 2, 4"),
        ((1, 5, 4), "min <= opt <= max does not hold for 1, 5, 4"),
        ((0, 1, 2), "min: Input should be greater than or equal to 1"),
        ((32, 65, 96, 32), "65 is not a multiple of 32"),
        ({"min": 1}, "opt: Field required; max: Field required"),
        ({"min": 1, "opt": 1, "max": 1, "step": 2}, "step: Extra inputs are not permitted"),
    ],
)
def test_what_is_no_dim(value, why):
    with pytest.raises(DynError) as caught:
        Dim.parse("batch", value)
    assert caught.value.what == f"dims.batch={value!r} is not a dim."
    assert caught.value.why.startswith(why) or why in caught.value.why
    assert "batch=1:4:8" in caught.value.fix


def test_dim_check():
    for size in (32, 64, 96):
        DIMS["height"].check("height", size)
    with pytest.raises(DynError, match=r"(?s)height=128 is outside 32\.\.96.*Export again with a wider dims.height"):
        DIMS["height"].check("height", 128)
    with pytest.raises(DynError, match="height=48 is not a multiple of 32, as"):
        DIMS["height"].check("height", 48)


def test_dims_and_specs_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        DIMS["batch"].min = 2
    with pytest.raises(ValidationError, match="frozen"):
        IMAGE.name = "other"


def test_sizes_at():
    sizes = [sizes_at(DIMS, point) for point in POINTS]
    assert sizes == [{"batch": b, "height": h} for b, h in ((1, 32), (4, 64), (8, 96))]
    assert IMAGE.size_at(sizes[1]) == (4, 3, 64, 16)


def test_spec_as_text_and_json():
    assert str(IMAGE) == "image: float32 [batch, 3, height, 16]"
    for spec in (IMAGE, LENGTH, TensorSpec(name="y", dtype="bfloat16", shape=("2*batch",), range=(0, 1))):
        assert TensorSpec.model_validate_json(spec.model_dump_json()) == spec


def test_numpy_dtype():
    assert LENGTH.numpy_dtype == np.int64
    assert TensorSpec(name="x", dtype="bfloat16", shape=()).numpy_dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("name", ["batch-size", "my dim", "2x", "", 1])
def test_what_is_no_name_of_a_dim(name):
    with pytest.raises(DynError, match="is not a name for a dim"):
        Dim.parse(name, (1, 2, 3))


@pytest.mark.parametrize("value", [(1, 0), (1, 1), (0, float("inf")), (float("nan"), 1)])
def test_what_is_no_range(value):
    with pytest.raises(ValidationError, match="low < high, both finite"):
        TensorSpec(name="x", shape=(), range=value)


def test_a_dtype_that_nobody_knows():
    with pytest.raises(DynError, match="x is 'foo', which is no dtype"):
        _ = TensorSpec(name="x", dtype="foo", shape=()).numpy_dtype


def test_multiples_of_a_dim():
    up = TensorSpec(name="up", shape=("2*n",))
    specs, dims = [up, TensorSpec(name="down", shape=("n",))], {"n": Dim(min=1, opt=2, max=4)}
    assert up.size_at({"n": 3}) == (6,)
    drawn = seeded_arrays(specs, {"n": 3}, seed=0)
    assert check_arrays(drawn, specs, dims) == {"n": 3}
    for size, message in ((5, "which is not 2"), (10, "n=5 is outside"), (8, "n is 4 by up and 3 in down")):
        with pytest.raises(DynError, match=message):
            check_arrays({**drawn, "up": np.zeros(size, np.float32)}, specs, dims)


def test_arrays_that_fit_give_the_sizes():
    assert check_arrays(arrays(), [IMAGE, LENGTH], DIMS) == {"batch": 2, "height": 64}


def test_a_dim_without_bounds_has_any_size_but_one():
    specs = [TensorSpec(name="a", shape=("n",)), TensorSpec(name="b", shape=("n", "m"))]
    a, b = np.zeros(5, np.float32), np.zeros((5, 1000), np.float32)
    assert check_arrays({"a": a, "b": b}, specs, {}) == {"n": 5, "m": 1000}
    with pytest.raises(DynError, match="n is 4 by a and 5 in b; it must be the same"):
        check_arrays({"a": a[:4], "b": b}, specs, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"length": None},
            r"(?s)Missing: length\..*fix: image: float32 \[batch, 3, height, 16\]; length: int64",
        ),
        ({"mask": np.zeros(1)}, r"Unknown: mask\."),
        ({"length": None, "size": np.zeros(1)}, r"Missing: length\. Unknown: size\."),
        ({"length": [1, 2]}, r"(?s)Input length is a list\..*numpy.asarray\(length, 'int64'\)"),
        ({"length": torch.zeros(2)}, r"(?s)Input length is a Tensor\..*numpy.asarray\(length, 'int64'\)"),
        (
            {"length": np.zeros(2, np.int32)},
            r"(?s)length is int32, expected int64.*length.astype\('int64'\)",
        ),
        ({"image": np.zeros((2, 3, 64, 16))}, "image is float64, expected float32"),
        (
            {"length": np.zeros((2, 1), np.int64)},
            r"length has shape \[2, 1\], expected 1 dims: length: int64 \[batch\]",
        ),
        ({"image": np.zeros((2, 4, 64, 16), np.float32)}, "image has size 4 in dim 1, expected 3"),
        ({"image": np.zeros((2, 3, 40, 16), np.float32)}, "height=40 is not a multiple of 32"),
        ({"image": np.zeros((9, 3, 64, 16), np.float32)}, r"batch=9 is outside 1\.\.8"),
        ({"length": np.zeros(3, np.int64)}, "batch is 2 by image and 3 in length; it must be the same"),
    ],
)
def test_arrays_that_do_not_fit(changes, message):
    with pytest.raises(DynError, match=message):
        check_arrays(arrays(**changes), [IMAGE, LENGTH], DIMS)


def test_seeded_arrays_fit_their_specs():
    specs = [
        IMAGE,
        TensorSpec(name="index", dtype="int32", shape=("batch", 200), range=(3, 5)),
        TensorSpec(name="flag", dtype="bool", shape=("batch", 200)),
        TensorSpec(name="gain", dtype="bfloat16", shape=(200,), range=(-2, -1)),
        TensorSpec(name="half", dtype="float16", shape=()),
    ]
    drawn = seeded_arrays(specs, {"batch": 2, "height": 32}, seed=1)
    assert check_arrays(drawn, specs, DIMS) == {"batch": 2, "height": 32}
    assert abs(drawn["image"].mean()) < 0.1
    assert 0.9 < drawn["image"].std() < 1.1
    assert set(drawn["index"].ravel()) == {3, 4, 5}  # both ends belong to the range
    assert set(drawn["flag"].ravel()) == {False, True}
    gain = drawn["gain"].astype(np.float32)
    assert -2 <= gain.min() < -1.9
    assert -1.1 < gain.max() <= -1


def test_seeds_repeat():
    sizes = {"batch": 2, "height": 32}
    one, same, other = (seeded_arrays([IMAGE], sizes, seed)["image"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_seeded_pictures_differ_from_sample_to_sample():
    spec = TensorSpec(name="image", shape=("batch", 3, 32, 24), range=(-2.0, 6.0))
    images = seeded_arrays([spec], {"batch": 16}, seed=0)["image"]
    assert images.min() >= -2
    assert images.max() <= 6
    per_sample = images.reshape(16, -1)
    assert per_sample.mean(1).std() > 0.5, "noise alone has means that differ by 0.05"
    assert per_sample.std(1).max() > 2 * per_sample.std(1).min()
