"""A layer that drops by one threshold for the whole network (DGC-G): its state, and its way into ONNX."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from dyndeploy.errors import DynError
from dyndeploy.ops.dgc.module import DGConv2d
from dyndeploy.ops.dgc.reference import kept
from dyndeploy.pipeline.check import check
from dyndeploy.pipeline.export import export
from dyndeploy.training import ThresholdSchedule

FLOAT32 = np.float32(0.9).item()


def layer_of(**more):
    layer = DGConv2d(8, 6, 3, padding=1, heads=2, squeeze=4, network_wise=True, **more)
    nn.init.normal_(layer.saliency.expand.bias, 0.5)
    return layer.eval()


@pytest.fixture
def x():
    return torch.randn(2, 8, 9, 8)


def test_drops_what_is_not_above_the_threshold(x):
    layer, plain = layer_of(), DGConv2d(8, 6, 3, padding=1, heads=2, squeeze=4).eval()
    plain.load_state_dict({n: t for n, t in layer.state_dict().items() if t.dim()}, strict=False)
    plain.inactive = 0
    torch.testing.assert_close(layer(x), plain(x))  # at first nothing that counts
    saliency = layer.saliency(layer.bn(x).relu())
    layer.threshold = 0.9
    number = (~kept(saliency, 2, -1, layer.threshold)).sum(2)
    assert len(number.unique()) > 1  # heads keep different numbers
    head = 1
    plain.inactive = int(number[0, head])
    torch.testing.assert_close(layer(x)[0, head::2], plain(x)[0, head::2])


def test_it_is_state(x):
    layer = layer_of()
    layer.threshold = 0.9
    assert layer.saliency_threshold.item() == layer.threshold == FLOAT32
    twin = layer_of()
    twin.load_state_dict(layer.state_dict())
    assert twin.threshold == FLOAT32
    assert torch.equal(twin(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_it_is_float32_in_every_dtype(x, dtype):
    layer = layer_of()
    layer.threshold = 0.9
    layer.to(dtype).eval()
    assert layer.threshold == layer.saliency_threshold.item() == FLOAT32
    assert layer.saliency_threshold.dtype == torch.float32
    assert layer(x.to(dtype)).dtype == dtype


def test_a_meta_layer_is_filled_by_loading(x):
    layer = layer_of()
    layer.threshold = 0.9
    with torch.device("meta"):
        empty = layer_of()
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert empty.threshold == FLOAT32
    assert torch.equal(empty(x), layer(x))


def test_a_moving_average_follows(x):
    layer = layer_of()
    average = AveragedModel(layer)
    layer.threshold = 0.9
    average.update_parameters(layer)
    assert average.eval().module.threshold == FLOAT32


def test_other_layers_have_nothing_of_it():
    layer = DGConv2d(8, 6, 3, heads=2)
    assert "saliency_threshold" not in layer.state_dict()
    assert layer.threshold == 0
    with pytest.raises(DynError, match=r"threshold=0.5 in a layer that drops by number(?s:.*)network_wise=True"):
        layer.threshold = 0.5
    assert set(layer_of().state_dict()) - set(layer.state_dict()) == {"saliency_threshold"}


def test_it_has_no_number():
    layer = layer_of()
    assert layer.inactive == layer.inactive_channels.item() == -1
    with pytest.raises(DynError, match=r"inactive=3 in a network-wise layer(?s:.*)layer.threshold"):
        layer.inactive = 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
def test_the_threshold_is_a_finite_float32(value):
    layer = layer_of()
    with pytest.raises(DynError, match="is not a finite float32"):
        layer.threshold = value
    assert layer.threshold == 0


@pytest.mark.parametrize("network_wise", [True, False])
def test_a_checkpoint_of_the_other_kind_is_refused(network_wise):
    one, other = (DGConv2d(8, 6, 3, heads=2, network_wise=flag) for flag in (network_wise, not network_wise))
    with pytest.raises(RuntimeError, match=r"saliency_threshold(?s:.*)inactive="):
        one.load_state_dict(other.state_dict())


def test_repr():
    layer = layer_of()
    layer.threshold = 0.5
    assert "heads=2, network_wise=True, threshold=0.5" in repr(layer)


def test_a_trained_network_is_exported_and_agrees(tmp_path):
    """Both layers get the same float32 attribute, and every runtime decides as float64 does, up to noise."""
    layers = [DGConv2d(8, 16, 3, stride=2, padding=1, network_wise=True), DGConv2d(16, 8, 1, network_wise=True)]
    model = nn.Sequential(layers[0], nn.BatchNorm2d(16), layers[1])
    with ThresholdSchedule(model, 12, rate=0.5) as schedule:
        for _ in range(12):
            model(torch.randn(8, 8, 10, 10))
            schedule.step()
    assert layers[0].threshold == layers[1].threshold > 0
    bundle = export(
        model,
        torch.randn(1, 8, 10, 10),
        tmp_path / "network",
        inputs={"x": ["batch", 8, "height", "width"]},
        dims={"batch": (1, 2, 4), "height": (6, 10, 16), "width": (6, 10, 16)},
    )
    nodes = [n for n in onnx.load(bundle.onnx_path).graph.node if n.op_type == "DynamicGroupConv2d"]
    attributes = [{a.name: onnx.helper.get_attribute_value(a) for a in n.attribute} for n in nodes]
    assert [a["inactive"] for a in attributes] == [-1, -1]
    assert [a["threshold"] for a in attributes] == [layer.threshold for layer in layers]
    result = check(bundle, runtimes=("torch", "onnxruntime"))
    assert result.ok, result
