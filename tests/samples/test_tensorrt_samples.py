"""The samples around TensorRT, as far as they go without a GPU; and on one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dyndeploy
from dyndeploy.errors import DynError
from dyndeploy.nn import ModulatedDeformConv2d

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    return dyndeploy.export(
        ModulatedDeformConv2d(3, 8, 3, padding=1),
        torch.rand(1, 3, 16, 16),
        tmp_path_factory.mktemp("samples") / "bend",
        inputs={"image": ["batch", 3, 16, 16]},
        dims={"batch": (1, 2, 4)},
    )


def run(sample, *arguments, **options):
    command = [sys.executable, SAMPLES / sample, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


def test_polygraphy_builds_an_engine_with_our_plugins(bundle, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    try:
        dyndeploy.library_path("tensorrt")
    except DynError:
        pytest.skip("the library of plugins is built where there is an nvcc")
    engine = tmp_path / "bend.engine"
    done = run("tensorrt_polygraphy.py", "--rtx", "convert", bundle.path, "-o", engine, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    content = engine.read_bytes()
    assert b"ModulatedDeformConv2d" in content  # as a plugin: its name and its attributes are in the engine
    assert b"mask_scale" in content
    shapes = [f"--trt-{at}-shapes 'image:[{n},3,16,16]'" for at, n in (("min", 1), ("opt", 2), ("max", 4))]
    assert all(words in done.stdout for words in shapes)


def test_polygraphy_compares_what_runs_here(bundle, tmp_path):
    """With ONNX Runtime alone, on the bundle's golden inputs."""
    pytest.importorskip("tensorrt_rtx")
    done = run("tensorrt_polygraphy.py", "--rtx", "run", bundle.path, "--onnxrt", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "inputs.json" in done.stdout
    assert "PASSED" in done.stdout + done.stderr


@pytest.mark.parametrize("sample", ["tensorrt_zero_copy.py", "tensorrt_pycuda.py"])
def test_they_say_what_is_missing(sample, tmp_path):
    done = run(sample, tmp_path / "nowhere")
    assert done.returncode == 1
    assert "it is not a bundle" in done.stderr


@pytest.mark.gpu
def test_tensors_of_pytorch_on_a_gpu(bundle):
    from dyndeploy.pipeline.build import build

    build(bundle, "tensorrt")
    done = run("tensorrt_zero_copy.py", bundle.path, "--repeats", 5)
    assert done.returncode == 0, done.stderr
    assert "replayed=5" in done.stdout
