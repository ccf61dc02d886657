"""Engines of TensorRT for RTX, built without a GPU: from ONNX to bytes, through all of a plugin but enqueue.

Every case of every operator, in every dtype, with static and with dynamic dims; with the plugin library, with the
library inside the engine, and without it, on the function bodies.
"""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from dyndeploy.ops._spec import DOMAIN, PLUGIN_ATTRIBUTES, VERSION, custom_ops, spec_of
from dyndeploy.testing.cases import cases, grid
from dyndeploy.testing.single_op import single_op_model

each_op = pytest.mark.parametrize("spec", custom_ops(), ids=lambda s: s.key)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
each_dims = pytest.mark.parametrize("dims", ["static", "dynamic"])

TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
SIZES = {"min": (1, 7, 6), "opt": (2, 9, 8), "max": (4, 16, 20)}  # N, H, W
#: Inputs that are maps, whose H and W vary; N varies in all but weights.
CONSTANT = {"W", "B", "channel_gain"}


def models_of(spec, dtype, dims):
    """Model, profile and the output's shape (-1: dynamic), of every case."""
    for case in cases(spec):
        shapes = {at: case.shapes(N=n, H=h, W=w) for at, (n, h, w) in SIZES.items()}
        output = list(case.spec.output_shape(shapes["opt"], case.attributes))
        if dims == "static":
            model = single_op_model(spec, case.attributes, dtype, shapes=shapes["opt"])
            yield case, model, {}, output
            continue
        symbolic, profile = [], {}
        for index, tensor in enumerate(spec.inputs):
            low, opt, high = (shapes[at][index] for at in ("min", "opt", "max"))
            varies = [a != b or a != c for a, b, c in zip(low, opt, high)]
            symbolic.append([f"{tensor.name}_{i}" if v else d for i, (v, d) in enumerate(zip(varies, opt))])
            if any(varies):
                profile[tensor.name] = [list(low), list(opt), list(high)]
        yield case, single_op_model(spec, case.attributes, dtype, shapes=symbolic), profile, [-1, output[1], -1, -1]


@each_op
@each_dtype
@each_dims
@pytest.mark.parametrize("embed", [False, True], ids=["library", "embedded"])
def test_plugins(spec, dtype, dims, embed, plugins, build):
    all_cases, models, profiles, outputs = zip(*models_of(spec, dtype, dims))
    words = [spec.name, *(a.name for a in spec.attributes)]
    results = build(models, plugins, embed=embed, profiles=profiles, words=words)
    assert len(results) == len(models)
    for case, result, output in zip(all_cases, results, outputs):
        assert result["layers"] == [["PLUGIN_V3", f"{spec.key}_0", output, TYPES[dtype]]], case
        assert result["log"] == [], case
        assert result["contains"] == dict.fromkeys(words, True), case
        assert (result["engine"] > plugins.stat().st_size) == embed, case


@each_op
@each_dtype
@each_dims
def test_bodies(spec, dtype, dims, build):
    """The same file without the library: standard ops, of which the body of dcnv2 has a variant.

    With dynamic dims TensorRT takes a second or two for each, so that there are only some.
    """
    some = [row for row in models_of(spec, dtype, dims) if dims == "static" or row[0].name in ("padded", "relu")]
    all_cases, models, profiles, _ = zip(*some)
    if spec.folder == "dcnv2":
        models = [
            single_op_model(spec, c.attributes, dtype, shapes=_shapes(m), gridsample=True)
            for c, m in zip(all_cases, models)
        ]
    for case, result in zip(all_cases, build(models, profiles=profiles)):
        types = {layer[0] for layer in result["layers"]}
        assert result["engine"], (case, result["log"])
        assert not {t for t in types if t.startswith("PLUGIN")}, case
        assert len(types) > 3, case


def _shapes(model):
    return [[d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input]


@each_op
def test_shapes_on_a_grid(spec, plugins, build):
    """The plugin's expressions are the OpSpec's rule."""
    all_cases = grid(spec)
    models = [single_op_model(spec, c.attributes, shapes=c.shapes()) for c in all_cases]
    results = build(models, plugins, only_parse=True)
    assert len(results) == len(all_cases) > 10
    for case, result in zip(all_cases, results):
        assert [layer[2] for layer in result["layers"]] == [
            list(case.spec.output_shape(case.shapes(), case.attributes))
        ]


@pytest.mark.parametrize("spec", [s for s in custom_ops() if s.folder != "ddf"], ids=lambda s: s.key)
def test_products_in_tf32_are_another_version(spec, plugins, build):
    model = single_op_model(spec, cases(spec)[0].attributes, shapes=cases(spec)[0].shapes())
    for attribute in model.graph.node[0].attribute:
        if attribute.name == "plugin_version":
            attribute.s = b"1-tf32"
    (result,) = build([model], plugins, words=["1-tf32"])
    assert [layer[0] for layer in result["layers"]] == ["PLUGIN_V3"]
    assert result["contains"] == {"1-tf32": True}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_between_layers_of_tensorrt(dtype, plugins, build):
    """A stem, an offset predictor, DCNv2, two filter predictors, DDF, a head: neighbours agree on formats."""
    profile = {"image": [[1, 3, 32, 48], [2, 3, 64, 96], [4, 3, 128, 96]]}
    (result,) = build([_network(dtype)], plugins, profiles=[profile])
    plugin_layers = [layer for layer in result["layers"] if layer[0] == "PLUGIN_V3"]
    assert [layer[1:] for layer in plugin_layers] == [
        ["deform", [-1, 24, -1, -1], TYPES[dtype]],
        ["filter", [-1, 24, -1, -1], TYPES[dtype]],
    ]
    assert result["log"] == []
    assert result["engine"]


def _network(dtype):
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights, nodes = [], []
    generator = np.random.default_rng(0)

    def weight(name, *shape):
        weights.append(numpy_helper.from_array(generator.standard_normal(shape).astype(dtype), name))
        return name

    def conv(name, source, channels, outputs, kernel, stride=1):
        inputs = [source, weight(f"{name}.W", outputs, channels, kernel, kernel), weight(f"{name}.B", outputs)]
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", inputs, [name], name, strides=[stride, stride], pads=pads))
        return name

    def own(folder, name, inputs, **attributes):
        spec = spec_of(folder)
        values = {**spec.defaults(), "pads": [1, 1, 1, 1], **attributes, **PLUGIN_ATTRIBUTES}
        nodes.append(helper.make_node(spec.name, inputs, [name], name, domain=DOMAIN, **values))
        return name

    stem = conv("stem", "image", 3, 16, 3, stride=2)
    inputs = [stem, conv("predictor", stem, 16, 27, 3), weight("deform.W", 24, 16, 3, 3), weight("deform.B", 24)]
    deformed = own("dcnv2", "deform", inputs)
    nodes.append(helper.make_node("GlobalAveragePool", [deformed], ["pooled"], "pool"))
    nodes.append(helper.make_node("Flatten", [conv("squeeze", "pooled", 24, 216, 1)], ["channels"], "flatten"))
    inputs = [deformed, "channels", conv("spatial", deformed, 24, 9, 1), weight("gain", 216)]
    conv("head", own("ddf", "filter", inputs, kernel_shape=[3, 3]), 24, 5, 1)
    image = helper.make_tensor_value_info("image", element, ["batch", 3, "height", "width"])
    head = helper.make_tensor_value_info("head", element, ["batch", 5, "h", "w"])
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid(DOMAIN, VERSION)]
    graph = helper.make_graph(nodes, "network", [image], [head], weights)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
