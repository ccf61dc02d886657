"""What nvcc makes of the CUDA kernels, of every operator, where there is an nvcc."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from dyndeploy.errors import DynError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
#: What the kernels on tensor cores are called, those of gradients too: spread, correlate.
PRODUCTS = ("convolve", "spread_gradient", "correlate")


def _load():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("cuda_report", BENCHMARKS / "cuda_report.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


cuda_report = _load()
needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc", path=cuda_report._search_path()) is None, reason="there is no nvcc on this machine"
)


@pytest.mark.long
@needs_nvcc
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("operator", cuda_report.operators())
def test_compiled_kernels(operator, architecture):
    """In one test: several processes share the tests, and each would compile anew."""
    kernels = cuda_report.compiled(operator, architecture)
    check_resources(kernels)
    check_instructions(kernels)


def check_resources(kernels):
    """Nothing is spilled, and tiles fit as they were made to."""
    for kernel in kernels:
        what = f"{kernel.operator}: {kernel.launch.name}"
        assert (kernel.spilled_bytes, kernel.stack_bytes, kernel.instructions["local"]) == (0, 0, 0), what
        assert kernel.registers * kernel.launch.threads <= 65536, what
        assert kernel.launch.shared_bytes <= 99 * 1024, what
        assert kernel.blocks >= kernel.launch.blocks, what


def check_instructions(kernels):
    """Products are on tensor cores, and vectors of sixteen bytes are moved."""
    products = [kernel for kernel in kernels if any(word in kernel.launch.name for word in PRODUCTS)]
    for kernel in products:
        on_tensor_cores = "float32" not in kernel.launch.name
        assert (kernel.instructions["mma"] > 0) == on_tensor_cores, kernel.launch.name
        # What is gathered, and what is copied behind the threads' backs: weights, filters.
        assert kernel.instructions["load 16"] > 0, kernel.launch.name
        assert kernel.instructions["copy 16"] > 0, kernel.launch.name
    assert products or kernels[0].operator == "ddf"


LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1kPf' for 'sm_90'
ptxas info    : Function properties for _Z1kPf
    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 28 registers, used 1 barriers
"""
CODE = """	.section	.text._Z1kPf,"ax",@progbits
.text._Z1kPf:
        /*0060*/                   LDG.E R0, desc[UR4][R8.64] ;
        /*00d0*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0140*/                   HMMA.16816.F32 R16, R20, R24, RZ ;
        /*0210*/                   LDGSTS.E.BYPASS.128 [R11], desc[UR4][R2.64] ;
        /*0300*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*0310*/                   STL [R1], R4 ;
"""


def test_the_compilers_words_are_read():
    assert dict(cuda_report._resources(LOG)) == {"_Z1kPf": (28, 8, 40)}
    expected = {"mma": 1, "load 16": 1, "copy 16": 1, "store 16": 1, "local": 1}
    assert dict(cuda_report._instructions(CODE)) == {"_Z1kPf": expected}


def test_occupancy_follows_the_scarcest_resource():
    def blocks(registers, threads, shared, architecture=90):
        launch = cuda_report.Launch("k", threads, shared, 1)
        return cuda_report.Kernel("op", launch, architecture, registers, 0, 0, {}).blocks

    assert blocks(32, 256, 0) == 8  # threads
    assert blocks(128, 256, 0) == 2  # registers
    assert blocks(255, 256, 0) == 1
    assert blocks(32, 128, 99 * 1024) == 2  # shared memory
    assert blocks(32, 128, 99 * 1024, 86) == 1


def test_without_a_compiler_it_says_what_to_type(monkeypatch):
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setattr(cuda_report, "_search_path", lambda: "")
    with pytest.raises(DynError, match="nvcc"):
        cuda_report.nvcc()
    with pytest.raises(DynError, match="nvidia-cuda-nvdisasm"):
        cuda_report.nvdisasm()
