"""The layer: its saliency network, its number of inactive channels, its parameters."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from dyndeploy.errors import DynError
from dyndeploy.ops._torch import torch_op
from dyndeploy.ops.dgc.module import DGConv2d, Saliency
from dyndeploy.ops.dgc.op import SPEC

WINDOW = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}


def layer_of(**more):
    """A layer with running statistics and weights that all show in the output."""
    torch.manual_seed(0)
    layer = DGConv2d(8, 6, **{**WINDOW, "heads": 2, "squeeze": 4, **more})
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    nn.init.constant_(layer.saliency.expand.bias, 2)
    nn.init.normal_(layer.bn.running_mean, std=0.5)
    return layer.eval()


@pytest.fixture
def x():
    return torch.randn(2, 8, 9, 8, generator=torch.Generator().manual_seed(1))


def official(layer, x, inactive):
    """The layer as a loop over heads: each its own two fully connected layers, mask and dense convolution."""
    h = F.relu(F.batch_norm(x, layer.bn.running_mean, layer.bn.running_var, layer.bn.weight, layer.bn.bias))
    pooled = F.adaptive_avg_pool2d(h, 1).flatten(1)
    parts = (layer.saliency.squeeze.weight, layer.saliency.expand.weight, layer.saliency.expand.bias, layer.weight)
    outputs = []
    for first, second, bias, weight in zip(*(p.chunk(layer.heads) for p in parts)):
        mask = F.relu(F.linear(F.relu(F.linear(pooled, first)), second.flatten(1), bias))
        if inactive:
            smallest, _ = mask.topk(inactive, dim=1, largest=False)
            mask = mask.masked_fill(mask <= smallest.amax(1, keepdim=True), 0)
        outputs.append(F.conv2d(h * mask[..., None, None], weight, None, *list(WINDOW.values())[1:]))
    return F.channel_shuffle(torch.cat(outputs, dim=1), layer.heads)


@pytest.mark.parametrize("inactive", [0, 1, 6, 8])
def test_agrees_with_a_loop_over_heads(x, inactive):
    layer = layer_of()
    layer.inactive = inactive
    torch.testing.assert_close(layer(x), official(layer, x, inactive))


def test_training_uses_the_statistics_of_the_batch(x):
    layer = layer_of().train()
    before = layer.bn.running_mean.clone()
    layer(x)
    assert not torch.equal(layer.bn.running_mean, before)


@pytest.mark.parametrize(
    ("channels", "keep", "kept"),
    [(64, 0.45, 29), (128, 0.45, 58), (256, 0.45, 115), (512, 0.45, 230), (64, 0.25, 16), (10, 0.75, 8), (8, 1, 8)],
)
def test_keep_is_rounded_as_in_the_official_code(channels, keep, kept):
    """The first four are ResNet-18's at a pruning rate of .55; 2.5 channels to drop are 2 (to even)."""
    layer = DGConv2d(channels, 4, 1, keep=keep)
    assert channels - layer.inactive == kept
    assert layer.inactive_channels.item() == layer.inactive


@pytest.mark.parametrize(
    ("channels", "squeeze", "hidden"), [(128, 16, 8), (80, 16, 5), (79, 16, 9), (64, 16, 8), (8, 16, 1), (8, 2, 8)]
)
def test_squeeze_is_halved_below_80_channels(channels, squeeze, hidden):
    layer = DGConv2d(channels, 4, 1, squeeze=squeeze)
    assert layer.saliency.squeeze.weight.shape == (4 * hidden, channels)
    assert layer.saliency.expand.weight.shape == (4 * channels, hidden, 1, 1)


def test_parameters_are_those_of_a_convolution_and_its_heads():
    layer = DGConv2d(96, 32, (3, 2), heads=4, squeeze=16)
    convolution, norm = 32 * 96 * 6, 2 * 96
    head = 96 * 6 + 6 * 96 + 96
    assert sum(p.numel() for p in layer.parameters()) == convolution + norm + 4 * head


def test_parameters_that_resnet18_gains():
    """12.335 M against 11.690 M: a saliency network and a BatchNorm in front of each of the 19 convolutions."""
    gain = 0
    for stage, (before, after) in enumerate(zip((64, 64, 128, 256), (64, 128, 256, 512))):
        shapes = [(before, after, 3), (after, after, 3), (after, after, 3), (after, after, 3)]
        for c, o, k in shapes + ([(before, after, 1)] if stage else []):
            with torch.device("meta"):
                layer = DGConv2d(c, o, k)
            gain += sum(p.numel() for p in layer.parameters()) - o * c * k * k
    assert (11_689_512 + gain) / 1e6 == pytest.approx(12.335, abs=6e-4)


def test_initialisation():
    torch.manual_seed(0)
    layer = DGConv2d(128, 64, 3)
    bound = (128 * 9) ** -0.5
    assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert layer.saliency.squeeze.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.1)
    assert layer.saliency.expand.weight.std().item() == pytest.approx((2 / 8) ** 0.5, rel=0.1)
    assert (layer.saliency.expand.bias == 1).all()


def test_saliency_is_what_a_hook_sees(x):
    layer, seen = layer_of(), []
    layer.saliency.register_forward_hook(lambda module, inputs, output: seen.append(output))
    layer(x)
    (saliency,) = seen
    assert saliency.shape == (2, 2 * 8)
    assert (saliency >= 0).all()
    torch.testing.assert_close(saliency, layer.saliency(layer.bn(x).relu()))


def test_inactive_can_be_scheduled(x):
    layer = layer_of()
    layer.inactive = 0
    full = layer(x)
    layer.inactive = 5
    assert layer.inactive_channels.item() == 5
    assert not torch.equal(layer(x), full)
    torch.testing.assert_close(layer(x), official(layer, x, 5))


@pytest.mark.parametrize("value", [-1, 9])
def test_inactive_out_of_range(value):
    layer = layer_of()
    with pytest.raises(DynError, match=rf"inactive={value} is outside 0..8"):
        layer.inactive = value
    assert layer.inactive == layer.inactive_channels.item() == 6


def saved(layer):
    """The state dict after a way through a file."""
    stream = io.BytesIO()
    torch.save(layer.state_dict(), stream)
    stream.seek(0)
    return torch.load(stream)


@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_of_mid_training_prunes_less(x, assign):
    """What counts is what was saved, not `keep`: in forward and in export, alone and inside a network."""
    trained, fresh = nn.Sequential(layer_of(keep=0.25)), nn.Sequential(layer_of(keep=0.25))
    trained[0].inactive = 2
    assert fresh[0].inactive == 6
    fresh.load_state_dict(saved(trained), assign=assign)
    assert fresh[0].inactive == fresh[0].inactive_channels.item() == 2
    assert torch.equal(fresh(x), trained(x))
    program = torch.export.export(fresh, (x,))
    (node,) = [n for n in program.graph.nodes if n.target == torch_op(SPEC)]
    names = [a.name for a in torch_op(SPEC)._schema.arguments]
    assert node.args[names.index("inactive")] == 2
    fresh[0].inactive = 3  # the two are tied after loading, too
    assert fresh[0].inactive_channels.item() == 3


def test_a_checkpoint_of_another_width_is_refused():
    layer, state = layer_of(), saved(layer_of())
    state["inactive_channels"].fill_(9)
    with pytest.raises(RuntimeError, match=r"inactive_channels: DGConv2d: inactive=9 is outside 0..8"):
        layer.load_state_dict(state)


def test_copies_are_independent(x):
    layer = layer_of()
    layer.inactive = 4
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), layer(x))
    twin.inactive = 1
    assert (layer.inactive, layer.inactive_channels.item()) == (4, 4)
    assert (twin.inactive, twin.inactive_channels.item()) == (1, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_keep_the_number(x, dtype):
    layer = layer_of()
    layer.inactive = 3
    layer.to(dtype)
    assert (layer.inactive, layer.inactive_channels.item()) == (3, 3)
    assert layer.inactive_channels.dtype == torch.int64
    assert layer(x.to(dtype)).dtype == dtype


def test_a_meta_layer_is_filled_by_loading(x):
    layer = layer_of()
    layer.inactive = 3
    with torch.device("meta"):
        empty = DGConv2d(8, 6, **WINDOW, heads=2, squeeze=4).eval()
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert empty.inactive == 3
    assert torch.equal(empty(x), layer(x))


def test_a_number_in_the_buffer_counts_from_the_next_eval(x):
    layer = layer_of()
    before = layer(x)
    layer.inactive_channels.fill_(1)
    assert torch.equal(layer(x), before)
    torch.testing.assert_close(layer.eval()(x), official(layer, x, 1))


def test_a_moving_average_follows_the_schedule(x):
    """torch copies the buffer in place, behind the property's back; eval() notices."""
    layer = layer_of()
    average = AveragedModel(layer)
    layer.inactive = 1
    average.update_parameters(layer)
    average.eval()
    assert average.module.inactive == 1
    assert torch.equal(average(x), layer(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 4}, "out_channels=6 is not divisible by 4 heads"),
        ({"heads": 0}, "out_channels=6 is not divisible by 0 heads"),
        ({"squeeze": 40}, r"8 channels cannot be squeezed by 20 \(squeeze=40\).(?s:.*)halved(?s:.*)squeeze=16"),
        ({"squeeze": 0}, "8 channels cannot be squeezed by 0"),
        ({"keep": 1.5}, r"keep=1.5 is outside 0..1.(?s:.*)share of channels kept"),
        ({"keep": -0.5}, "keep=-0.5 is outside 0..1"),
        ({"kernel_size": (3, 3, 3)}, r"\(3, 3, 3\) is not one int or two"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(DynError, match=message):
        DGConv2d(8, 6, **{"kernel_size": 3, "heads": 2, **options})


def test_the_squeeze_that_the_error_names_works():
    for channels in (8, 100):
        with pytest.raises(DynError) as caught:
            Saliency(channels, 2, 1000)
        Saliency(channels, 2, int(caught.value.fix.removeprefix("squeeze=")))


def test_everything_learns(x):
    layer = layer_of(keep=0.75).train()
    before = copy.deepcopy(dict(layer.named_parameters()))
    layer(x).square().mean().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert all(not torch.equal(before[name], value) for name, value in layer.named_parameters())


def test_compiles_and_exports_with_dynamic_dims(x):
    layer = layer_of()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=4), 3: torch.export.Dim("width", min=4)}
    module = torch.export.export(layer, (x,), dynamic_shapes={"x": dims}).module()
    for shape in ((1, 8, 4, 4), (3, 8, 12, 7), (1, 8, 5, 40)):
        other = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(module(other), layer(other))


def test_autocast(x):
    layer = layer_of(keep=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    exact = layer(x)
    assert (y.float() - exact).norm() / exact.norm() < 0.05


def test_state_dict_names():
    assert sorted(layer_of().state_dict()) == [
        "bn.bias",
        "bn.num_batches_tracked",
        "bn.running_mean",
        "bn.running_var",
        "bn.weight",
        "inactive_channels",
        "saliency.expand.bias",
        "saliency.expand.weight",
        "saliency.squeeze.weight",
        "weight",
    ]


def test_repr():
    text = repr(DGConv2d(8, 6, 3, stride=2, heads=2, keep=0.5))
    assert "8, 6, kernel_size=(3, 3), stride=(2, 2), padding=(0, 0), dilation=(1, 1), heads=2, keep=0.5" in text
    assert "inactive=4" in text
