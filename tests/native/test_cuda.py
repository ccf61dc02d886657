"""The CUDA kernels under the torch ops on a GPU, against the references in float64: run by `make test-gpu`.

Without a GPU, or without the library, every test here is an error.
"""

import pytest
import torch

import dyndeploy
from dyndeploy import native
from dyndeploy.ops._spec import custom_ops, spec_of
from dyndeploy.testing.cases import Case, cases

pytestmark = pytest.mark.gpu

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EVERY = [case for spec in custom_ops() for case in cases(spec)]
#: The operators that have CUDA kernels; the others run on their references.
COMPILED = ("dcnv2", "ddf", "drconv", "drconv_mix", "dgc")

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_op = pytest.mark.parametrize("spec", [spec_of(folder) for folder in COMPILED], ids=lambda s: s.key)


@pytest.fixture(autouse=True)
def _on_a_gpu(exact_float32):
    if not torch.cuda.is_available():
        pytest.fail("torch sees no GPU: these tests need one.")
    dyndeploy.library_path("cuda")


def drawn(case, dtype=torch.float32, device="cuda", seed=0, **sizes):
    return [torch.from_numpy(a).to(device, dtype) for a in case.draw(seed, "float64", **sizes).values()]


@each_dtype
@pytest.mark.parametrize("case", EVERY, ids=lambda case: f"{case.spec.key}-{case}")
def test_forward(case, dtype, compute, counted):
    for channels_last in (False, True):
        _, error = compute(case, DTYPES[dtype], channels_last=channels_last, device="cuda", H=19, W=23)
        assert error < case.spec.tolerance[dtype]
    assert [call._device.kind for call in counted] == ["cuda"] * (2 * (case.spec.folder in COMPILED))


@each_dtype
@each_op
@pytest.mark.parametrize("channels", [8, 24, 64, 72, 256])
def test_channels_as_networks_have_them(spec, channels, dtype, compute, counted):
    """Whole tiles, and tails of them; maps that are larger than one tile."""
    case = Case.of(spec, pads=(1, 1, 1, 1), C=channels, O=channels, N=2, H=29, W=37)
    for channels_last in (False, True):
        _, error = compute(case, DTYPES[dtype], channels_last=channels_last, device="cuda")
        assert error < spec.tolerance[dtype]
    assert len(counted) == 2


def test_half_coordinates_would_not_do(compute, error_of_half_coordinates):
    """float16 has no fractions beyond column 1024, and no odd columns beyond 2048."""
    case = Case.of(spec_of("dcnv2"), pads=(1, 1, 1, 1), N=1, C=16, O=16, H=64, W=2048)
    limit = case.spec.tolerance["float16"]
    for channels_last in (False, True):
        _, error = compute(case, torch.float16, channels_last=channels_last, device="cuda")
        assert error < limit
    assert error_of_half_coordinates(case) > 20 * limit


def test_tf32_follows_torch(compute, float32_products):
    case = Case.of(spec_of("dcnv2"), pads=(1, 1, 1, 1), N=1, C=64, O=64, H=20, W=30)
    _, error = compute(case, torch.float32, device="cuda")
    float32_products("tf32")
    _, rounded = compute(case, torch.float32, device="cuda")
    assert error < case.spec.tolerance["float32"] < rounded < case.spec.tolerance["float16"]


@each_op
def test_repeats_are_bit_identical(spec):
    case = Case.of(spec, pads=(1, 1, 1, 1), N=3, C=64, O=64, H=40, W=37)
    for dtype in DTYPES.values():
        tensors = drawn(case, dtype)
        first = case.run(*tensors)
        assert all(torch.equal(first, case.run(*tensors)) for _ in range(20))


@each_op
def test_empty_and_smallest_maps(spec, compute):
    case = next(c for c in cases(spec) if c.name == "padded")
    for sizes in ({"H": 1, "W": 1}, {"N": 0}, {"H": 1, "W": 40}, {"H": 40, "W": 1}):
        for channels_last in (False, True):
            _, error = compute(case, torch.float32, channels_last=channels_last, device="cuda", **sizes)
            assert error < spec.tolerance["float32"]


@each_op
def test_slices_are_read_where_they_lie(spec, spread):
    case = cases(spec)[1]
    tensors = drawn(case)
    truth = case.run(*(t.double().cpu() for t in tensors))
    for axis in range(4):
        y = case.run(*(spread(t, axis) for t in tensors)).double().cpu()
        assert (y - truth).norm() < spec.tolerance["float32"] * truth.norm()


@each_op
def test_autocast(spec, counted):
    case = cases(spec)[0]
    tensors = drawn(case)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype):
            y = case.run(*tensors)
        assert y.dtype is dtype
        assert torch.equal(y, case.run(*(t.to(dtype) for t in tensors)))
    assert len(counted) == 4


@each_op
def test_a_stream_of_its_own(spec):
    """The inputs arrive late on that stream: a kernel on another one would read what was there before."""
    case = Case.of(spec, pads=(1, 1, 1, 1), C=32, O=32, H=40, W=40)
    tensors = drawn(case)
    expected = case.run(*tensors)
    late = [torch.zeros_like(t) for t in tensors]
    case.run(*late)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        case.run(*late)  # the stream's memory: to get it may wait for the GPU
        torch.cuda._sleep(100_000_000)
        for to, t in zip(late, tensors):
            to.copy_(t)
        y = case.run(*late)
        assert not stream.query(), "the call waited for the GPU"
    stream.synchronize()
    assert torch.equal(y, expected)


@each_dtype
@each_op
def test_capture_and_replay(spec, dtype):
    case = Case.of(spec, pads=(1, 1, 1, 1), C=32, O=32, H=20, W=21)
    static = drawn(case, DTYPES[dtype])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        case.run(*static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = case.run(*static)
    for seed in (1, 2, 3):
        tensors = drawn(case, DTYPES[dtype], seed=seed)
        for to, t in zip(static, tensors):
            to.copy_(t)
        y.fill_(float("nan"))
        graph.replay()
        assert torch.equal(y, case.run(*tensors))


@pytest.mark.filterwarnings("default")  # torch's compiler has its own to say
@each_op
def test_compiled_with_graph_trees(spec, counted):
    case = Case.of(spec, pads=(1, 1, 1, 1), C=32, O=32, H=20, W=21)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    @torch.compile(fullgraph=True, mode="reduce-overhead")
    def network(x, *others):
        return 2 * case.run(x.relu(), *others)

    with torch.inference_mode():
        for seed in range(5):
            torch.compiler.cudagraph_mark_step_begin()
            x, *others = drawn(case, torch.float16, seed=seed)
            y = network(x, *others).clone()
            assert torch.equal(y, 2 * case.run(x.relu(), *others))
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0
    # Five eager ones, and fewer than five compiled ones: the last were replays.
    assert 5 < len(counted) < 10


@each_op
def test_a_second_device(spec):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    case = cases(spec)[0]
    expected = case.run(*drawn(case, device="cuda:0"))
    assert torch.cuda.current_device() == 0
    y = case.run(*drawn(case, device="cuda:1"))
    assert y.device.index == 1
    assert torch.equal(y.cpu(), expected.cpu())


@each_dtype
@pytest.mark.parametrize("case", [c for c in EVERY if c.spec.folder in COMPILED], ids=lambda c: f"{c.spec.key}-{c}")
def test_gradients(case, dtype, learn, counted):
    for channels_last in (False, True):
        _, errors = learn(case, DTYPES[dtype], channels_last=channels_last, device="cuda", H=19, W=23)
        assert max(errors) < 4 * case.spec.tolerance[dtype]
    assert [call._device.kind for call in counted] == ["cuda"] * 4


@each_dtype
@each_op
@pytest.mark.parametrize("channels", [24, 64, 256])
def test_gradients_of_channels_as_networks_have_them(spec, channels, dtype, learn):
    case = Case.of(spec, pads=(1, 1, 1, 1), C=channels, O=channels, N=2, H=29, W=37)
    for channels_last in (False, True):
        _, errors = learn(case, DTYPES[dtype], channels_last=channels_last, device="cuda")
        assert max(errors) < 4 * spec.tolerance[dtype]


@each_op
def test_repeated_gradients(spec, learn):
    """The same bits, but for the gradient of DCNv2's x: its samples are added as they come."""
    case = Case.of(spec, pads=(1, 1, 1, 1), N=3, C=64, O=64, H=20, W=19)
    for dtype in DTYPES.values():
        first, _ = learn(case, dtype, device="cuda")
        for _ in range(5):
            again, _ = learn(case, dtype, device="cuda")
            same = [torch.equal(a, b) for a, b in zip(first, again)]
            assert all(same[1:] if spec.folder == "dcnv2" else same)


@each_op
def test_training_under_autocast(spec, counted):
    """Forward and backward in half, gradients in float32 of leaves in float32, with a scaled loss."""
    case = Case.of(spec, pads=(1, 1, 1, 1), C=32, O=32, N=2, H=20, W=21)
    leaves = [t.requires_grad_() for t in drawn(case)]
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype):
            y = case.run(*leaves)
        gradients = torch.autograd.grad(128 * y.float().mean(), leaves)
        assert all(g.dtype is torch.float32 and g.isfinite().all() for g in gradients)
    assert len(counted) == 4


@each_op
def test_a_disabled_forward_has_no_kernels_in_its_backward(spec, counted):
    """autograd computes the gradients in a thread of its own."""
    leaves = [t.requires_grad_() for t in drawn(cases(spec)[1])]
    with native.disabled():
        y = cases(spec)[1].run(*leaves)
    y.sum().backward()
    assert counted == []


def test_float64_runs_on_the_reference(compute, counted):
    for spec in custom_ops():
        assert compute(cases(spec)[0], torch.float64, device="cuda")[1] < spec.tolerance["float64"]
    assert counted == []


def test_a_nan_stays_where_it_is_sampled():
    case = Case.of(spec_of("dcnv2"), pads=(1, 1, 1, 1), N=2, C=16, O=16, H=20, W=20)
    for dtype in DTYPES.values():
        tensors = drawn(case, dtype)
        clean = case.run(*tensors)
        tensors[0][0, 1, 7, 9] = float("nan")
        y = case.run(*tensors)
        bad = y.isnan()
        assert bad[0].any()
        assert not bad[1].any()
        assert bad.float().mean() < 0.2
        assert torch.equal(y[~bad], clean[~bad])
