"""The compiled libraries: where they lie, what they say of themselves, and what the C side and the OpSpec agree on."""

import ctypes
import re
from pathlib import Path

import pytest
import torch

import dyndeploy
from dyndeploy import native
from dyndeploy.errors import DynError
from dyndeploy.native import abi, kernels, library
from dyndeploy.ops._spec import custom_ops
from dyndeploy.testing.cases import cases, grid

PLUGINS = Path(__file__).parents[2] / "plugins"
each_op = pytest.mark.parametrize("spec", custom_ops(), ids=lambda s: s.key)


@pytest.mark.parametrize("name", ["cpu", "onnxruntime"])
def test_library_path(name):
    path = dyndeploy.library_path(name)
    assert path.is_file()
    assert path.read_bytes()[:4] == b"\x7fELF"


def test_unknown_library():
    with pytest.raises(DynError, match=r"There is no library 'cudnn'"):
        dyndeploy.library_path("cudnn")


def test_missing_library(monkeypatch, tmp_path):
    monkeypatch.setattr(dyndeploy, "__path__", [str(tmp_path)])
    for name, compiler in {"cpu": "clang", "cuda": "nvcc", "tensorrt": "nvcc"}.items():
        with pytest.raises(DynError, match=rf"not part of this installation[^$]*{compiler}[^$]*pip install"):
            dyndeploy.library_path(name)


def test_the_best_instruction_set_is_taken():
    flags = Path("/proc/cpuinfo").read_text().split()
    best = "avx512" if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags) else "avx2"
    assert native.instructions() == (best if {"avx2", "fma"} <= set(flags) else "portable")


def test_using_another_one():
    before = native.instructions()
    with native.using("portable"):
        assert native.instructions() == "portable"
    assert native.instructions() == before
    with pytest.raises(DynError, match=r"no instruction set 'sse9'"), native.using("sse9"):
        pass
    assert native.instructions() == before


def test_disabled_is_for_its_block_only():
    x, spec = torch.zeros(1), custom_ops()[0]
    assert kernels.available(spec, "forward", x)
    with native.disabled():
        assert not kernels.available(spec, "forward", x)
    assert kernels.available(spec, "forward", x)
    assert not kernels.available(spec, "forward", x.double())
    assert not kernels.available(spec, "forward", x.to("meta"))
    assert not kernels.available(spec, "sideways", x)


def test_exports_nothing_but_the_abi():
    """Symbols of the C++ runtime inside would be taken for the process's own."""
    names = exported(dyndeploy.library_path("cpu"))
    assert names
    assert all(name.startswith("dyndeploy_") for name in names)
    assert exported(dyndeploy.library_path("onnxruntime")) == {"RegisterCustomOps"}


def test_the_cuda_library_exports_the_abi_and_says_what_it_is_for():
    """Where it was compiled; its kernels are tested on a GPU."""
    try:
        path = dyndeploy.library_path("cuda")
    except DynError as error:
        pytest.skip(str(error))
    names = exported(path)
    assert {"dyndeploy_dcnv2_cuda_forward", "dyndeploy_ddf_cuda_forward", "dyndeploy_message"} <= names
    assert all(name.startswith("dyndeploy_") for name in names)
    architectures = library.load("cuda").dyndeploy_cuda_architectures
    architectures.restype = ctypes.c_char_p
    assert re.fullmatch(r"\d+\w?(-real|-virtual)?( \d+\w?(-real|-virtual)?)*", architectures().decode())


def exported(path):
    import subprocess

    listing = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].partition("@")[0] for line in listing.splitlines() if line.split()[-2] in "TWVBDR"}


# --- the C side and the OpSpec


def c_fields(spec):
    """(type, name, length) of the fields of the operator's attribute struct, as kernels.h declares them."""
    text = (PLUGINS / spec.folder / "kernels.h").read_text(encoding="utf-8")
    body = re.search(rf"typedef struct dyndeploy_{spec.folder} \{{(.*?)\}}", text, re.DOTALL)[1]
    return re.findall(r"(\w+) (\w+)(?:\[(\d+)\])?;", body)


@each_op
def test_attribute_struct(spec):
    types = {"int": "int64_t", "ints": "int64_t", "float": "float"}
    expected = [(types[a.type], a.name, str(a.length) if a.type == "ints" else "") for a in spec.attributes]
    assert c_fields(spec) == [("uint64_t", "size", ""), *expected]


def described(shapes, dtype=abi.FLOAT32):
    tensors = (abi.Tensor * len(shapes))()
    for tensor, shape in zip(tensors, shapes):
        tensor.rank, tensor.dtype = len(shape), dtype
        tensor.extents[: len(shape)] = shape
        tensor.strides[: len(shape)] = torch.empty(shape, device="meta").stride()
    return tensors


def native_shape(spec, attributes, shapes):
    extents = (ctypes.c_int64 * 4)()
    struct = abi.attributes(spec, [attributes[a.name] for a in spec.attributes])
    output = getattr(library.load(), f"dyndeploy_{spec.folder}_{spec.with_variant('output')}")
    library.check_status(spec.label, output(ctypes.byref(struct), described(shapes), extents))
    return tuple(extents)


@each_op
def test_shape_rule(spec):
    for case in [*grid(spec), *cases(spec)]:
        shapes = case.shapes()
        assert native_shape(spec, case.attributes, shapes) == spec.output_shape(shapes, case.attributes)


@each_op
def test_shape_rule_refuses_what_the_spec_refuses(spec):
    """Every dim of every input one off, one dim less, and every attribute out of its range."""
    case = next(c for c in cases(spec) if c.name == "relu")
    shapes = case.shapes()
    refused = 0
    for index, shape in enumerate(shapes):
        for axis in range(len(shape)):
            changed = [list(s) for s in shapes]
            changed[index][axis] += 1
            refused += both_refuse(spec, case.attributes, changed)
        both_refuse(spec, case.attributes, [s if i != index else s[:-1] for i, s in enumerate(shapes)])
    assert refused > len(shapes)
    for attribute in spec.attributes:
        for value in (attribute.low - 1, attribute.high + 1):
            if abs(value) != float("inf"):
                wrong = (int(value),) * attribute.length if attribute.type == "ints" else int(value)
                assert both_refuse(spec, {**case.attributes, attribute.name: wrong}, shapes)


def both_refuse(spec, attributes, shapes):
    try:
        shape = spec.output_shape(shapes, attributes)
    except DynError:
        with pytest.raises(DynError, match=spec.label):
            native_shape(spec, attributes, shapes)
        return True
    assert native_shape(spec, attributes, shapes) == shape
    return False
