"""Recipes: what is read, what is refused and how, and that two of them do not get into each other's way."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dyndeploy.errors import DynError
from dyndeploy.pipeline.recipe import Recipe, export_recipe
from dyndeploy.tensors import Dim

GOOD = """
description = "two inputs"
[model]
factory = "model:Net"
options = { width = 4 }
[dims]
batch = [1, 2, 8]
height = "8:16:32:8"
[inputs.image]
shape = ["batch", 3, "height", 10]
range = [0.0, 1.0]
[inputs.label]
shape = ["batch"]
dtype = "int64"
range = [0, 9]
[outputs]
names = ["y"]
[export]
precision = "fp16"
keep_fp32 = ["Softmax"]
targets = ["onnxruntime"]
"""
MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width, name="net"):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)

    def forward(self, image, label):
        return self.conv(image).mean((1, 2, 3)) + label

def nothing():
    return None

answer = 42
"""


def write(folder, toml=GOOD, model=MODEL):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(toml)
    (folder / "model.py").write_text(model)
    return folder


def refused(folder, toml):
    with pytest.raises(DynError) as caught:
        Recipe.load(write(folder, toml))
    return str(caught.value)


def test_everything_is_read(tmp_path):
    recipe = Recipe.load(write(tmp_path / "two"))
    assert recipe.name == "two"
    assert recipe.file.description == "two inputs"
    assert recipe.file.dims == {
        "batch": Dim(min=1, opt=2, max=8),
        "height": Dim(min=8, opt=16, max=32, multiple=8),
    }
    assert [str(spec) for spec in recipe.inputs] == [
        "image: float32 [batch, 3, height, 10]",
        "label: int64 [batch]",
    ]
    assert [spec.range for spec in recipe.inputs] == [(0, 1), (0, 9)]
    assert recipe.file.outputs.names == ["y"]
    assert recipe.file.export.precision == "fp16"
    assert recipe.file.export.io_precision == "fp32"
    assert recipe.file.export.targets == ["onnxruntime"]


def test_a_shape_may_have_multiples_of_dims(tmp_path):
    recipe = Recipe.load(write(tmp_path / "two", GOOD.replace('"height", 10]', '"2*height", 10]')))
    assert recipe.example_inputs()[0].shape == (2, 3, 32, 10)


def test_the_file_itself_may_be_given(tmp_path):
    folder = write(tmp_path / "two")
    assert Recipe.load(folder / "recipe.toml").name == "two"


def test_the_model_is_built_in_eval_mode(tmp_path):
    model = Recipe.load(write(tmp_path / "two")).build_model()
    assert not model.training
    assert model.conv.out_channels == 4


def test_example_inputs_fit_the_model_and_the_ranges(tmp_path):
    recipe = Recipe.load(write(tmp_path / "two"))
    image, label = recipe.example_inputs()
    assert image.shape == (2, 3, 16, 10)
    assert image.dtype == torch.float32
    assert 0 <= image.min() < image.max() <= 1
    assert image.max() - image.min() > 0.3
    assert label.shape == (2,)
    assert label.dtype == torch.int64
    assert recipe.build_model()(image, label).shape == (2,)
    assert torch.equal(recipe.example_inputs()[0], image)


def test_bfloat16_inputs_keep_their_dtype(tmp_path):
    recipe = Recipe.load(write(tmp_path / "two", GOOD.replace('"int64"', '"bfloat16"')))
    assert recipe.example_inputs()[1].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("precision =", "precison =", ["no field export.precison", "precision? Allowed: precision, io_precision"]),
        ('dtype = "int64"', 'type = "int64"', ["no field inputs.label.type", "Allowed: shape, range, dtype"]),
        ("[outputs]", "[output]", ["no field output.", "outputs? Allowed: description, model"]),
        ('factory = "model:Net"', "", ["field model.factory is missing", "factory, weights, options"]),
        ('"fp16"', '"fp8"', ["export.precision = 'fp8'", "'fp32', 'fp16' or 'bf16'"]),
        ('"int64"', '"int65"', ["inputs.label.dtype = 'int65'", "'int64'"]),
        ("range = [0, 9]", "range = [0]", ["inputs.label.range"]),
        ('shape = ["batch"]', "shape = [0]", ["inputs.label.shape.0 = 0", "a size (>= 1) or the name"]),
        ('shape = ["batch"]', "shape = [true]", ["inputs.label.shape.0 = True"]),
        ('"model:Net"', '"model.Net"', ["model.factory = 'model.Net'"]),
        ("batch = [1, 2, 8]", "batch = [1, 9, 8]", ["dims.batch=[1, 9, 8] is not a dim", "min <= opt <= max"]),
        ("batch = [1, 2, 8]", "batch = 1.5", ["dims.batch=1.5 is not a dim"]),
        ('["batch", 3,', '["bach", 3,', ["inputs.image.shape", "'bach'", "batch? Allowed: batch, height"]),
        ('"height", 10]', "16, 10]", ["dims.height is in no input's shape"]),
        ("factory =", "fctory =", ["no field model.fctory. Missing: model.factory", "factory? Allowed"]),
        ("range = [0, 9]", "range = [9, 0]", ["inputs.label.range = [9, 0]", "low < high"]),
        ("range = [0, 9]", "range = [0, inf]", ["inputs.label.range", "both finite"]),
        ("batch = [1, 2, 8]", '"my dim" = 4', ["'my dim', which is not a name"]),
        ("batch = [1, 2, 8]", 'batch = { min = "1", opt = 2, max = 8 }', ["dims.batch=", "valid integer"]),
        ('["batch", 3,', '["2*bach", 3,', ["inputs.image.shape", "'bach'", "batch? Allowed: batch, height"]),
        ('targets = ["onnxruntime"]', 'targets = ["tensort"]', ["'tensort'", "tensorrt? Allowed: torch, onnxruntime"]),
        ("[model]", "[model", ["is not TOML"]),
    ],
)
def test_wrong_fields_are_named(tmp_path, old, new, expected):
    assert old in GOOD
    message = refused(tmp_path / "two", GOOD.replace(old, new, 1))
    for part in expected:
        assert part in message


def test_an_input_may_be_called_like_a_field(tmp_path):
    toml = GOOD.replace("inputs.label", "inputs.shape")
    assert [spec.name for spec in Recipe.load(write(tmp_path / "two", toml)).inputs] == ["image", "shape"]
    message = refused(tmp_path / "two", toml.replace('dtype = "int64"', "dtipe = 1"))
    assert "no field inputs.shape.dtipe" in message
    assert "dtype? Allowed: shape, range, dtype." in message


def test_no_recipe(tmp_path):
    with pytest.raises(DynError, match=r"There is no .*recipe\.toml"):
        Recipe.load(tmp_path)


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("model:Nett", "model has no 'Nett'(.|\n)*Net\\? Allowed: Net, "),
        ("models:Net", "no module 'models'(.|\n)*Put models.py beside recipe.toml"),
        ("torch.nn:Conf2d", "torch.nn has no 'Conf2d'(.|\n)*Conv2d\\?"),
        ("model:answer", "is a int, not a callable"),
    ],
)
def test_a_factory_that_is_not_there(tmp_path, factory, expected):
    recipe = Recipe.load(write(tmp_path / "two", GOOD.replace("model:Net", factory)))
    with pytest.raises(DynError, match=expected):
        recipe.build_model()


def test_a_factory_that_returns_no_module(tmp_path):
    toml = GOOD.replace("model:Net", "model:nothing").replace("{ width = 4 }", "{}")
    with pytest.raises(DynError, match="returned a NoneType"):
        Recipe.load(write(tmp_path / "two", toml)).build_model()


def test_options_that_the_factory_does_not_take(tmp_path):
    recipe = Recipe.load(write(tmp_path / "two", GOOD.replace("{ width = 4 }", "{ with = 4 }")))
    with pytest.raises(DynError, match=r"\{'with': 4\}(.|\n)*model:Net\(width, name='net'\)"):
        recipe.build_model()


def test_importable_factories(tmp_path):
    toml = GOOD.replace("model:Net", "torch.nn:Conv2d").replace(
        "{ width = 4 }", "{ in_channels = 3, out_channels = 5, kernel_size = 1 }"
    )
    assert Recipe.load(write(tmp_path / "two", toml)).build_model().out_channels == 5


def test_two_recipes_with_a_model_py_each(tmp_path):
    before, modules = list(sys.path), set(sys.modules)
    first = Recipe.load(write(tmp_path / "a" / "net"))
    second = Recipe.load(write(tmp_path / "b" / "net", model=MODEL.replace("3, width, 3", "3, 2 * width, 3")))
    built = [recipe.build_model() for recipe in (first, second, first)]
    assert [model.conv.out_channels for model in built] == [4, 8, 4]
    assert sys.path == before
    assert "model" not in sys.modules
    assert all(name.startswith("dyndeploy_recipe_") for name in set(sys.modules) - modules)


def test_an_edited_model_is_read_again(tmp_path):
    recipe = Recipe.load(write(tmp_path / "two"))
    assert recipe.build_model().conv.out_channels == 4
    write(tmp_path / "two", model=MODEL.replace("3, width, 3", "3, 3 * width, 3"))
    assert recipe.build_model().conv.out_channels == 12


def test_a_model_may_import_its_neighbours(tmp_path):
    folder = write(tmp_path / "two", model="from .layers import Net\n")
    (folder / "layers.py").write_text(MODEL)
    assert Recipe.load(folder).build_model().conv.out_channels == 4
    write(folder, model="from layers import Net\n")
    with pytest.raises(DynError, match=r"imports 'layers'(.|\n)*from \.layers import"):
        Recipe.load(folder).build_model()


def test_errors_in_the_users_code_stay_as_they_are(tmp_path):
    recipe = Recipe.load(write(tmp_path / "two", model="import a_package_that_nobody_has\n"))
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        recipe.build_model()
    recipe = Recipe.load(write(tmp_path / "three", model="raise RuntimeError('mine')\n"))
    with pytest.raises(RuntimeError, match="mine"):
        recipe.build_model()


def with_weights(folder, weights):
    toml = GOOD.replace('factory = "model:Net"', 'factory = "model:Net"\nweights = "w.safetensors"')
    recipe = Recipe.load(write(folder, toml))
    save_file(weights, folder / "w.safetensors")
    return recipe


def test_weights_are_loaded(tmp_path):
    weights = {"conv.weight": torch.randn(4, 3, 3, 3), "conv.bias": torch.randn(4)}
    model = with_weights(tmp_path / "two", weights).build_model()
    assert torch.equal(model.conv.weight, weights["conv.weight"])
    assert torch.equal(model.conv.bias, weights["conv.bias"])


def test_weights_of_another_network(tmp_path):
    recipe = with_weights(tmp_path / "two", {"conv.weight": torch.zeros(5, 3, 3, 3), "head": torch.zeros(1)})
    with pytest.raises(DynError) as caught:
        recipe.build_model()
    assert "missing: conv.bias" in str(caught.value)
    assert "unexpected: head" in str(caught.value)
    assert "conv.weight [5, 3, 3, 3], not [4, 3, 3, 3]" in str(caught.value)


def test_weights_that_cannot_be_read(tmp_path):
    recipe = with_weights(tmp_path / "two", {"conv.bias": torch.zeros(4)})
    (recipe.folder / "w.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(DynError, match="cannot be read"):
        recipe.build_model()
    (recipe.folder / "w.safetensors").unlink()
    with pytest.raises(DynError, match=r"there is no .*w\.safetensors"):
        recipe.build_model()


def test_checkpoints_of_training_code(tmp_path):
    """Of torch.save, too: tensors are read, code is not."""
    toml = GOOD.replace('factory = "model:Net"', 'factory = "model:Net"\nweights = "w.pth.tar"')
    recipe = Recipe.load(write(tmp_path / "two", toml))
    weights = {"module.conv.weight": torch.randn(4, 3, 3, 3), "module.conv.bias": torch.randn(4)}
    torch.save({"epoch": 3, "state_dict": weights}, recipe.folder / "w.pth.tar")
    assert torch.equal(recipe.build_model().conv.bias, weights["module.conv.bias"])
    torch.save({"state_dict": weights, "dim": Dim(min=1, opt=1, max=1)}, recipe.folder / "w.pth.tar")
    with pytest.raises(DynError, match=r"model\.weights = 'w\.pth\.tar'(.|\n)*more than tensors(.|\n)*never code"):
        recipe.build_model()


def test_a_part_of_a_checkpoint(tmp_path):
    """A detector's file: the backbone is under a prefix, and something in it is not wanted."""
    part = '{ file = "w.pth", prefix = "backbone", ignore = ["backbone.fc.*"], entry = "ema" }'
    recipe = Recipe.load(
        write(tmp_path / "two", GOOD.replace('factory = "model:Net"', f'factory = "model:Net"\nweights = {part}'))
    )
    conv = {"backbone.conv.weight": torch.randn(4, 3, 3, 3), "backbone.conv.bias": torch.randn(4)}
    torch.save({"ema": conv | {"backbone.fc.bias": torch.zeros(2), "neck": torch.zeros(1)}}, recipe.folder / "w.pth")
    assert torch.equal(recipe.build_model().conv.bias, conv["backbone.conv.bias"])
    wrong = GOOD.replace('factory = "model:Net"', 'factory = "model:Net"\nweights = { file = "w.pth", prefx = "a" }')
    with pytest.raises(DynError, match=r"no field model.weights.prefx(.|\n)*prefix\?"):
        Recipe.load(write(tmp_path / "three", wrong))


def test_exporting_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toml = GOOD.replace('["Softmax"]', '["Conv"]')
    phases = []
    bundle = export_recipe(
        write(tmp_path / "recipes" / "two", toml), dims={"batch": "1:3:4"}, precision="fp32", progress=phases.append
    )
    assert bundle.path == Path("bundles/two")
    manifest = bundle.manifest
    assert (bundle.name, manifest.precision, manifest.kept_fp32) == ("two", "fp32", [])
    assert manifest.dims["batch"] == Dim(min=1, opt=3, max=4)
    assert manifest.dims["height"] == Dim(min=8, opt=16, max=32, multiple=8)
    assert [str(spec) for spec in manifest.inputs] == [
        "image: float32 [batch, 3, height, 10]",
        "label: int64 [batch]",
    ]
    assert [spec.name for spec in manifest.outputs] == ["y"]
    assert manifest.targets == ["onnxruntime"]
    image = bundle.goldens("opt")[0]["image"]
    assert image.shape == (3, 3, 16, 10)
    assert 0 <= image.min() < image.max() <= 1
    assert phases[0] == "building the model"
    assert len(phases) > 3


def test_exporting_with_an_unknown_dim(tmp_path):
    with pytest.raises(DynError, match=r"no dim 'hight'(.|\n)*height\? Allowed: batch, height"):
        export_recipe(write(tmp_path / "two"), tmp_path / "out", dims={"hight": (8, 8, 8)})
    assert not (tmp_path / "out").exists()
