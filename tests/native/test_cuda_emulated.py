"""The CUDA kernels under the torch ops without a GPU: the emulator computes them, all before them is as it ships.

plugins/tests has the odd shapes and the sanitizers; here is what Python adds: cases, dtypes, layouts, settings.
"""

import pytest
import torch

from dyndeploy import native
from dyndeploy.errors import DynError
from dyndeploy.native import kernels, library
from dyndeploy.ops._spec import spec_of
from dyndeploy.testing.cases import Case, cases

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COMPILED = ("dcnv2", "ddf", "drconv", "drconv_mix", "dgc")
EVERY = [case for folder in COMPILED for case in cases(spec_of(folder))]

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_op = pytest.mark.parametrize("spec", [spec_of(folder) for folder in COMPILED], ids=lambda s: s.key)


@pytest.fixture
def on_emulator(emulated, exact_float32):
    with library.emulating(emulated):
        yield


@each_dtype
@pytest.mark.parametrize("case", EVERY, ids=lambda case: f"{case.spec.key}-{case}")
def test_forward(case, dtype, on_emulator, compute, counted):
    for channels_last in (False, True):
        _, error = compute(case, DTYPES[dtype], channels_last=channels_last)
        assert error < case.spec.tolerance[dtype]
    assert len(counted) == 2
    assert all(call._device.kind == "cuda" for call in counted)


@each_op
def test_repeats_are_bit_identical(spec, on_emulator, compute):
    case = cases(spec)[1]
    assert torch.equal(compute(case, torch.float16)[0], compute(case, torch.float16)[0])


@each_op
def test_empty_and_smallest_maps(spec, on_emulator, compute):
    case = next(c for c in cases(spec) if c.name == "padded")
    for sizes in ({"H": 1, "W": 1}, {"N": 0}, {"H": 1, "W": 40}, {"H": 40, "W": 1}):
        for channels_last in (False, True):
            assert compute(case, torch.float16, channels_last=channels_last, **sizes)[1] < spec.tolerance["float16"]


@each_op
def test_slices_are_read_where_they_lie(spec, on_emulator, spread):
    case = cases(spec)[1]
    tensors = [torch.from_numpy(a).float() for a in case.draw().values()]
    truth = case.run(*(t.double() for t in tensors))
    for axis in range(4):
        y = case.run(*(spread(t, axis) for t in tensors)).double()
        assert (y - truth).norm() < spec.tolerance["float32"] * truth.norm()


@each_dtype
@pytest.mark.parametrize("case", EVERY, ids=lambda case: f"{case.spec.key}-{case}")
def test_gradients(case, dtype, on_emulator, learn, counted):
    for channels_last in (False, True):
        _, errors = learn(case, DTYPES[dtype], channels_last=channels_last, N=1, H=5, W=6)
        assert max(errors) < 4 * case.spec.tolerance[dtype]
    assert [call._device.kind for call in counted] == ["cuda"] * 4


@each_op
def test_layers_train_under_autocast(spec, on_emulator, counted):
    """Gradients in float32 of parameters in float32, through kernels in half."""
    case = cases(spec)[0]
    leaves = [torch.from_numpy(a).float().requires_grad_() for a in case.draw(H=5, W=5, N=1).values()]
    expected = torch.autograd.grad(case.run(*leaves).square().sum(), leaves)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            y = case.run(*leaves)
        gradients = torch.autograd.grad(y.float().square().sum(), leaves)
        for got, wanted in zip(gradients, expected):
            assert got.dtype is torch.float32
            assert (got - wanted).norm() < 0.1 * wanted.norm().clamp_min(1)
    assert len(counted) == 6


@pytest.fixture
def deterministic():
    """Switches torch.use_deterministic_algorithms, for one test."""
    yield torch.use_deterministic_algorithms
    torch.use_deterministic_algorithms(False)


def test_a_gradient_in_no_order_is_not_given_for_one_in_order(on_emulator, deterministic):
    case = cases(spec_of("dcnv2"))[0]
    x, *others = [torch.from_numpy(a).float() for a in case.draw(H=5, W=5, N=1).values()]
    deterministic(True)
    (weight_alone,) = torch.autograd.grad(
        case.run(x, others[0], others[1].requires_grad_(), others[2]).sum(), others[1]
    )
    assert weight_alone.isfinite().all()
    y = case.run(x.requires_grad_(), *others).sum()
    with pytest.raises(DynError, match="the gradient of x is not the same in every run"):
        y.backward(retain_graph=True)
    deterministic(True, warn_only=True)
    with pytest.warns(UserWarning, match="the gradient of x is not the same in every run"):
        y.backward()


def test_tf32_follows_torch(on_emulator, compute, counted, float32_products):
    """TF32 rounds the factors: the error is larger than that of float32, and no larger than that of float16."""
    case = Case.of(spec_of("dcnv2"), N=1, C=16, O=16, H=6, W=5, pads=(1, 1, 1, 1))
    exact, error = compute(case, torch.float32)
    float32_products("tf32")
    rounded, rounded_error = compute(case, torch.float32)
    compute(case, torch.float16)
    assert [call._setting for call in counted] == [(False,), (True,), (False,)]
    assert error < case.spec.tolerance["float32"] < rounded_error < case.spec.tolerance["float16"]
    assert not torch.equal(exact, rounded)


@each_op
def test_a_refusal_names_the_operator(spec, on_emulator):
    """Past the checks of the op, to those of the library."""
    case = cases(spec)[0]
    tensors = [torch.from_numpy(a).float() for a in case.draw(H=5, W=5).values()]
    y = case.run(*tensors)
    values = tuple(case.keywords.values())
    expected = (
        rf"{spec.label}: the native kernel refuses the call\.\n  why: .*dim . of (B|channel_gain|filters|banks) is"
    )
    with pytest.raises(DynError, match=expected):
        kernels.forward(spec, [*tensors[:-1], tensors[-1][:-1]], values, y)


def test_half_coordinates_would_not_do(on_emulator, compute, error_of_half_coordinates):
    """float16 has no fractions beyond column 1024, and no odd columns beyond 2048."""
    case = Case.of(spec_of("dcnv2"), pads=(1, 1, 1, 1), N=1, C=8, O=8, H=1, W=2048)
    limit = case.spec.tolerance["float16"]
    for channels_last in (False, True):
        assert compute(case, torch.float16, channels_last=channels_last)[1] < limit
    with native.disabled():
        assert error_of_half_coordinates(case) > 20 * limit


def test_outside_of_its_block_the_cpu_kernels_compute(emulated, counted, compute):
    case = cases(spec_of("ddf"))[0]
    with library.emulating(emulated):
        compute(case, torch.float32)
    compute(case, torch.float32)
    assert [call._device.kind for call in counted] == ["cuda", "cpu"]
