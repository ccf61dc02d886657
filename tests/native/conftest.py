"""What the tests of the kernels share, above all those of CUDA: on a GPU, and on the emulator."""

import fcntl
import math
import subprocess
from pathlib import Path

import pytest
import torch

from dyndeploy.native import kernels

ROOT = Path(__file__).parents[2]


@pytest.fixture
def counted(monkeypatch):
    """The calls that were made of compiled kernels."""
    calls = []
    call = kernels._Call.__call__
    monkeypatch.setattr(kernels._Call, "__call__", lambda self, tensors: (calls.append(self), call(self, tensors))[1])
    return calls


@pytest.fixture
def float32_products():
    """Chooses "ieee" or "tf32" for the float32 products of convolutions, for one test."""
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    yield lambda precision: setattr(conv, "fp32_precision", precision)
    conv.fp32_precision = before


@pytest.fixture
def exact_float32(float32_products):
    """No TF32, which is torch's default."""
    float32_products("ieee")


@pytest.fixture(scope="session")
def compute():
    """(case, dtype, …) -> the op's output, and its relative L2 error to float64, computed on the CPU."""

    def run(case, dtype, *, channels_last=False, device="cpu", seed=0, **sizes):
        tensors = [torch.from_numpy(a).to(dtype) for a in case.draw(seed, "float64", **sizes).values()]
        truth = case.run(*(t.double() for t in tensors))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        placed = [t.to(device, memory_format=layout if t.dim() == 4 else torch.preserve_format) for t in tensors]
        y = case.run(*placed)
        assert (y.shape, y.dtype, y.device) == (truth.shape, dtype, placed[0].device)
        assert y.numel() == 0 or y.is_contiguous(memory_format=layout)
        return y, ((y.double().cpu() - truth).norm() / truth.norm().clamp_min(1e-30)).item()

    return run


@pytest.fixture(scope="session")
def learn():
    """(case, dtype, …) -> the gradients of the op's inputs, and their relative L2 errors to float64, on the CPU."""

    def run(case, dtype, *, channels_last=False, device="cpu", seed=0, **sizes):
        tensors = [torch.from_numpy(a).to(dtype) for a in case.draw(seed, "float64", **sizes).values()]
        layout = torch.channels_last if channels_last else torch.contiguous_format

        def gradients(inputs):
            leaves = [t.detach().requires_grad_() for t in inputs]
            y = case.run(*leaves)
            direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
            return torch.autograd.grad(y, leaves, direction.to(y))

        truth = gradients([t.double() for t in tensors])
        got = gradients(
            [t.to(device, memory_format=layout if t.dim() == 4 else torch.preserve_format) for t in tensors]
        )
        # FilterNorm of two taps has no slope: what is left of its gradient is rounding, to be compared with the others.
        flat = case.attributes.get("filter_norm") and math.prod(case.attributes["kernel_shape"]) == 2
        least = max((1 if flat else 0.1) * max((t.norm().item() for t in truth), default=0), 1e-30)
        assert all(g.dtype is dtype for g in got)
        return got, [((g.double().cpu() - t).norm() / t.norm().clamp_min(least)).item() for g, t in zip(got, truth)]

    return run


@pytest.fixture(scope="session")
def spread():
    """(tensor, axis) -> the same numbers with NaN between them along that axis, or the last one."""

    def spread_tensor(tensor, axis):
        axis = min(axis, tensor.dim() - 1)
        shape = (*tensor.shape[:axis], 2 * tensor.shape[axis], *tensor.shape[axis + 1 :])
        view = tensor.new_full(shape, float("nan"))[(slice(None),) * axis + (slice(None, None, 2),)]
        return view.copy_(tensor)

    return spread_tensor


@pytest.fixture(scope="session")
def error_of_half_coordinates():
    """The relative error that DCNv2 has in float16 (3x3 taps, padding 1) when its sampling positions are float16."""

    def error(case, seed=0):
        tensors = [torch.from_numpy(a).half().double() for a in case.draw(seed, "float64").values()]
        truth = case.run(*tensors)
        n, _, height, width = truth.shape
        offsets = tensors[1][:, :18].view(n, 9, 2, height, width)
        for tap in range(9):
            at = (torch.arange(height)[:, None] - 1 + tap // 3, torch.arange(width)[None] - 1 + tap % 3)
            for axis in range(2):
                position = at[axis].half() + offsets[:, tap, axis].half()
                offsets[:, tap, axis] = position.double() - at[axis]
        return ((case.run(*tensors) - truth).norm() / truth.norm()).item()

    return error


@pytest.fixture(scope="session")
def emulated():
    """libdyndeploy_cuda_emulated: built here, once for all workers of a test run."""
    folder = ROOT / "build" / "emulated"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run("cmake", "-S", ROOT / "plugins", "-B", folder, "-DDYNDEPLOY_EMULATOR=ON", "-DDYNDEPLOY_CUDA=OFF")
        _run("cmake", "--build", folder, "--target", "dyndeploy_cuda_emulated", "--parallel", "2")
    (library,) = folder.rglob("libdyndeploy_cuda_emulated.so")
    return library


def _run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
