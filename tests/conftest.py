"""Fixtures for all tests."""

import fcntl
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import onnxruntime
import pytest
import torch

import dyndeploy
from dyndeploy.demo import body_for
from dyndeploy.errors import DynError

ROOT = Path(__file__).parents[1]

_SCHEMA = (
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
    "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
    "SymInt offset_groups, bool use_mask) -> Tensor"
)


#: The kernel of the standard body of ModulatedDeformConv2d came with 1.25, for which Python 3.10 has no wheels.
HAS_DEFORM_CONV = body_for(onnxruntime.__version__) == "standard"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Where ONNX Runtime is too old for DeformConv, a test that fails for want of it is skipped, and says so."""
    try:
        yield
    except Exception as error:
        if not HAS_DEFORM_CONV and "DeformConv" in str(error):
            pytest.skip(f"onnxruntime {onnxruntime.__version__} has no DeformConv kernel; 1.25 has")
        raise


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def plugins():
    """libdyndeploy_trt of this installation, or, where there was no nvcc for it, the one with the emulator inside."""
    try:
        return dyndeploy.library_path("tensorrt")
    except DynError:
        pass
    folder = ROOT / "build" / "emulated"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run("cmake", "-S", ROOT / "plugins", "-B", folder, "-DDYNDEPLOY_EMULATOR=ON", "-DDYNDEPLOY_CUDA=OFF")
        _run("cmake", "--build", folder, "--target", "dyndeploy_trt_emulated", "--parallel", "2")
    (library,) = folder.rglob("libdyndeploy_trt_emulated.so")
    return library


def _run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def torchvision_op() -> Iterator[None]:
    """torch.ops.torchvision.deform_conv2d with torchvision's schema, computed by a plain loop over taps.

    torchvision's own wheel needs CUDA libraries; where it is installed, its op is the one that is used.
    """
    try:
        import torchvision  # noqa: F401

        yield
        return
    except (ImportError, RuntimeError):
        pass
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(_SCHEMA)
    library.impl("deform_conv2d", _deform_conv2d, "CPU")
    library.impl(
        "deform_conv2d", lambda x, w, offset, *_: x.new_empty(x.shape[0], w.shape[0], *offset.shape[2:]), "Meta"
    )
    yield
    library._destroy()


def _deform_conv2d(x, w, offset, mask, bias, sh, sw, ph, pw, dh, dw, groups, offset_groups, use_mask):
    n, _, height, width = x.shape
    kh, kw = w.shape[2:]
    ho, wo = offset.shape[2:]
    y = bias[None, :, None, None].expand(n, -1, ho, wo).clone()
    per_group, per_offset = x.shape[1] // groups, x.shape[1] // offset_groups
    for c in range(x.shape[1]):
        g, q = c // per_group, c // per_offset
        rows = slice(g * w.shape[0] // groups, (g + 1) * w.shape[0] // groups)
        for t in range(kh * kw):
            at = 2 * (q * kh * kw + t)
            v = torch.arange(ho)[:, None] * sh - ph + t // kw * dh + offset[:, at]
            u = torch.arange(wo) * sw - pw + t % kw * dw + offset[:, at + 1]
            grid = torch.stack([2 * (u + 1) / (width + 1) - 1, 2 * (v + 1) / (height + 1) - 1], dim=-1)
            padded = torch.nn.functional.pad(x[:, c : c + 1], (1, 1, 1, 1))
            value = torch.nn.functional.grid_sample(padded, grid, padding_mode="zeros", align_corners=True)[:, 0]
            if use_mask:
                value = value * mask[:, q * kh * kw + t]
            y[:, rows] += w[rows, c - g * per_group, t // kw, t % kw][None, :, None, None] * value[:, None]
    return y
