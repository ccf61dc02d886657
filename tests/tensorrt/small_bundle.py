"""A bundle made by hand, without torch: a stem, a predictor, DCNv2, two predictors, DDF, a head."""

import numpy as np
from onnx import helper, numpy_helper

from dyndeploy.bundle import MANIFEST, ONNX, Bundle, Manifest, OpRecord, file_digest
from dyndeploy.ops._onnx import OPSET, bodies
from dyndeploy.ops._spec import DOMAIN, PLUGIN_ATTRIBUTES, VERSION, spec_of
from dyndeploy.tensors import Dim, TensorSpec

DIMS = {"batch": (1, 2, 4), "height": (8, 16, 32), "width": (8, 24, 32)}
SHAPE = ("batch", 3, "height", "width")


def small_model(*, gridsample=False, change=lambda model: None):
    """The network as ONNX, after `change` was made to it."""
    from onnx_ir import serde

    weights, nodes = [], []
    generator = np.random.default_rng(0)

    def weight(name, *shape):
        weights.append(numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name))
        return name

    def conv(name, source, channels, outputs, kernel):
        inputs = [source, weight(f"{name}.W", outputs, channels, kernel, kernel), weight(f"{name}.B", outputs)]
        nodes.append(helper.make_node("Conv", inputs, [name], name, pads=[kernel // 2] * 4))
        return name

    def own(folder, name, inputs, **attributes):
        spec = spec_of(folder)
        values = {**spec.defaults(), "pads": [1, 1, 1, 1], **attributes, **PLUGIN_ATTRIBUTES}
        written = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        nodes.append(helper.make_node(spec.name, inputs, [name], name, domain=DOMAIN, **written))
        return name

    stem = conv("stem", "image", 3, 8, 3)
    inputs = [stem, conv("offsets", stem, 8, 27, 3), weight("bend.W", 8, 8, 3, 3), weight("bend.B", 8)]
    bent = own("dcnv2", "bend", inputs)
    nodes.append(helper.make_node("GlobalAveragePool", [bent], ["pooled"], "pool"))
    nodes.append(helper.make_node("Flatten", [conv("squeeze", "pooled", 8, 72, 1)], ["channels"], "flatten"))
    inputs = [bent, "channels", conv("spatial", bent, 8, 9, 1), weight("gain", 72)]
    conv("head", own("ddf", "filter", inputs, kernel_shape=[3, 3]), 8, 5, 1)
    image = helper.make_tensor_value_info("image", 1, SHAPE)
    head = helper.make_tensor_value_info("head", 1, ["batch", 5, "height", "width"])
    model = helper.make_model(
        helper.make_graph(nodes, "small", [image], [head], weights),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        functions=[serde.serialize_function(f) for f in bodies(["dcnv2", "ddf"], gridsample=gridsample).values()],
        ir_version=10,
    )
    change(model)
    return model


def small_bundle(folder, *, precision="fp32", gridsample=False, change=lambda model: None):
    """The bundle; `change` is made to its graph as if it had been exported so."""
    folder.mkdir(parents=True, exist_ok=True)
    model = small_model(gridsample=gridsample, change=change)
    (folder / ONNX).write_bytes(model.SerializeToString())
    ops = [
        OpRecord(name=n.name, type=n.op_type, folder="", reference="", source="")
        for n in model.graph.node
        if n.domain == DOMAIN
    ]
    manifest = Manifest(
        created="2026-01-01T00:00:00+00:00",
        versions={},
        precision=precision,
        io_precision="fp32",
        body="gridsample" if gridsample else "standard",
        dims={name: Dim.parse(name, sizes) for name, sizes in DIMS.items()},
        inputs=[TensorSpec(name="image", shape=SHAPE)],
        outputs=[TensorSpec(name="head", shape=("batch", 5, "height", "width"))],
        ops=ops,
        nodes={},
        kept_fp32=[],
        seed=0,
        goldens=[],
        files={ONNX: file_digest(folder / ONNX)},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return Bundle.open(folder)


def node_of(model, name):
    """A node of the graph."""
    return next(n for n in model.graph.node if n.name == name)


def set_attribute(node, name, value):
    """Give a node another value of an attribute, or, with None, take it away."""
    for attribute in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(attribute)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))
