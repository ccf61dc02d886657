"""What is read, what is refused and how, and that a module is filled whole or not at all."""

import argparse
import collections
import copy
import datetime
import io
import os
import pathlib
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dyndeploy.checkpoints import load_checkpoint
from dyndeploy.errors import DynError
from dyndeploy.models import create_model
from dyndeploy.nn import DDF, DGConv2d, ModulatedDeformConv2d


def network(width=4, classes=3):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, classes))


def same(module, weights):
    state = module.state_dict()
    return state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in state)


@pytest.fixture
def weights():
    module = network()
    nn.init.normal_(module[1].running_mean)
    module[1].num_batches_tracked.fill_(7)
    return module.state_dict()


def refused(module, source, **options):
    """The message, and that nothing was written."""
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(DynError) as caught:
        load_checkpoint(module, source, **options)
    assert same(module, before)
    return str(caught.value)


# --- what is read


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.pth.tar", "w.safetensors", "w"])
def test_files(tmp_path, weights, name):
    (save_file if name.endswith("safetensors") else torch.save)(weights, tmp_path / name)
    module = network()
    report = load_checkpoint(module, tmp_path / name)
    assert same(module, weights)
    assert (report.source, report.read, report.used) == (name, 9, 9)
    load_checkpoint(network(), str(tmp_path / name))


def test_files_of_old_torch(tmp_path, weights):
    torch.save({"state_dict": weights}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    module = network()
    load_checkpoint(module, tmp_path / "w.pth")
    assert same(module, weights)


def test_a_module_is_a_source(weights):
    source, module = network(), network()
    source.load_state_dict(weights)
    load_checkpoint(module, source)
    assert same(module, weights)
    module = network()
    load_checkpoint(module, {"model": source, "epoch": 3})
    assert same(module, weights)


def test_what_training_code_saves_beside_the_weights(tmp_path, weights):
    """The arguments and accuracies of timm, hellozhuo and others are objects; they are passed over, not made."""
    beside = {
        "args": argparse.Namespace(lr=0.1, folder=None),
        "best_prec1": np.float64(77.8),
        "history": np.arange(3.0),
        "epoch": 119,
        "folder": pathlib.Path("runs"),
        "options": argparse.Namespace(output=pathlib.PurePosixPath("runs"), when=datetime.timedelta(hours=3)),
        "date": datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
        "log": collections.defaultdict(list, {"loss": [0.5]}),
        "counts": collections.Counter("ab"),
        "indices": (range(3), slice(1, 2), {1, 2}, frozenset({3})),
    }
    torch.save({**beside, "state_dict": weights}, tmp_path / "w.pth")
    module = network()
    assert load_checkpoint(module, tmp_path / "w.pth").container == ("state_dict",)
    assert same(module, weights)


@pytest.mark.parametrize(
    ("wrap", "container", "stripped"),
    [
        (lambda w: w, (), ""),
        (lambda w: {"model": w}, ("model",), ""),
        (lambda w: {"checkpoint": {"net": w}, "epoch": 1}, ("checkpoint", "net"), ""),
        (lambda w: {"state_dict": w, "best": torch.tensor(0.7)}, ("state_dict",), ""),
        (lambda w: {f"module.{k}": v for k, v in w.items()}, (), "module."),
        (lambda w: {"model": {f"module._orig_mod.{k}": v for k, v in w.items()}}, ("model",), "module._orig_mod."),
    ],
)
def test_containers_and_wrappers(weights, wrap, container, stripped):
    module = network()
    report = load_checkpoint(module, wrap(weights))
    assert same(module, weights)
    assert (report.container, report.stripped) == (container, stripped)


def test_a_module_that_is_called_module(weights):
    outer = nn.Module()
    outer.module = network()
    report = load_checkpoint(outer, {f"module.{k}": v for k, v in weights.items()})
    assert report.stripped == ""
    assert same(outer.module, weights)


def test_wrapped_targets(weights):
    for wrap in (nn.DataParallel, lambda module: torch.compile(module, backend="eager")):
        module = network()
        load_checkpoint(wrap(module), weights)
        assert same(module, weights)


def test_one_state_dict_of_several(weights):
    average = {name: value + 1 for name, value in weights.items()}
    saved = {"state_dict": weights, "state_dict_ema": average, "optimizer": {"state": {0: {"m": torch.zeros(1)}}}}
    module = network()
    report = load_checkpoint(module, saved)
    assert same(module, weights)
    assert report.others == ("state_dict_ema",)
    load_checkpoint(module, saved, entry="state_dict_ema")
    assert same(module, average)
    message = refused(network(), saved, entry="state_dict_em")
    assert "no state dict 'state_dict_em' in the state dict" in message
    assert "state_dict_ema? Allowed: state_dict, state_dict_ema." in message
    assert "entry=: teacher, student" in refused(network(), {"teacher": weights, "student": average})


def test_a_part_of_a_checkpoint(weights):
    saved = {
        "backbone": {},
        "state_dict": {f"backbone.body.{k}": v for k, v in weights.items()} | {"head.w": torch.ones(1)},
    }
    for prefix in ("backbone.body", "backbone.body."):
        module = network()
        report = load_checkpoint(module, saved, prefix=prefix)
        assert same(module, weights)
        assert (report.used, report.outside) == (9, 1)
    message = refused(network(), saved, prefix="backbone.boody")
    assert "nothing under prefix='backbone.boody'" in message
    assert "backbone.body? Allowed: " in message
    assert "fix: prefix='backbone.body'" in refused(network(), saved)
    model = nn.ModuleDict({"encoder": network(), "decoder": nn.Conv2d(1, 1, 1)})
    assert "load_checkpoint(model.encoder, …)" in refused(model, weights)


def test_ignored_entries(weights):
    module, more = network(), {**weights, "aux.weight": torch.ones(2), "aux.bias": torch.ones(2), "epoch": 3}
    report = load_checkpoint(module, more, ignore=["aux.*", "epoch"])
    assert same(module, weights)
    assert report.ignored == ("aux.bias", "aux.weight", "epoch")
    assert "ignore='auxx.*' matches nothing" in refused(network(), more, ignore=["auxx.*"])
    assert "1 entries are no tensors: epoch (int)" in refused(network(), more, ignore=("aux.*",))


def test_batches_need_not_be_counted(weights):
    del weights["1.num_batches_tracked"]
    module = network()
    load_checkpoint(module, weights)
    assert module[1].num_batches_tracked == 0
    assert torch.equal(module[1].running_mean, weights["1.running_mean"])


def test_values_take_the_dtype_of_the_module(weights):
    module = network().half()
    load_checkpoint(module, {name: v.double() for name, v in weights.items()})  # the count of batches, too
    assert torch.equal(module[0].weight, weights["0.weight"].half())
    assert module[1].num_batches_tracked.dtype == torch.int64
    assert module[1].num_batches_tracked == 7


def test_parameters_stay_the_same_objects(weights):
    module = network()
    before = list(module.parameters())
    load_checkpoint(module, weights)
    assert all(a is b for a, b in zip(before, module.parameters()))
    assert all(p.requires_grad for p in module.parameters())


# --- what is refused


def test_missing_unexpected_and_misshapen_entries_are_listed(weights):
    del weights["0.bias"]
    weights["4.scale"] = torch.ones(1)
    weights["3.weight"] = torch.ones(3, 5)
    message = refused(network(), weights)
    assert "Sequential: the state dict does not hold its weights." in message
    assert "1 missing: 0.bias; 1 unexpected: 4.scale; 1 of another shape: 3.weight [3, 5], not [3, 4]" in message


def test_long_lists_are_cut():
    message = refused(create_model("ddf_resnet50", width=8, layers=(1, 1, 1, 1)), {"x": torch.ones(1)})
    assert "111 missing: conv1.weight, bn1.weight, " in message
    assert " and 103 more; 1 unexpected: x" in message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(4, 3, 3, 3, dtype=torch.complex64), "0.weight is torch.complex64, not torch.float32"),
        (torch.ones(4, 3, 3, 3, dtype=torch.int8), "0.weight is torch.int8, and not torch.float32"),
        (torch.ones(4, 3, 3, 3, device="meta"), "0.weight is on the meta device: it has no values"),
        (torch.ones(4, 3, 3, 3).to_sparse(), "0.weight is torch.sparse_coo"),
    ],
)
def test_tensors_that_are_no_weights(weights, value, message):
    assert f"1 unusable: {message}" in refused(network(), {**weights, "0.weight": value})


def test_a_module_without_values(weights):
    with torch.device("meta"):
        module = network()
    with pytest.raises(DynError, match=r"9 unusable: 0\.weight is on the meta device in the module"):
        load_checkpoint(module, weights)
    with pytest.raises(DynError, match=r"weight is not initialised in the module: run a forward first"):
        load_checkpoint(nn.LazyConv2d(4, 3), nn.Conv2d(3, 4, 3))


def test_a_module_that_refuses_is_as_it_was():
    """The layer checks the number when it is loaded, when other entries are there already."""
    source, module = DGConv2d(16, 8, 1), DGConv2d(16, 8, 1)
    state = source.state_dict()
    state["inactive_channels"] = torch.tensor(99)
    assert "inactive=99 is outside 0..16" in refused(module, state)
    assert module.inactive == 12


def test_values_that_become_infinite(weights):
    weights["0.weight"][0, 0, 0, 0] = 1e6
    message = "1 unusable: 0.weight has values, such as 1e+06, that are infinite in torch.float16"
    assert message in refused(network().half(), weights)
    weights["0.weight"][0, 0, 0, 1] = torch.nan
    assert message in refused(network().half(), weights)
    load_checkpoint(network().bfloat16(), weights)
    weights["1.num_batches_tracked"] = torch.tensor(torch.inf)
    assert "1.num_batches_tracked is torch.float32, and not torch.int64" in refused(network(), weights)


def test_values_that_are_not_finite_are_mentioned(weights):
    assert load_checkpoint(network(), weights).not_finite == ()
    weights["0.bias"][1], weights["1.running_var"][0] = torch.nan, torch.inf
    report = load_checkpoint(network().half(), weights)
    assert report.not_finite == ("0.bias", "1.running_var")
    assert "warning: NaN or infinite values in 0.bias, 1.running_var" in str(report)


def test_other_networks_say_what_to_build():
    small = {"layers": (1, 1, 1, 1), "width": 8}
    classes, features = (
        create_model("scnet50", num_classes=7, **small),
        create_model("scnet50", features_only=True, **small),
    )
    assert "fix: num_classes=7" in refused(create_model("scnet50", **small), classes)
    assert "fix: ignore=('fc.*',)" in refused(features, classes)
    load_checkpoint(features, classes, ignore=("fc.*",))
    assert "fix: features_only=True" in refused(create_model("scnet50", **small), features)
    inside = {f"net.{k}": v for k, v in classes.state_dict().items()}
    assert "fix: ignore=('net.fc.*',)" in refused(features, inside, prefix="net")
    deeper = create_model("scnet50", features_only=True, width=8, layers=(1, 2, 1, 1))
    assert "Build the network as the checkpoint's was" in refused(features, deeper)
    turned = {k: v.mT if k == "fc.weight" else v for k, v in classes.state_dict().items()}
    assert "Build the network as the checkpoint's was" in refused(classes, turned)
    wide = create_model("scnet50", **{**small, "width": 16})
    message = refused(create_model("scnet50", num_classes=7, **small), wide)
    assert "conv1.weight [16, 3, 7, 7], not [8, 3, 7, 7]" in message
    assert "Build the network as the checkpoint's was" in message


def test_other_deformable_stages():
    """The checkpoint has more predictors than the network, fewer, other ones, of another size, or none."""

    def made(*stages):
        return create_model(
            "resnet50_dcnv2", stages=stages, features_only=True, width=8, layers=(1, 1, 1, 1), offset_groups=2
        )

    theirs = {k.replace("predictor", "conv_offset"): v for k, v in made(4, 5).state_dict().items()}
    inside = {f"backbone.{k}": v for k, v in theirs.items()}
    for stages in ((5,), (3, 4, 5), (3,)):
        message = refused(made(*stages), inside, prefix="backbone")
        assert "fix: stages=(4, 5): there the checkpoint's convolutions are deformable." in message
    wrong = {k.replace(".conv_offset", "_offset"): v[:27] if "offset" in k else v for k, v in theirs.items()}
    assert "fix: offset_groups=" in refused(made(4, 5), wrong)

    plain, target = made(), made(4, 5)
    message = refused(target, plain)
    assert "4 missing: layer3.0.conv2.predictor.weight, layer3.0.conv2.predictor.bias, " in message
    assert "stages=()), then model.load_state_dict(plain.state_dict(), strict=False)" in message
    classes = {**plain.state_dict(), "fc.weight": torch.ones(5, 256), "fc.bias": torch.ones(5)}
    assert "In the checkpoint these convolutions are plain." in refused(target, classes)
    target.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(target.layer3[0].conv2.weight, plain.layer3[0].conv2.weight)


def test_averages_beside_the_weights(weights):
    """As mmdetection's hook saves them, of a whole detector."""
    both = weights | {f"ema_{name.replace('.', '_')}": value for name, value in weights.items()}
    assert "fix: ignore=('ema_*',)" in refused(network(), both)
    load_checkpoint(network(), both, ignore=["ema_*"])


def test_a_layer_in_a_checkpoint_of_a_network():
    source = create_model("ddf_resnet50", width=8, layers=(1, 1, 1, 1))
    assert "fix: prefix='layer2.0.conv2'" in refused(DDF(16), source)
    load_checkpoint(DDF(16), source, prefix="layer2.0.conv2")
    deformable = {f"net.{k}": v for k, v in ModulatedDeformConv2d(4, 6, 3).state_dict().items()}
    theirs = {k.replace("predictor", "conv_offset"): v for k, v in deformable.items()}
    other = {k.replace("net", "more"): torch.ones(18, 5, 3, 3) for k in theirs if k.endswith("offset.weight")}
    assert "fix: prefix='net'" in refused(ModulatedDeformConv2d(4, 6, 3), theirs | other)


def test_a_layer_with_a_bias_that_the_checkpoint_lacks():
    state = ModulatedDeformConv2d(4, 6, 3, bias=False).state_dict()
    message = refused(ModulatedDeformConv2d(4, 6, 3), state)
    assert "1 missing: bias" in message
    assert "fix: ModulatedDeformConv2d(…, bias=False)" in message


def test_two_layouts_at_once():
    state = ModulatedDeformConv2d(4, 6, 3).state_dict()
    doubled = {**state, "conv_offset.weight": state["predictor.weight"]}
    assert "conv_offset.weight and predictor.weight are both predictor.weight" in refused(
        ModulatedDeformConv2d(4, 6, 3), doubled
    )
    load_checkpoint(ModulatedDeformConv2d(4, 6, 3), doubled, ignore=["conv_offset.*"])


class Attack:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new", [True, False])
def test_code_is_refused_and_not_run(tmp_path, weights, new):
    mark = tmp_path / "was here"
    torch.save({"state_dict": weights, "x": Attack(mark)}, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    message = refused(network(), tmp_path / "w.pth")
    assert "w.pth holds more than tensors: " in message
    assert "Only tensors are read, never code" in message
    assert "If you trust it: found = torch.load('w.pth'" in message
    assert not mark.exists()


class Detour(Attack):
    """The same by way of classes that are passed over: Path(…).touch() is getattr(PosixPath, "touch")(…)."""

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_what_is_passed_over_cannot_be_called(tmp_path, weights):
    mark = tmp_path / "was here"
    torch.save({"state_dict": weights, "x": Detour(mark)}, tmp_path / "w.pth")
    assert "w.pth holds more than tensors." in refused(network(), tmp_path / "w.pth")
    assert not mark.exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(network(), tmp_path / "w.pth")
    assert "found.state_dict() where it is a module" in refused(network(), tmp_path / "w.pth")


def test_bare_pickles_are_refused(tmp_path):
    """As detectron2 has them: arrays of NumPy, without torch's frame."""
    (tmp_path / "R-50.pkl").write_bytes(b"\x80\x04}\x94\x8c\x05model\x94}\x94s.")
    message = refused(network(), tmp_path / "R-50.pkl")
    assert "a bare pickle is a program" in message
    assert "pickle.load(open('R-50.pkl', 'rb'), encoding='latin1')['model']" in message


def test_arrays_are_no_tensors(tmp_path, weights):
    arrays = {name: value.numpy() for name, value in weights.items()}
    for found in (arrays, {"model": arrays}):
        message = refused(network(), found)
        assert "There are no tensors in the state dict" in message
        assert "fix: {name: torch.as_tensor(value) for name, value in weights.items()}" in message
    torch.save({"model": arrays}, tmp_path / "w.pth")
    assert "If these are NumPy's arrays, and you trust the file: " in refused(network(), tmp_path / "w.pth")
    torch.save({"model": {**weights, "0.bias": arrays["0.bias"]}}, tmp_path / "w.pth")
    assert "1 entries are no tensors: 0.bias (an object that is not read)" in refused(network(), tmp_path / "w.pth")


def test_torchscript_is_refused(tmp_path):
    stream = io.BytesIO()
    torch.save({}, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(tmp_path / "w.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("archive/constants.pkl", old.read("archive/data.pkl"))
    assert "torch.jit.load('w.pt').state_dict()" in refused(network(), tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_broken_files(tmp_path, weights, name):
    assert "There is no file" in refused(network(), tmp_path / name)
    assert f"{tmp_path} is a directory." in refused(network(), tmp_path)
    path = tmp_path / name
    for content in (b"", b"not a tensor"):
        path.write_bytes(content)
        assert "cannot be read" in refused(network(), path)
    (save_file if name.endswith("safetensors") else torch.save)(weights, path)
    path.write_bytes(path.read_bytes()[:-200])
    assert "cannot be read" in refused(network(), path)
    assert "The path of one file: w." in refused(network(), tmp_path)


def test_a_changed_bit_is_found(tmp_path, weights):
    path = tmp_path / "w.pth"
    torch.save(weights, path)
    content = bytearray(path.read_bytes())
    content[content.index(weights["0.weight"].numpy().tobytes()) + 5] ^= 0x40
    path.write_bytes(content)
    message = refused(network(), path)
    assert "w.pth is damaged: w/data/0." in message
    assert "Copy or download it again." in message


def test_files_without_checksums(tmp_path, weights):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    module = network()
    load_checkpoint(module, tmp_path / "w.pth")
    assert same(module, weights)


@pytest.mark.parametrize(
    ("source", "called"),
    [
        (None, "NoneType"),
        (5, "int"),
        ([("a", torch.ones(1))], "list"),
        (torch.ones(2), "Tensor"),
        (b"w.pth", "bytes"),
        (nn.Linear, "the class Linear"),
        (nn.Linear(1, 1).named_parameters(), "generator"),
        ("", "an empty path"),
    ],
)
def test_what_is_no_checkpoint(source, called):
    assert f"This is no checkpoint: {called}." in refused(network(), source)


@pytest.mark.parametrize("target", [None, {}, nn.Linear])
def test_what_is_no_module(target, weights):
    with pytest.raises(DynError, match=r"is to be filled is no module: (.|\n)*the module first"):
        load_checkpoint(target, weights)


@pytest.mark.parametrize("source", [{}, {"epoch": 3}, {"state_dict": {}}])
def test_nothing_to_read(source):
    assert "There are no tensors in the state dict" in refused(network(), source)


def test_something_else_in_a_file(tmp_path):
    torch.save(torch.ones(2), tmp_path / "w.pth")
    assert "There is a Tensor in w.pth, not a state dict" in refused(network(), tmp_path / "w.pth")


def test_the_report_is_readable():
    layer = ModulatedDeformConv2d(4, 6, 3, bias=False)
    state = {k.replace("predictor", "conv_offset_mask"): v for k, v in layer.state_dict().items()}
    saved = {f"module.dcn.{k}": v for k, v in {**state, "bias": torch.zeros(6), "steps": torch.zeros(1)}.items()}
    saved["module.fc.weight"] = torch.ones(3)
    report = load_checkpoint(layer, {"model": saved, "ema": saved}, prefix="dcn", ignore=["*.steps"])
    assert str(report).splitlines() == [
        "ModulatedDeformConv2d from the state dict['model']: 3 of 6 entries",
        "  taken off all names: module.",
        "  under dcn, and 1 elsewhere",
        "  recognised: DCNv2 port (1 module)",
        "  ignored: dcn.steps",
        "  dropped: dcn.bias: zeros, and the layer has no bias",
        "  also there: ema (entry=)",
    ]
