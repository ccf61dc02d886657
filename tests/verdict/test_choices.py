import math

import ml_dtypes
import numpy as np
import pytest

from dyndeploy.ops._spec import spec_of
from dyndeploy.testing.numeric import compare
from dyndeploy.verdict.choices import decide, judge_choice
from dyndeploy.verdict.inner import Choice


def region_choice():
    return Choice("region", "DynamicRegionAwareConv2d", "op", spec_of("drconv"), {}, "guide", "guide")


def channel_choice(inactive, threshold=0.0, heads=2):
    attributes = {"heads": heads, "inactive": inactive, "threshold": threshold}
    return Choice("gate", "DynamicGroupConv2d", "op", spec_of("dgc"), attributes, "saliency", "saliency")


def guide(seed=0):
    return np.random.default_rng(seed).standard_normal((2, 4, 5, 6))


def judged(choice, runtime, reference):
    return judge_choice(choice, decide(choice, runtime), reference, reference.astype(np.float32), "float32")


def test_decisions_are_the_operators_own():
    assert decide(region_choice(), np.array([[[[1.0]], [[3.0]], [[3.0]]]])).tolist() == [[[1]]]
    saliency = np.array([[3.0, 1.0, 2.0, 0.0, 0.0, 5.0]])
    assert decide(channel_choice(1), saliency).tolist() == [[[True, False, True], [False, False, True]]]
    assert decide(channel_choice(-1, 2.0), saliency).tolist() == [[[True, False, False], [False, False, True]]]
    assert decide(channel_choice(0), saliency).all()


def test_no_flip_is_no_finding():
    result = judged(region_choice(), guide().astype(np.float32), guide())
    assert (result.decisions, result.flips, result.gap, result.admissible) == (60, 0, 0.0, True)


@pytest.mark.parametrize(("nudge", "admissible"), [(1e-7, True), (1e-2, False)])
def test_a_region_may_flip_only_in_a_near_tie(nudge, admissible):
    reference = guide()
    best = reference[0, :, 2, 3].argmax()
    other = (best + 1) % 4
    reference[0, other, 2, 3] = reference[0, best, 2, 3] - nudge
    runtime = reference.copy()
    runtime[0, other, 2, 3] = runtime[0, best, 2, 3] + nudge
    result = judged(region_choice(), runtime, reference)
    assert result.flips == 1
    assert result.gap == pytest.approx(nudge / compare(reference, reference).rms)
    assert result.admissible is admissible


@pytest.mark.parametrize(("nudge", "admissible"), [(1e-7, True), (1e-2, False)])
@pytest.mark.parametrize("inactive", [2, -1])
def test_a_channel_may_flip_only_at_the_threshold(nudge, admissible, inactive):
    reference = np.array([[0.1, 0.5, 0.5 + nudge, 2.0, 0.2, 0.3, 0.9, 4.0]])
    runtime = reference.copy()
    runtime[0, 1:3] = reference[0, 2:0:-1]
    result = judged(channel_choice(inactive, threshold=0.5), runtime, reference)
    assert (result.decisions, result.flips) == (8, 2)
    assert result.gap == pytest.approx(nudge / compare(reference, reference).rms, rel=1e-6)
    assert result.admissible is admissible


def test_the_margin_follows_pytorchs_error_in_the_tensor_and_the_dtype():
    reference = guide()
    margins = {
        (scale, dtype): judge_choice(
            region_choice(), decide(region_choice(), reference), reference, reference + scale * guide(seed=1), dtype
        ).margin
        for scale in (0.0, 1e-3, 1e-2)
        for dtype in ("float32", "float16")
    }
    largest = compare(reference + 1e-3 * guide(seed=1), reference).statistic("max")
    assert margins[0.0, "float16"] == 4 * 2**-10
    assert margins[0.0, "float32"] == 4 * 2**-23
    assert margins[1e-3, "float16"] == pytest.approx(8 * largest + 4 * 2**-10)
    assert margins[1e-2, "float32"] == pytest.approx(10 * margins[1e-3, "float32"], rel=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_flips_of_a_rounded_guide_are_far_within_the_margin(dtype):
    """A pointwise convolution in a half type, summed in two orders: many flips, none near the margin."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((16, 128, 128)), rng.standard_normal((4, 16)) / 4
    x, weight = x.astype(dtype), weight.astype(dtype)
    reference = np.einsum("oc,chw->ohw", weight.astype(float), x.astype(float))[None]

    def rounded(order):
        total = np.zeros(reference.shape[1:], dtype)
        for c in order:
            total = (total + weight[:, c, None, None] * x[c]).astype(dtype)
        return total[None]

    own, runtime = rounded(range(16)), rounded(range(15, -1, -1))
    result = judge_choice(region_choice(), decide(region_choice(), runtime), reference, own, np.dtype(dtype).name)
    assert result.flips > 0
    assert result.gap < result.margin / 4


def test_a_channel_that_cannot_be_dropped_cannot_flip_within_any_margin():
    choice, saliency = channel_choice(0), np.ones((1, 4))
    dropped = np.array([[[True, False], [True, True]]])
    assert judge_choice(choice, dropped, saliency, saliency, "float32").gap == math.inf
