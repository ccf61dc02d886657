"""`check --bisect`: a kernel that is wrong is found by swapping nodes for their bodies."""

import itertools
import sys
import types
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import dyndeploy.runtimes
from dyndeploy.bundle import Bundle
from dyndeploy.cli import app
from dyndeploy.demo import body_for
from dyndeploy.errors import DynError
from dyndeploy.graph.probe import with_choices, with_outputs
from dyndeploy.graph.swap_bodies import swap_bodies
from dyndeploy.native import library_path
from dyndeploy.nn import DDF, DGConv2d, ModulatedDeformConv2d
from dyndeploy.pipeline.check import _Check
from dyndeploy.pipeline.export import export
from dyndeploy.runtimes import open_session, register_runtime
from dyndeploy.runtimes.onnxruntime import OnnxRuntimeSession
from dyndeploy.testing.numeric import Verdict
from dyndeploy.verdict.bisect import bisect
from dyndeploy.verdict.opening import opener_of


@pytest.mark.parametrize("size", [1, 2, 3, 8, 13])
def test_every_pair_of_guilty_nodes_is_found(size):
    nodes = [f"node{i}" for i in range(size)]
    for wrong in itertools.combinations_with_replacement(nodes, 2):
        tried = []

        def passes(swapped, wrong=frozenset(wrong), tried=tried):
            tried.append(swapped)
            return wrong <= swapped

        found = bisect(nodes, passes)
        assert found.guilty == tuple(sorted(set(wrong), key=nodes.index))
        assert found.cured
        assert found.trials == len(tried) == len(set(tried))  # nothing is tried twice
        assert found.trials <= 2 + len(set(wrong)) * (size.bit_length() + 1)


def test_what_no_body_cures_is_no_kernels_fault():
    found = bisect(["a", "b"], lambda swapped: False)
    assert (found.guilty, found.cured, found.trials) == ((), False, 1)
    assert bisect([], lambda swapped: True).cured is False


class Network(nn.Module):
    """Four dynamic layers."""

    def __init__(self):
        super().__init__()
        self.first = DDF(4)
        self.bend = ModulatedDeformConv2d(4, 4, 3, padding=1)
        self.second = DDF(4)
        self.gate = DGConv2d(4, 4, 3, padding=1, heads=2, squeeze=2, keep=0.5)

    def forward(self, x):
        return self.gate(self.second(self.bend(x + self.first(x))))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    network = Network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.2)
    return export(
        network,
        torch.randn(2, 4, 6, 7),
        tmp_path_factory.mktemp("bisect") / "four",
        body=body_for(onnxruntime.__version__),
    )


@pytest.fixture
def faulty(monkeypatch):
    """A runtime whose kernels ignore an attribute of some nodes; their bodies do not."""
    wrong = []

    class Faulty(OnnxRuntimeSession):
        runtime = "faulty"

        @classmethod
        def open(cls, source):
            model = onnx.load(source.onnx_path) if isinstance(source, Bundle) else onnx.load_from_string(source)
            for node in model.graph.node:
                if node.name in wrong and node.op_type in ("DecoupledDynamicFilter", "ModulatedDeformConv2d"):
                    for attribute in node.attribute:
                        if attribute.name == "combine":
                            attribute.i = 1 - attribute.i
                        if attribute.name == "mask_scale":
                            attribute.f *= 1.5
            return cls._open(model.SerializeToString(), None, ["CPUExecutionProvider"], library_path("onnxruntime"))

    module = types.ModuleType("faulty_runtime")
    module.Faulty = Faulty
    monkeypatch.setitem(sys.modules, "faulty_runtime", module)
    monkeypatch.setattr(dyndeploy.runtimes, "_RUNTIMES", dict(dyndeploy.runtimes._RUNTIMES))
    register_runtime("faulty", "faulty_runtime:Faulty", package="faulty_runtime", extra="faulty")
    return wrong


@pytest.fixture(scope="module")
def judge(bundle):
    """Judges a runtime without loading model.pt2 again."""
    return _Check(bundle, ["min"], lambda line: None)


def test_the_wrong_kernels_are_named(bundle, faulty):
    """From the command line, two of four."""
    faulty += ["first", "bend"]
    done = CliRunner().invoke(app, ["check", str(bundle.path), "-r", "faulty", "--bisect"])
    assert done.exit_code == 1
    assert "bisect: the kernels of first, bend: it passes with the body instead" in done.stdout
    assert "models tried" in done.stdout
    assert "bodies of bend, first, gate, second" in done.stderr
    (kept,) = Bundle.open(bundle.path).manifest.check["runtimes"]
    assert kept["guilty_kernels"] == ["first", "bend"]


def test_the_wrong_kernel_is_named(judge, faulty):
    faulty.append("second")
    result = judge.runtime("faulty", "float32", bisect=True)
    assert result.verdict is Verdict.BROKEN
    assert result.bisection.guilty == ("second",)
    assert result.bisection.cured
    faulty.clear()
    result = judge.runtime("faulty", "float32", bisect=True)
    assert result.verdict.ok
    assert result.bisection is None


def test_bodies_that_do_not_run_are_told(judge, faulty, monkeypatch):
    faulty.append("bend")

    def no_bodies(bundle, runtime):
        @contextmanager
        def opened(model, bodies=()):
            if bodies:
                raise DynError("No bodies here.")
            with open_session(model, runtime) as session:
                yield session

        return opened

    monkeypatch.setattr("dyndeploy.pipeline.check.opener_of", no_bodies)
    found = judge.runtime("faulty", "float32", bisect=True).bisection
    assert (found.guilty, found.cured, found.failure) == ((), False, "No bodies here.")


def test_a_swapped_node_runs_by_its_body(bundle):
    """Bit for bit: some nodes by kernels and some by bodies are neither all of the one nor all of the other."""
    model = onnx.load(bundle.onnx_path)
    x = {"x": np.random.default_rng(0).standard_normal((2, 4, 6, 7)).astype(np.float32)}

    def outputs(nodes, runtime="onnxruntime"):
        with open_session(swap_bodies(model, nodes).SerializeToString(), runtime) as session:
            return session.run(x)["output"]

    everything = [n.name for n in model.graph.node if n.domain == "dyndeploy"]
    assert everything == ["first", "bend", "second", "gate"]
    bodies, kernels = outputs([], "onnxruntime-bodies"), outputs([])
    np.testing.assert_array_equal(outputs(everything), bodies)
    assert (kernels != bodies).any()
    some = outputs(["first", "second"])
    assert (some != kernels).any()
    assert (some != bodies).any()
    np.testing.assert_allclose(some, kernels, rtol=1e-4, atol=1e-4)


def test_only_nodes_of_ours_that_have_a_body_are_swapped(bundle):
    model = onnx.load(bundle.onnx_path)
    with pytest.raises(DynError, match="no dynamic node 'frist'") as caught:
        swap_bodies(model, ["frist"])
    assert caught.value.fix.startswith("first?")
    del model.functions[:]
    with pytest.raises(DynError, match="no function body for DecoupledDynamicFilter"):
        swap_bodies(model, ["first"])


def test_engines_are_built_with_the_swapped_nodes_from_bodies(bundle, monkeypatch):
    """Everything up to the GPU: a real engine for each, with inner values and decisions as outputs."""
    pytest.importorskip("tensorrt_rtx")
    from dyndeploy.pipeline.build import build
    from dyndeploy.tensorrt.record import find

    try:
        library_path("tensorrt")
    except DynError:
        pytest.skip("the library of plugins is built where there is an nvcc")
    opened = []

    @contextmanager
    def recorded(variant, runtime, **options):
        record = find(variant, runtime)
        opened.append(({op.name: op.how for op in record.ops}, [t.name for t in record.outputs], record))
        yield "session"

    monkeypatch.setattr("dyndeploy.verdict.opening.open_session", recorded)
    build(bundle, "tensorrt-rtx", gpus="ada")
    model = onnx.load(bundle.onnx_path)
    shown = with_outputs(with_choices(model, {"gate": "gate/choice"}), ["gate/choice"])
    opener = opener_of(bundle, "tensorrt-rtx")
    with opener(shown, ["bend", "second"]) as session:
        assert session == "session"
    hows, outputs, record = opened[0]
    assert hows == {"first": "plugin", "bend": "inlined", "second": "inlined", "gate": "plugin"}
    assert outputs == ["output", "gate/choice"]
    assert [str(g) for g in record.gpus] == ["sm_89"]
    assert find(bundle, "tensorrt-rtx").onnx_sha256 != record.onnx_sha256
