"""A bundle with an engine for a fake TensorRT on a fake GPU."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import dyndeploy.cuda
from dyndeploy.bundle import ONNX, Bundle, Manifest, file_digest
from dyndeploy.runtimes import open_session
from dyndeploy.tensorrt import fit, record, vendor
from dyndeploy.tensors import Dim, TensorSpec

FAKES = Path(__file__).parents[1] / "tensorrt"
DIMS = {"batch": Dim(min=1, opt=2, max=8), "width": Dim(min=2, opt=4, max=64)}
PROFILE = [[-1, 3, -1], [1, 3, 2], [2, 3, 4], [8, 3, 64]]


def _fake(name):
    spec = importlib.util.spec_from_file_location(name, FAKES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake_cuda, fake_vendor = _fake("fake_cuda"), _fake("fake_vendor")


class World:
    """A bundle, a GPU, a vendor's package.

    Attributes:
        bundle: its input is x [batch, 3, width], its outputs y = 2 x + 1 and s [batch], the sums of y.
        device: the GPU.
        module: the package.
        plugins: the library of plugins of this installation.
    """

    def __init__(self, monkeypatch, folder, target):
        self.target, self.folder, self._patch = target, folder, monkeypatch
        self.device = fake_cuda.Device()
        self.fate = self.device.fate
        self.version = "1.7.1.116" if target == "tensorrt-rtx" else "11.4.0.106"
        self.module = fake_vendor.module(self.device, rtx=target == "tensorrt-rtx", version=self.version)
        known = vendor.TARGETS[target]
        monkeypatch.setitem(vendor.TARGETS, target, dataclasses.replace(known, package="fake_tensorrt"))
        monkeypatch.setitem(sys.modules, "fake_tensorrt", self.module)
        monkeypatch.setattr(dyndeploy.cuda, "open_device", self._open_device)
        monkeypatch.setenv("DYNDEPLOY_CACHE_DIR", str(folder / "cache"))
        self.plugins = folder / "libdyndeploy_trt.so"
        self.plugins.write_bytes(b"plugins")
        monkeypatch.setattr(fit, "library_path", lambda name: self.plugins)
        self.bundle = self._bundle()
        self.build()

    def _open_device(self, index, extra):
        assert extra == self.target
        self.device.index = index
        return self.device

    def _bundle(self):
        path = self.folder / "twice"
        path.mkdir()
        (path / ONNX).write_bytes(b"the model")
        specs = [
            TensorSpec(name="x", shape=("batch", 3, "width")),
            TensorSpec(name="y", shape=("batch", 3, "width")),
            TensorSpec(name="s", shape=("batch",)),
        ]
        manifest = Manifest(
            created="2026-01-01T00:00:00+00:00", versions={}, precision="fp32", io_precision="fp32", body="standard",
            dims=DIMS, inputs=specs[:1], outputs=specs[1:], ops=[], nodes={}, kept_fp32=[], seed=0, goldens=[],
            files={ONNX: file_digest(path / ONNX)},
        )  # fmt: skip
        bundle = Bundle(path, manifest)
        bundle.save_manifest()
        return Bundle.open(path)

    def build(self, content=None, **changes):
        """Put an engine into the bundle; its record says what is true, but for `changes`."""
        if content is None:
            content = fake_vendor.engine({"x": PROFILE}, ("y", "s"))
        folder = self.bundle.path / "engines" / self.target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "engine").write_bytes(content)
        tensors = [("x", "input", (-1, 3, -1)), ("y", "output", (-1, 3, -1)), ("s", "output", (-1,))]
        made = record.EngineRecord(
            target=self.target, file="engine", bytes=len(content), sha256=file_digest(folder / "engine"),
            created="2026-01-01T00:00:00+00:00", onnx_sha256=file_digest(self.bundle.onnx_path), precision="fp32",
            io_precision="fp32", body="standard", runtime=record.Runtime(package="fake_tensorrt", version=self.version),
            plugin_sha256=None, plugins_embedded=False, gpus=(record.Gpu(compute_capability="8.9"),), dims=DIMS,
            profiles=({"x": tuple(map(tuple, PROFILE[1:]))},),
            tensors=tuple(record.EngineTensor(name=n, mode=m, dtype="float32", shape=s) for n, m, s in tensors), ops=(),
            config={}, seconds=0.1, key="", key_parts={},
        )  # fmt: skip
        made.model_copy(update=changes).save(folder)

    def open(self, **options):
        """Open the bundle."""
        return open_session(self.bundle, self.target, **options)

    def alive(self):
        """What is still there on the GPU."""
        return [*self.device.blocks.values(), *self.device.streams.values(), *self.device.graphs]


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A World for TensorRT."""
    return World(monkeypatch, tmp_path, "tensorrt")


@pytest.fixture
def rtx_world(monkeypatch, tmp_path):
    """A World for TensorRT for RTX."""
    return World(monkeypatch, tmp_path, "tensorrt-rtx")


@pytest.fixture
def fakes():
    """The modules of the fakes."""
    return SimpleNamespace(cuda=fake_cuda, vendor=fake_vendor)
