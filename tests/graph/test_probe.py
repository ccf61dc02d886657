import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from dyndeploy.errors import DynError
from dyndeploy.graph.probe import with_choices, with_outputs
from dyndeploy.ops._spec import spec_of
from dyndeploy.ops.dgc.reference import kept
from dyndeploy.ops.drconv.reference import regions_of
from dyndeploy.runtimes import open_session
from dyndeploy.testing.cases import Case
from dyndeploy.testing.single_op import single_op_model


def chain(described=True):
    """y = int(half(x) + 1): three dtypes."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Add", ["half", "one"], ["sum"]),
            helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.INT32),
        ],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["n"])],
        [numpy_helper.from_array(np.ones(1, np.float16), "one")],
    )
    if described:
        for name in ("half", "sum"):
            graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n"]))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


@pytest.mark.parametrize("described", [True, False])
def test_inner_values_come_out_in_their_own_dtype(described):
    probe = with_outputs(chain(described), ["sum", "half"])
    onnx.checker.check_model(onnx.load_from_string(probe), full_check=True)
    x = np.array([1.5, 2.5], np.float32)
    with open_session(probe) as session:
        values = session.run({"x": x})
    assert list(values) == ["y", "sum", "half"]
    assert values["sum"].dtype == np.float16
    np.testing.assert_array_equal(values["sum"], [2.5, 3.5])
    np.testing.assert_array_equal(values["half"], x.astype(np.float16))


def test_nothing_else_changes_and_the_model_stays():
    model = chain()
    before = model.SerializeToString()
    probe = onnx.load_from_string(with_outputs(model, ["sum"]))
    assert model.SerializeToString() == before
    assert list(probe.graph.node) == list(model.graph.node)
    assert list(probe.graph.initializer) == list(model.graph.initializer)
    assert [info.name for info in probe.graph.value_info] == ["half"]


def test_outputs_and_repeated_names_are_added_once():
    probe = onnx.load_from_string(with_outputs(chain(), ["y", "sum", "sum"]))
    assert [o.name for o in probe.graph.output] == ["y", "sum"]


def test_inputs_and_initializers_can_be_read():
    with open_session(with_outputs(chain(), ["x", "one"])) as session:
        values = session.run({"x": np.array([3.0], np.float32)})
    assert values["x"].tolist() == [3.0]
    assert values["one"].tolist() == [1.0]


def test_a_model_with_function_bodies_and_a_path(tmp_path):
    model = single_op_model(spec_of("dgc"), {"heads": 2, "inactive": 1})
    onnx.save(model, tmp_path / "op.onnx")
    probe = with_outputs(tmp_path / "op.onnx", ["saliency"])
    rng = np.random.default_rng(0)
    shapes = {"X": (1, 4, 5, 5), "saliency": (1, 8), "W": (2, 4, 3, 3), "B": (2,)}
    feeds = {name: rng.random(shape).astype(np.float32) for name, shape in shapes.items()}
    with open_session(probe) as session, open_session(model.SerializeToString()) as plain:
        values = session.run(feeds)
        np.testing.assert_array_equal(values["Y"], plain.run(feeds)["Y"])
    np.testing.assert_array_equal(values["saliency"], feeds["saliency"])


def test_a_value_that_is_not_there():
    with pytest.raises(DynError, match="no value 'summ'"):
        with_outputs(chain(), ["summ"])


def test_a_value_whose_dtype_nothing_tells():
    graph = helper.make_graph(
        [helper.make_node("Mystery", ["x"], ["inner"], domain="elsewhere"), helper.make_node("Abs", ["inner"], ["y"])],
        "unknown",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("elsewhere", 1)]
    with pytest.raises(DynError, match="The dtype of inner is not known"):
        with_outputs(helper.make_model(graph, opset_imports=opsets, ir_version=10), ["inner"])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("folder", "attributes", "decide"),
    [
        ("drconv", {}, regions_of),
        ("dgc", {"inactive": 0}, lambda s: kept(s, 4, 0, 0.0)),
        ("dgc", {"inactive": 3}, lambda s: kept(s, 4, 3, 0.0)),
        ("dgc", {"inactive": -1, "threshold": 0.3}, lambda s: kept(s, 4, -1, 0.3)),
    ],
)
def test_a_node_says_what_it_decides(folder, attributes, decide, dtype):
    spec = spec_of(folder)
    case = Case.of(spec, **attributes)
    feeds = case.draw(dtype=dtype)
    model = single_op_model(spec, case.attributes, dtype)
    before = model.SerializeToString()
    probe = with_choices(model, {f"{folder}_0": "decision"})
    assert model.SerializeToString() == before
    with open_session(with_outputs(probe, ["decision"])) as session, open_session(before) as plain:
        values = session.run(feeds)
        np.testing.assert_array_equal(values["Y"], plain.run(feeds)["Y"])
    expected = decide(torch.from_numpy(feeds[spec.choice]).float())
    assert len(expected.unique()) > 1 or attributes == {"inactive": 0}
    np.testing.assert_array_equal(values["decision"], expected, strict=True)
