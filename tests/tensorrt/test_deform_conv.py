"""Models that were not exported here: ONNX's own DeformConv, which TensorRT for RTX alone cannot import."""

import onnx
import pytest
from onnx import TensorProto, helper

# H before W: nothing is square, and nothing is symmetric.
ATTRIBUTES = {
    "kernel_shape": [3, 2],
    "strides": [2, 1],
    "pads": [1, 0, 2, 1],
    "dilations": [1, 2],
    "group": 2,
    "offset_group": 4,
}
N, C, OUT, H, W, HO, WO = 2, 8, 6, 11, 7, 6, 6
SHAPES = {"X": [N, C, H, W], "W": [OUT, C // 2, 3, 2], "offset": [N, 48, HO, WO], "B": [OUT], "mask": [N, 24, HO, WO]}
ELEMENTS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def deform_conv(inputs, dtype="float32", attributes=ATTRIBUTES, shapes=SHAPES):
    node = helper.make_node("DeformConv", inputs, ["Y"], name="neck/deform", **attributes)
    tensors = [helper.make_tensor_value_info(n, ELEMENTS[dtype], shapes[n]) for n in inputs]
    output = helper.make_tensor_value_info("Y", ELEMENTS[dtype], ["n", "o", "h", "w"])
    opset = [helper.make_opsetid("", 22 if dtype == "bfloat16" else 19)]
    model = helper.make_model(helper.make_graph([node], "foreign", tensors, [output]), opset_imports=opset)
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("embed", [False, True], ids=["library", "embedded"])
def test_builds(dtype, embed, plugins, build):
    models = [deform_conv(["X", "W", "offset", "B", "mask"][:count], dtype) for count in (3, 4, 5)]
    for result in build(models, plugins, embed=embed, words=["DeformConv", *ATTRIBUTES]):
        assert [layer[:3] for layer in result["layers"]] == [["PLUGIN_V3", "neck/deform", [N, OUT, HO, WO]]]
        assert result["log"] == []
        assert all(result["contains"].values())
        assert (result["engine"] > plugins.stat().st_size) == embed


def test_dynamic(plugins, build):
    shapes = {**SHAPES, "X": ["n", C, "h", "w"], "offset": ["m", 48, "i", "j"]}
    profile = {
        "X": [[1, C, 9, 7], [N, C, H, W], [4, C, 31, 40]],
        "offset": [[1, 48, 5, 6], [N, 48, HO, WO], [4, 48, 16, 39]],
    }
    (result,) = build([deform_conv(["X", "W", "offset"], shapes=shapes)], plugins, profiles=[profile])
    assert result["layers"] == [["PLUGIN_V3", "neck/deform", [-1, OUT, -1, -1], "FLOAT"]]
    assert result["engine"]


def test_attributes_may_be_left_out(plugins, build):
    shapes = {"X": [1, 4, 8, 9], "W": [5, 4, 3, 3], "offset": [1, 18, 6, 7]}
    (result,) = build([deform_conv(["X", "W", "offset"], attributes={}, shapes=shapes)], plugins)
    assert result["layers"][0][2] == [1, 5, 6, 7]
    assert result["engine"]


def test_without_the_library(build):
    (result,) = build([deform_conv(["X", "W", "offset"])])
    assert not result["parsed"]
    assert any("DeformConv" in line for line in result["log"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"offset": [N, 48, HO, WO + 1]}, f"dim 3 of offset is {WO + 1}, not {WO}"),
        ({"offset": [N, 24, HO, WO]}, "dim 1 of offset is 24, not 48"),
        ({"mask": [N, 48, HO, WO]}, "dim 1 of mask is 48, not 24"),
        ({"W": [OUT, C // 2, 3, 3]}, "kernel_shape is 3x2, but W has 3x3"),
        ({"X": [N, C + 2, H, W]}, f"dim 1 of X is {C + 2}, not {C}"),
    ],
)
def test_refused_with_a_reason(change, reason, plugins, build):
    inputs = ["X", "W", "offset", "B", "mask"]
    (result,) = build([deform_conv(inputs, shapes={**SHAPES, **change})], plugins)
    own = [line for line in result["log"] if "dyndeploy:" in line]
    assert own
    assert "DeformConv node 'neck/deform'" in own[0]
    assert reason in own[0]
