"""The compiled kernels in ONNX Runtime: they run, they are right, and plain onnxruntime can have them."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import dyndeploy
from dyndeploy.errors import DynError
from dyndeploy.ops._spec import custom_ops
from dyndeploy.runtimes import open_session
from dyndeploy.testing.cases import cases
from dyndeploy.testing.single_op import single_op_model

ROOT = Path(__file__).parents[2]
EVERY = [case for spec in custom_ops() for case in cases(spec)]
each_case = pytest.mark.parametrize("case", EVERY, ids=lambda c: f"{c.spec.key}-{c}")
each_op = pytest.mark.parametrize("spec", custom_ops(), ids=lambda s: s.key)


def relative_error(y, truth):
    return np.linalg.norm((y.astype(np.float64) - truth).ravel()) / max(np.linalg.norm(truth.ravel()), 1e-30)


def expected(case, feeds):
    return case.run(*(torch.from_numpy(a.astype(np.float64)) for a in feeds.values())).numpy()


def with_constant(model, name, array):
    """The model with one of its inputs as an initializer, as weights are."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (index,) = [i for i, value in enumerate(changed.graph.input) if value.name == name]
    del changed.graph.input[index]
    changed.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return changed


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@each_case
def test_numbers(case, dtype):
    model = single_op_model(case.spec, case.attributes, dtype)
    with open_session(model.SerializeToString()) as session:
        for seed, (n, height, width) in enumerate([(1, 7, 6), (3, 5, 9), (2, 12, 5)]):
            feeds = case.draw(seed, dtype, N=n, H=height, W=width)
            y = session.run(feeds)["Y"]
            assert y.dtype == feeds["X"].dtype
            assert relative_error(y, expected(case, feeds)) < case.spec.tolerance[dtype]


@each_case
def test_constant_weights_are_packed_and_give_the_same_bits(case):
    weights = [t.name for t in case.spec.inputs if t.name not in ("X", *case.spec.generated)]
    model = single_op_model(case.spec, case.attributes)
    feeds = case.draw(dtype="float32")
    with open_session(model.SerializeToString()) as session:
        plain = session.run(feeds)["Y"]
    for name in weights:
        model = with_constant(model, name, feeds.pop(name))
    with open_session(model.SerializeToString()) as session:
        assert np.array_equal(session.run(feeds)["Y"], plain)


def profiled(model, feeds, folder, *, kernels):
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    if kernels:
        options.register_custom_ops_library(str(dyndeploy.library_path("onnxruntime")))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    return {e["args"]["op_name"] for e in events if e.get("cat") == "Node" and "op_name" in e.get("args", {})}


@each_op
def test_the_kernel_takes_the_place_of_the_body(spec, tmp_path):
    case = cases(spec)[1]
    model, feeds = single_op_model(spec, case.attributes), case.draw(dtype="float32")
    assert profiled(model, feeds, tmp_path, kernels=True) == {spec.name}
    bodies = profiled(model, feeds, tmp_path, kernels=False)
    assert bodies
    assert spec.name not in bodies


@each_op
def test_bodies_on_demand(spec):
    case = cases(spec)[2]
    model, feeds = single_op_model(spec, case.attributes).SerializeToString(), case.draw(dtype="float32")
    with open_session(model, "onnxruntime-bodies") as bodies, open_session(model) as kernels:
        assert (bodies.runtime, kernels.runtime) == ("onnxruntime-bodies", "onnxruntime")
        one, other = bodies.run(feeds)["Y"], kernels.run(feeds)["Y"]
    assert relative_error(one, other.astype(np.float64)) < spec.tolerance["float32"]


@each_op
def test_threads_do_not_change_a_bit(spec):
    case = cases(spec)[2]
    model, feeds = single_op_model(spec, case.attributes).SerializeToString(), case.draw(dtype="float32", H=31, W=29)
    results = []
    for threads in (1, 2, 4):
        with open_session(model, threads=threads) as session:
            results.append(session.run(feeds)["Y"])
    assert all(np.array_equal(results[0], y) for y in results[1:])


@each_op
def test_one_session_serves_callers_side_by_side(spec):
    case = cases(spec)[2]
    feeds = [case.draw(seed, "float32", H=9 + seed, W=14) for seed in range(4)]
    with open_session(single_op_model(spec, case.attributes).SerializeToString()) as session:
        truth = [session.run(f)["Y"] for f in feeds]
        wrong = []

        def call(index):
            for _ in range(25):
                if not np.array_equal(session.run(feeds[index])["Y"], truth[index]):
                    wrong.append(index)

        callers = [threading.Thread(target=call, args=(index,)) for index in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert wrong == []


@each_op
def test_shapes_that_do_not_fit_are_refused_by_name(spec):
    case = cases(spec)[1]
    feeds = case.draw(dtype="float32")
    last = list(feeds)[-1]
    feeds[last] = np.concatenate([feeds[last], feeds[last][:1]])
    with open_session(single_op_model(spec, case.attributes).SerializeToString()) as session:
        with pytest.raises(DynError, match=rf"{spec.folder}: dim \d of ({'|'.join(feeds)}) is \d+, not \d+"):
            session.run(feeds)
        assert session.run(case.draw(dtype="float32"))["Y"].size  # it lives on


def test_an_attribute_out_of_range_names_the_node():
    spec = custom_ops()[0]
    model = single_op_model(spec, {"strides": (1, 1)})
    model.graph.node[0].attribute.remove(next(a for a in model.graph.node[0].attribute if a.name == "group"))
    with pytest.raises(DynError, match=r"dcnv2_0"):
        open_session(model.SerializeToString())


def test_empty_batch():
    for spec in custom_ops():
        case = cases(spec)[1]
        with open_session(single_op_model(spec, case.attributes).SerializeToString()) as session:
            assert session.run(case.draw(dtype="float32", N=0))["Y"].shape[0] == 0


def test_sample_runs_without_dyndeploy(tmp_path):
    """Plain onnxruntime and the library, in a process that cannot import dyndeploy."""
    case = cases(custom_ops()[0])[1]
    model = tmp_path / "model.onnx"
    onnx.save(single_op_model(case.spec, case.attributes, shapes=case.shapes()), model)
    blocked = "import sys, runpy; sys.modules['dyndeploy'] = None; sys.argv = sys.argv[1:]; "
    blocked += "runpy.run_path(sys.argv[0], run_name='__main__')"
    sample = ROOT / "samples" / "onnxruntime_plain.py"
    command = [sys.executable, "-c", blocked, str(sample), str(dyndeploy.library_path("onnxruntime")), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Y" in done.stdout
