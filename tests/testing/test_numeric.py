import math

import ml_dtypes
import numpy as np
import pytest
import torch
from polygraphy.comparator import (
    CosineSimilarityCompareFunc,
    IterationResult,
    L2CompareFunc,
    SimpleCompareFunc,
)
from polygraphy.logger import G_LOGGER

from dyndeploy.errors import DynError
from dyndeploy.testing.numeric import Comparison, Judgement, Verdict, bit_equal, compare, eps, judge, limits


def randn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# --- compare ---


def test_statistics_are_those_of_the_definition():
    expected = randn(3, 4, 50)
    noise = 1e-3 * randn(3, 4, 50, seed=1)
    c = compare(expected + noise, expected)
    error = np.abs((expected + noise) - expected)
    assert c.relative_l2 == pytest.approx(np.linalg.norm(error) / np.linalg.norm(expected), rel=1e-12)
    assert c.max == error.max()
    assert error[c.max_index] == c.max
    assert c.p99 == np.sort(error.ravel())[math.ceil(0.99 * (error.size - 1))]
    assert c.rms == pytest.approx(np.sqrt((expected**2).mean()), rel=1e-12)
    assert (c.shape, c.dtype, c.mismatched) == ((3, 4, 50), "float64", 0)


def test_float64_sees_what_float32_would_round_away():
    expected = 1e4 + randn(1000)
    c = compare(expected + 1e-9, expected)
    assert 0 < c.max < 1e-8
    assert 0 < c.relative_l2 < 1e-12


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16, "int64", "bool"])
def test_every_dtype_of_a_runtime_is_compared(dtype):
    actual = (randn(5, 6) > 0).astype(dtype)
    c = compare(actual, actual.astype(np.float64))
    assert (c.max, c.relative_l2) == (0, 0)
    assert c.cosine == pytest.approx(1)
    assert c.dtype == np.dtype(dtype).name


def test_equal_nan_and_infinity_are_no_error():
    values = np.array([1.0, np.nan, np.inf, -np.inf])
    c = compare(values, values)
    assert (c.max, c.mismatched, c.nonfinite_actual, c.nonfinite_expected, c.rms) == (0, 0, 3, 3, 0.5)


@pytest.mark.parametrize(
    ("actual", "expected"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan), (np.inf, -np.inf), (np.inf, np.nan)]
)
def test_any_other_nonfinite_value_is_an_infinite_error(actual, expected):
    c = compare(np.array([[1.0, 2.0], [actual, 3.0]]), np.array([[1.0, 2.0], [expected, 3.0]]))
    assert (c.mismatched, c.max, c.max_index, c.relative_l2) == (1, math.inf, (1, 0), math.inf)
    assert c.cosine == pytest.approx(1)


def test_an_all_zero_reference_makes_errors_absolute():
    zero = np.zeros((10, 10))
    assert compare(zero, zero).cosine == 1
    c = compare(zero + 1e-3, zero)
    assert c.relative_l2 == pytest.approx(1e-3)
    assert c.statistic("max") == pytest.approx(1e-3)
    assert c.cosine == 0


def test_empty_and_scalar_tensors():
    empty = np.zeros((0, 3))
    assert (compare(empty, empty).max, compare(empty, empty).max_index) == (0, ())
    assert compare(np.array(2.0), np.array(1.0)).max_index == ()


def test_shapes_that_differ_are_not_broadcast():
    with pytest.raises(DynError, match=r"\[3\] and \[1, 3\]"):
        compare(np.zeros(3), np.zeros((1, 3)))


def test_bit_equal_is_stricter_than_equal():
    zero = np.zeros(3, np.float32)
    assert bit_equal(zero, zero.copy())
    assert not bit_equal(zero, -zero)
    assert not bit_equal(zero, zero.astype(np.float64))
    assert not bit_equal(zero, zero.reshape(1, 3))


# --- cross-check with Polygraphy ---


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_agrees_with_polygraphy(dtype):
    expected = randn(4, 7, 11)
    actual = (expected + 1e-2 * randn(4, 7, 11, seed=1)).astype(dtype)
    ours = compare(actual, expected)
    results = IterationResult({"y": actual}), IterationResult({"y": expected})
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        l2 = L2CompareFunc()(*results)["y"].l2_norm
        cosine = CosineSimilarityCompareFunc()(*results)["y"].cosine_similarity
        largest = SimpleCompareFunc(check_error_stat="max")(*results)["y"].max_absdiff
    assert ours.relative_l2 * np.linalg.norm(expected) == pytest.approx(l2, rel=1e-6)
    assert ours.cosine == pytest.approx(cosine, rel=1e-6)
    assert ours.max == pytest.approx(largest, rel=1e-6)


def test_where_polygraphy_loses_digits_we_do_not():
    """It computes in the tensors' own dtype: of 1 - cosine of two float32 tensors little is left."""
    a = randn(10**5).astype(np.float32)
    b = a + np.float32(1e-3) * randn(10**5, seed=1).astype(np.float32)
    x, y = a.astype(np.longdouble), b.astype(np.longdouble)
    exact = float(1 - (x @ y) / np.sqrt((x @ x) * (y @ y)))
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        theirs = CosineSimilarityCompareFunc()(IterationResult({"y": a}), IterationResult({"y": b}))["y"]
    assert 1 - compare(a, b).cosine == pytest.approx(exact, rel=1e-6)
    assert 1 - float(theirs.cosine_similarity) != pytest.approx(exact, rel=1e-2)


# --- judge ---


def verdict(actual, torch_output, expected, dtype):
    return judge(compare(actual, expected), compare(torch_output, expected), dtype, bit_equal(actual, torch_output))


def matmul_in_order(a, b, order, accumulator=np.float32):
    """One accumulator over K, in the given order: the least accurate of the right ways."""
    total = np.zeros((a.shape[0], b.shape[1]), accumulator)
    for k in order:
        total += a[:, k, None].astype(accumulator) * b[None, k].astype(accumulator)
    return total.astype(a.dtype)


def operands(dtype, k, m=96, n=80):
    return np.maximum(randn(m, k), 0).astype(dtype), randn(k, n, seed=1).astype(dtype)


def torch_matmul(a, b):
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("k", [9, 64, 576, 4608])
def test_another_summation_order_is_within_noise(dtype, k):
    a, b = operands(dtype, k)
    expected, own = a.astype(float) @ b.astype(float), torch_matmul(a, b)
    lanes = np.arange(k).reshape(-1, 3).T.ravel() if k % 3 == 0 else np.arange(k)[::2].tolist() + list(range(1, k, 2))
    for order in (range(k), range(k - 1, -1, -1), lanes):
        result = verdict(matmul_in_order(a, b, order), own, expected, dtype)
        assert result.verdict <= Verdict.WITHIN_NOISE, result


def test_the_same_bits_are_identical():
    a, b = operands("float32", 64)
    own = torch_matmul(a, b)
    result = verdict(own.copy(), own, a.astype(float) @ b.astype(float), "float32")
    assert result == Judgement(Verdict.IDENTICAL, "", 0.0, 0.0)


def test_a_half_precision_accumulator_is_suspicious():
    a, b = operands("float16", 2304)
    result = verdict(
        matmul_in_order(a, b, range(2304), np.float16),
        torch_matmul(a, b),
        a.astype(float) @ b.astype(float),
        "float16",
    )
    assert result.verdict is Verdict.SUSPICIOUS
    assert result.value > result.limit


@pytest.mark.parametrize(("dtype", "change"), [("float32", 1e-3), ("float16", 1.0), ("bfloat16", 4.0)])
def test_one_perturbed_weight_does_not_pass(dtype, change):
    """`change` is in standard deviations of the weights; one of 576 in one of 80 rows."""
    dtype_ = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    a, b = (t.astype(np.float32) for t in operands(dtype_, 576))
    expected = a.astype(float) @ b.astype(float)
    wrong = b.copy()
    wrong[17, 3] += change
    result = verdict((a @ wrong).astype(dtype_), expected.astype(dtype_), expected, dtype)
    assert result.verdict >= Verdict.SUSPICIOUS
    # It is one column of 80: only the maximum sees it clearly in the coarse dtypes.
    assert result.statistic == "max" or dtype == "float32"


def conv3x3(x, weight, pad_rows=1):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("chwij,ocij->ohw", windows, weight)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_height_and_width_swapped_is_broken(dtype):
    x, weight = randn(8, 24, 24), randn(8, 8, 3, 3, seed=1)
    expected = conv3x3(x, weight)
    own = expected.astype(dtype)
    result = verdict(conv3x3(x, weight.swapaxes(2, 3)).astype(dtype), own, expected, dtype)
    assert result.verdict is Verdict.BROKEN


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_wrong_border_pixel_is_found_by_the_maximum(dtype):
    expected = randn(8, 64, 64)
    wrong = expected.astype(dtype)
    wrong[3, 0, 40] = wrong[3, 1, 40]
    result = verdict(wrong, expected.astype(dtype), expected, dtype)
    assert result.verdict is Verdict.BROKEN
    assert result.statistic == "max"
    assert compare(wrong, expected).max_index == (3, 0, 40)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sampling_coordinates_in_half_do_not_pass(dtype):
    """Bilinear sampling of a 512 wide line; half has steps of a quarter pixel beyond 256."""
    line = randn(16, 512)
    at = np.sort(np.random.default_rng(2).uniform(0, 510, 512))

    def sample(positions):
        left = np.floor(positions).astype(int)
        fraction = positions - left
        return line[:, left] * (1 - fraction) + line[:, left + 1] * fraction

    expected = sample(at)
    own = sample(at.astype(np.float32).astype(float)).astype(dtype)
    result = verdict(sample(at.astype(np.float16).astype(float)).astype(dtype), own, expected, dtype)
    assert result.verdict is Verdict.BROKEN


def test_noise_is_measured_by_pytorch_not_by_a_flat_tolerance():
    """The same error passes where PyTorch errs as much, and fails where PyTorch is exact."""
    expected = randn(100, 100)
    noisy, other = (expected + 1e-3 * randn(100, 100, seed=s) for s in (1, 2))
    assert verdict(noisy, other, expected, "float32").verdict is Verdict.WITHIN_NOISE
    assert verdict(noisy, expected.astype(np.float32), expected, "float32").verdict is Verdict.BROKEN


def test_the_worst_statistic_decides_and_is_named():
    quiet = Comparison((10,), "float32", 1e-7, 1.0, 1e-7, 1e-7, (0,), 1.0, 0, 0, 0)
    for name in ("relative_l2", "p99", "max"):
        limit = limits(quiet, "float32")[name]
        error = Comparison(**{**quiet.__dict__, name: 5 * limit})
        assert judge(error, quiet, "float32", False) == Judgement(Verdict.SUSPICIOUS, name, 5 * limit, limit)
        worse = Comparison(**{**quiet.__dict__, name: 11 * limit})
        assert judge(worse, quiet, "float32", False).verdict is Verdict.BROKEN


def test_an_overflow_is_broken_even_when_pytorch_has_it_too():
    expected = np.array([1e6, 1.0])
    own = np.array([np.inf, 1.0], np.float16)
    result = verdict(own, own, expected, "float16")
    assert result == Judgement(Verdict.BROKEN, "mismatched", 1, 0)
    # and it does not excuse a runtime that does not overflow, but is wrong
    assert verdict(np.array([1e6, 1.5]), own, expected, "float16").verdict is not Verdict.IDENTICAL
    assert verdict(np.array([1e6, 1.0]), own, expected, "float16").verdict is Verdict.WITHIN_NOISE


def test_integers_have_no_floor():
    expected = np.arange(10.0)
    right, wrong = np.arange(10), np.arange(10)
    wrong[4] = 5
    assert verdict(right.astype(np.int32), right, expected, "float32").verdict is Verdict.WITHIN_NOISE
    assert verdict(wrong, right, expected, "float32").verdict is Verdict.BROKEN
    assert eps("int64") == eps("bool") == 0


def test_verdicts_are_ordered():
    assert list(Verdict) == sorted(Verdict, reverse=False)
    assert [v.ok for v in Verdict] == [True, True, False, False]
    assert Verdict.worst([]) is Verdict.IDENTICAL
    assert Verdict.worst(reversed(Verdict)) is Verdict.BROKEN
