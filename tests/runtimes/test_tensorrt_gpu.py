"""Sessions of TensorRT on a GPU, where one of its packages is; `make test-gpu` runs them.

Without a GPU they are errors. A package that is not installed, or does not support the GPU, is skipped.
"""

import threading

import numpy as np
import pytest
import torch
from torch import nn

import dyndeploy
from dyndeploy.cuda import open_device
from dyndeploy.nn import DDF, DGConv2d, DRConv2d, ModulatedDeformConv2d
from dyndeploy.pipeline.build import build
from dyndeploy.runtimes import open_session
from dyndeploy.tensorrt.fit import supported
from dyndeploy.tensorrt.vendor import TARGETS

pytestmark = pytest.mark.gpu
PRECISIONS = ["fp32", "fp16", "bf16"]


class Network(nn.Module):
    """All four plugins between layers of TensorRT's own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.bend = ModulatedDeformConv2d(16, 16, 3, padding=1)
        self.filter = DDF(16)
        self.region = DRConv2d(16, 16, 3, padding=1, regions=3)
        self.select = DGConv2d(16, 16, 3, padding=1, heads=2, squeeze=2, keep=0.5)
        self.head = nn.Conv2d(16, 8, 1)

    def forward(self, image):
        x = torch.relu(self.stem(image))
        return self.head(self.select(self.region(self.filter(self.bend(x)))))


@pytest.fixture(scope="module", params=sorted(TARGETS))
def target(request):
    module = pytest.importorskip(TARGETS[request.param].package)
    gpu = open_device()
    capability = "{}.{}".format(*gpu.compute_capability)
    if supported(module) and capability not in supported(module):
        pytest.skip(f"{request.param} does not support {gpu.name}")
    return request.param


@pytest.fixture(scope="module", params=PRECISIONS)
def bundle(request, target, tmp_path_factory):
    torch.manual_seed(0)
    network = Network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.2)
    made = dyndeploy.export(
        network,
        torch.rand(1, 3, 16, 24),
        tmp_path_factory.mktemp("gpu") / "four",
        inputs={"image": ["batch", 3, "height", "width"]},
        dims={"batch": (1, 2, 4), "height": (16, 16, 32), "width": (16, 24, 32)},
        precision=request.param,
    )
    build(made, target)
    return made


def image(batch=2, height=16, width=24, seed=0):
    return np.random.default_rng(seed).random((batch, 3, height, width), np.float32)


def test_the_verdict(bundle, target):
    result = dyndeploy.check(bundle, runtimes=[target], bisect=True)
    assert result.ok, result.model_dump_json(indent=1)


@pytest.mark.parametrize("how", ["plugins inside", "bodies"])
def test_the_verdict_of_other_engines(bundle, target, how):
    build(bundle, target, **({"embed_plugins": True} if how == "plugins inside" else {"plugins": False}))
    try:
        assert dyndeploy.check(bundle, runtimes=[target]).ok
    finally:
        build(bundle, target)


def test_graphs_give_what_runs_without_them_give(bundle, target):
    with open_session(bundle, target, graphs=0) as plain, open_session(bundle, target, graphs=2) as session:
        for step in range(12):
            arrays = {"image": image(batch=1 + step % 3, seed=step)}
            np.testing.assert_array_equal(session.run(arrays)["output"], plain.run(arrays)["output"])
        for step in range(6):
            arrays = {"image": image(seed=step)}
            np.testing.assert_array_equal(session.run(arrays)["output"], plain.run(arrays)["output"])
        assert session.statistics.captured >= 1, session.statistics
        assert session.statistics.replayed >= 4, session.statistics


def test_callers_at_once(bundle, target):
    with open_session(bundle, target) as alone:
        cases = [{"image": image(batch=1 + i % 4, width=16 + 8 * (i % 2), seed=i)} for i in range(8)]
        expected = [alone.run(arrays)["output"] for arrays in cases]
    wrong = []
    with open_session(bundle, target, contexts=3) as session:

        def call(index):
            for _ in range(10):
                if not np.array_equal(session.run(cases[index])["output"], expected[index]):
                    wrong.append(index)

        threads = [threading.Thread(target=call, args=(index,)) for index in range(len(cases))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_tensors_of_pytorch_without_a_copy(bundle, target):
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    arrays = {"image": image()}
    given = {"image": torch.from_numpy(arrays["image"]).cuda()}
    with open_session(bundle, target) as session:
        expected = session.run(arrays)["output"]
        made = torch.from_dlpack(session.run_device(given)["output"])
        np.testing.assert_array_equal(made.cpu().numpy(), expected)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            output = torch.zeros_like(made)
            for _ in range(4):
                given["image"].copy_(torch.from_numpy(arrays["image"]))
                session.run_device(given, outputs={"output": output}, stream=stream)
                seen = output.clone()
        stream.synchronize()
        np.testing.assert_array_equal(seen.cpu().numpy(), expected)
        assert session.statistics.replayed >= 1, session.statistics


def test_it_opens_and_closes_without_leaving_memory(bundle, target):
    """The second time the GPU has as much memory as the first."""
    from cuda.bindings import driver

    def free():
        _, amount, _ = driver.cuMemGetInfo()
        return amount

    left = []
    for _ in range(3):
        with open_session(bundle, target) as session:
            for _ in range(4):
                session.run({"image": image()})
        left.append(free())
    assert left[2] >= left[1] - (8 << 20)


def test_latency(bundle, target):
    result = dyndeploy.bench(bundle, [target], iterations=20, warmup=5)
    assert result.rows[0].median_ms > 0
