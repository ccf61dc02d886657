"""What the ONNX side makes of an OpSpec: schema, shape inference, translation, and the builder of bodies."""

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from dyndeploy.errors import DynError
from dyndeploy.ops._onnx import OPSET, Body, bodies, register_schema, translation
from dyndeploy.ops._spec import DOMAIN, PLUGIN_ATTRIBUTES, VERSION, OpSpec, Tensor, spec_of
from dyndeploy.ops._torch import torch_op
from dyndeploy.ops.dcnv2.op import modulated_deform_conv2d
from dyndeploy.testing.single_op import single_op_model

DCN = spec_of("dcnv2")
#: The window attributes of every operator, and relu.
ATTRIBUTES = (*spec_of("drconv").attributes[:4], spec_of("drconv").attribute("relu"))


def infer(shapes, **attributes):
    """What onnx infers for Y: an int where the dim is known, None where it is not."""
    model = single_op_model(DCN, attributes)
    for value, shape in zip(model.graph.input, shapes):
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shape))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    dims = inferred.graph.output[0].type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else None for d in dims]


@pytest.mark.parametrize(
    ("shapes", "inferred"),
    [
        ([(2, 4, 9, 8), (2, 27, 4, 6), (6, 4, 3, 3), (6,)], [2, 6, 4, 6]),
        ([("n", 4, "h", "w"), ("n", 27, "ho", "wo"), (6, 4, 3, 3), (6,)], [None, 6, None, None]),
        ([("n", 4, 9, "w"), ("n", 27, "ho", "wo"), (6, 4, 3, 3), (6,)], [None, 6, 4, None]),
        ([(2, 4, 9, 8), ("n", "m", "ho", "wo"), ("o", "c", "kh", "kw"), (6,)], [2, None, None, None]),
        ([("n", 4, "h", "w"), ("n", 27, "ho", "wo"), (6, 4, "kh", "kw"), ("o",)], [None, 6, None, None]),
        ([tuple("abcd"), tuple("efgh"), tuple("ijkl"), ("m",)], [None] * 4),
        ([None, None, None, None], [None] * 4),
    ],
    ids=[
        "all known",
        "batch and space unknown",
        "height known",
        "weight unknown",
        "kernel unknown",
        "names",
        "no ranks",
    ],
)
def test_shape_inference_knows_what_can_be_known(shapes, inferred):
    assert infer(shapes, strides=[2, 1]) == inferred


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 4, 9, 8), (2, 27, 5, 6), (6, 4, 3, 3), (6,)], "offset_mask has shape .* dim 2 must be Ho = 4"),
        (
            [("n", 4, "h", "w"), ("n", 18, "ho", "wo"), (6, 4, 3, 3), (6,)],
            r"dim 1 must be 3\*offset_group\*K = 27",
        ),
        ([("n", 4, "h", "w"), ("n", 27, "ho", "wo"), (6, 3, 3, 3), (6,)], r"dim 1 must be C//group = 4"),
    ],
)
def test_shape_inference_refuses_a_contradiction_of_known_dims(shapes, message):
    with pytest.raises(DynError, match=message):
        infer(shapes, strides=[2, 1])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_shape_inference_keeps_the_dtype(dtype):
    model = single_op_model(DCN, {}, dtype)
    model.graph.output[0].type.Clear()
    output = onnx.shape_inference.infer_shapes(model).graph.output[0]
    assert output.type.tensor_type.elem_type == model.graph.input[0].type.tensor_type.elem_type


def test_checker_wants_every_attribute():
    for name in [a.name for a in DCN.attributes] + list(PLUGIN_ATTRIBUTES):
        model = single_op_model(DCN, {})
        (node,) = model.graph.node
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        with pytest.raises(onnx.checker.ValidationError, match=f"Required attribute '{name}' is missing"):
            onnx.checker.check_model(model)


def test_checker_wants_one_dtype():
    model = single_op_model(DCN, {})
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    with pytest.raises(onnx.shape_inference.InferenceError, match="offset_mask has inconsistent type"):
        onnx.checker.check_model(model, full_check=True)


def test_registering_twice_is_harmless():
    schema = register_schema(DCN)
    assert (schema.name, schema.domain, schema.since_version) == (DCN.name, DOMAIN, VERSION)
    assert onnx.defs.get_schema(DCN.name, VERSION, DOMAIN).name == DCN.name


class Model(torch.nn.Module):
    def forward(self, x, offset_mask, weight):
        return modulated_deform_conv2d(
            x,
            offset_mask,
            weight,
            stride=(2, 1),
            padding=(1, 0, 2, 1),
            dilation=(1, 2),
            groups=2,
            mask_scale=2,
            relu=True,
        )


def test_translation_writes_every_attribute():
    inputs = (torch.zeros(1, 4, 7, 6), torch.zeros(1, 18, 4, 5), torch.zeros(6, 2, 3, 2))
    program = torch.onnx.export(
        torch.export.export(Model(), inputs),
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        optimize=False,
        custom_translation_table={torch_op(DCN): translation(DCN)},
    )
    (node,) = [n for n in program.model.graph if n.op_type == DCN.name]
    assert (node.domain, len(node.inputs), len(node.outputs)) == (DOMAIN, len(DCN.inputs), 1)
    assert {name: attribute.value for name, attribute in node.attributes.items()} == {
        "strides": (2, 1),
        "pads": (1, 0, 2, 1),
        "dilations": (1, 2),
        "group": 2,
        "offset_group": 1,
        "sigmoid": 1,
        "mask_scale": 2.0,
        "relu": 1,
        "plugin_namespace": "dyndeploy",
        "plugin_version": "1",
    }
    assert node.attributes["mask_scale"].type == ir.AttributeType.FLOAT
    assert node.attributes["relu"].type == ir.AttributeType.INT


def run_body(build, array, output_rank, **attributes):
    """Run a body with one input through ONNX Runtime, as the function of a one-node model."""
    outputs = tuple(f"y{i}" for i in range(output_rank))
    spec = OpSpec("toy", "Toy", "Toy", "toy", (Tensor("X", tuple("NCHW")),), Tensor("Y", outputs), ATTRIBUTES)
    body = Body(spec)
    function = ir.serde.serialize_function(body.function(build(body, *body.inputs)))
    make, element = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    values = {**spec.defaults(), "kernel_shape": [3, 3], **attributes}
    node = make.make_node(
        "Toy",
        ["X"],
        ["Y"],
        domain=DOMAIN,
        **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()},
    )
    graph = make.make_graph(
        [node],
        "toy",
        [make.make_tensor_value_info("X", element, [None] * array.ndim)],
        [make.make_tensor_value_info("Y", element, outputs)],
    )
    opsets = [make.make_opsetid("", OPSET), make.make_opsetid(DOMAIN, VERSION)]
    model = make.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    return torch.from_numpy(onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"X": array})[0])


@pytest.mark.parametrize(
    "window",
    [
        {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)},
        {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)},
        {"kernel_shape": (1, 1), "strides": (1, 3), "pads": (0, 0, 0, 0), "dilations": (1, 1)},
        {"kernel_shape": (1, 4), "strides": (3, 2), "pads": (0, 3, 0, 2), "dilations": (2, 1)},
    ],
)
def test_unfold_is_that_of_torch(window):
    x = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    windows = run_body(lambda b, v: b.unfold(v)[0], x.numpy(), 6, **window)
    top, left, bottom, right = window["pads"]
    expected = torch.nn.functional.unfold(
        torch.nn.functional.pad(x, (left, right, top, bottom)),
        window["kernel_shape"],
        dilation=window["dilations"],
        stride=window["strides"],
    )
    assert torch.equal(windows.flatten(4), expected.reshape(*windows.shape[:4], -1))


@pytest.mark.parametrize("relu", [0, 1])
def test_relu_follows_its_attribute(relu):
    x = torch.tensor([-1.0, 0.0, 2.0]).reshape(1, 1, 1, 3)
    y = run_body(lambda b, v: b.relu(v), x.numpy(), 4, relu=relu)
    assert torch.equal(y, x.relu() if relu else x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_constants_sizes_and_attributes_of_a_body(dtype):
    """x reshaped to [W, H * C * N, 1, strides[0]], plus 0.5."""

    def build(b, x):
        stride = b.Gather(b.attribute("strides"), b.ints(0))
        flat = b.Reshape(x, b.dims(b.size(x, 3), -1, b.attribute_1d("relu"), stride))
        return b.Add(flat, b.real(0.5, x))

    x = torch.arange(24).reshape(1, 2, 4, 3).to(dtype)
    y = run_body(build, x.numpy(), 4, relu=1, strides=(2, 1))
    assert torch.equal(y, x.reshape(3, 4, 1, 2) + 0.5)


def test_a_body_declares_the_inputs_and_attributes_of_its_spec():
    body = Body(DCN)
    function = body.function(body.Identity(body.inputs[0]))
    assert [v.name for v in function.inputs] == [t.name for t in DCN.inputs]
    assert list(function.attributes) == [a.name for a in DCN.attributes]
    assert (function.domain, function.name, function.opset_imports) == (DOMAIN, DCN.name, {"": OPSET})


def test_a_body_has_only_ops_with_capital_letters():
    with pytest.raises(AttributeError, match="matmul"):
        Body(DCN).matmul()


def test_bodies_are_chosen_by_folder():
    standard, gridsample = bodies(["dcnv2"]), bodies(["dcnv2"], gridsample=True)
    assert list(standard) == list(gridsample) == [DCN.name]
    used = [{n.op_type for n in b[DCN.name]} & {"DeformConv", "GridSample"} for b in (standard, gridsample)]
    assert used == [{"DeformConv"}, {"GridSample"}]


def test_single_op_model_takes_shapes():
    shapes = [(1, 4, 9, 9), (1, 27, 7, 7), (6, 4, 3, 3), (6,)]
    model = single_op_model(DCN, {}, shapes=shapes)
    dims = [tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in model.graph.input]
    assert dims == shapes
