"""The compiled kernels under the torch ops against the references in float64: cases, dtypes, layouts, instructions.

plugins/tests has what Python cannot reach: sanitizers, misuse of the C ABI, thousands of random shapes.
"""

import threading
import warnings

import pytest
import torch

from dyndeploy import native
from dyndeploy.errors import DynError
from dyndeploy.native import library
from dyndeploy.native.devices import Device
from dyndeploy.ops._spec import custom_ops
from dyndeploy.testing.cases import cases

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EVERY = [case for spec in custom_ops() for case in cases(spec)]
INSTRUCTIONS = ["portable", "avx2", "avx512"]


def identify(case):
    return f"{case.spec.key}-{case}"


each_case = pytest.mark.parametrize("case", EVERY, ids=identify)
each_op = pytest.mark.parametrize("spec", custom_ops(), ids=lambda s: s.key)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def drawn(case, dtype="float32", seed=0, **sizes):
    """Tensors of `dtype`, and the same numbers in float64."""
    arrays = case.draw(seed, "float64", **sizes)
    tensors = [torch.from_numpy(a).to(DTYPES[dtype]) for a in arrays.values()]
    return tensors, [t.double() for t in tensors]


def relative_error(y, truth):
    return ((y.double() - truth).norm() / truth.norm().clamp_min(1e-30)).item()


def last(tensor):
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


@pytest.fixture(params=INSTRUCTIONS)
def instructions(request):
    try:
        with native.using(request.param):
            yield request.param
    except DynError as error:
        pytest.skip(str(error))


@each_dtype
@each_case
def test_forward(case, dtype, instructions, counted):
    tensors, exact = drawn(case, dtype, H=19, W=23)
    truth = case.run(*exact)
    for layout in (torch.Tensor.contiguous, last):
        y = case.run(*map(layout, tensors))
        assert y.dtype is DTYPES[dtype]
        assert layout(y).stride() == y.stride()
        assert relative_error(y, truth) < case.spec.tolerance[dtype]
    assert len(counted) == 2


@each_dtype
@each_case
def test_gradients(case, dtype, counted, learn):
    for channels_last in (False, True):
        _, errors = learn(case, DTYPES[dtype], channels_last=channels_last, H=9, W=11)
        # A gradient of a half type passes through the rounded output of a ReLU, which may flip a sign of nothing.
        assert max(errors) < 4 * case.spec.tolerance[dtype]
    assert len(counted) == 4


@each_op
def test_threads_do_not_change_a_bit(spec):
    (tensors, _), before = drawn(cases(spec)[2], H=40, W=37, N=3), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(cases(spec)[2].run(*tensors))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], y) for y in results[1:])


@each_op
def test_gradients_keep_to_what_computed_the_output(spec, counted):
    """Those of a GPU are computed in autograd's own thread, which knows nothing of the blocks around its caller."""
    tensors, _ = drawn(cases(spec)[0])
    leaves = [t.requires_grad_() for t in tensors]
    with native.disabled():
        y = cases(spec)[0].run(*leaves)
    thread = threading.Thread(target=lambda: y.sum().backward())
    thread.start()
    thread.join()
    assert counted == []
    assert all(t.grad is not None for t in leaves)


@each_op
def test_callers_side_by_side(spec):
    case = cases(spec)[2]
    inputs = [drawn(case, seed=seed, H=15, W=12)[0] for seed in range(4)]
    expected = [case.run(*tensors) for tensors in inputs]
    wrong = []

    def call(index):
        for _ in range(20):
            if not torch.equal(case.run(*inputs[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@each_op
def test_slices_and_steps_are_read_where_they_lie(spec, spread):
    """Views with gaps, and maps of which neither channels nor columns are dense."""
    case = cases(spec)[1]
    tensors, exact = drawn(case)
    truth = case.run(*exact)

    for axis in range(4):
        views = [spread(t, axis) for t in tensors]
        assert relative_error(case.run(*views), truth) < spec.tolerance["float32"]


@each_op
def test_one_pixel_one_channel_no_sample(spec):
    case = next(c for c in cases(spec) if c.name == "padded")
    for sizes in ({"H": 1, "W": 1}, {"N": 0}, {"H": 1, "W": 40}, {"H": 40, "W": 1}):
        tensors, exact = drawn(case, **sizes)
        y, truth = case.run(*tensors), case.run(*exact)
        assert y.shape == truth.shape
        assert relative_error(y, truth) < spec.tolerance["float32"]


@each_op
def test_without_the_library_it_says_so_and_runs_on_references(spec, monkeypatch):
    def missing(name):
        raise DynError(f"libdyndeploy_{name}.so is not part of this installation.")

    case = cases(spec)[0]
    tensors, exact = drawn(case)
    monkeypatch.setattr(library, "load", missing)
    Device.loads.cache_clear()
    Device.has.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="slow references"):
            y = case.run(*tensors)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            case.run(*tensors)  # it says so once
    finally:
        Device.loads.cache_clear()
        Device.has.cache_clear()
    assert relative_error(y, case.run(*exact)) < spec.tolerance["float32"]


def test_a_nan_stays_where_it_is_sampled():
    case = cases(custom_ops()[0])[0]
    tensors, _ = drawn(case, H=20, W=20)
    clean = case.run(*tensors)
    tensors[0][0, 1, 7, 9] = float("nan")
    y = case.run(*tensors)
    bad = y.isnan()
    assert bad[0].any()
    assert not bad[1].any()
    assert bad.float().mean() < 0.2
    assert torch.equal(y[~bad], clean[~bad])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38, -3e38, 2.0**31, -(2.0**31)])
def test_offsets_beyond_everything_reach_nothing(value):
    case = next(c for c in cases(custom_ops()[0]) if c.name == "padded")
    (x, offset_mask, weight, bias), _ = drawn(case, H=9, W=9)
    offset_mask[:, : offset_mask.shape[1] // 3 * 2] = value
    y = case.run(x, offset_mask, weight, bias)
    torch.testing.assert_close(y, bias[:, None, None].expand_as(y))
