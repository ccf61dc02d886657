"""The recipe: a folder with a recipe.toml that says how to export one network.

What a recipe.toml may hold; only [model] and [inputs] are needed:

    description = "Handwritten digits, all five layers"

    [model]
    factory = "model:DigitsNet"         # model.py beside this file, or "package.module:callable"
    weights = "digits.safetensors"      # optional; or { file = "detector.pth", prefix = "backbone", ignore = ["fc.*"] }
    options = { classes = 10 }          # keyword arguments of the factory

    [dims]
    batch = [1, 4, 16]                  # or { min = 1, opt = 4, max = 16 }, or "1:4:16"

    [inputs.image]                      # in the order of forward()
    shape = ["batch", 1, 32, 32]        # sizes, names of dims, multiples of them ("2*height")
    range = [0.0, 1.0]                  # realistic values
    dtype = "float32"

    [outputs]
    names = ["logits"]

    [export]
    precision = "fp32"                  # fp32, fp16 or bf16
    io_precision = "fp32"               # of inputs and outputs
    keep_fp32 = []                      # nodes that stay in float32
    body = "standard"                   # or "gridsample", for runtimes without DeformConv
    targets = ["onnxruntime"]           # runtimes, "tensorrt", "tensorrt-rtx"
    seed = 0                            # of the inputs kept in the bundle, and of fresh weights
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from dyndeploy.bundle import Bundle, Precision
from dyndeploy.errors import DynError, MissingPackageError, nearest
from dyndeploy.runtimes import runtime_names
from dyndeploy.tensors import Dim, Range, TensorSpec, seeded_arrays, sizes_at, split_multiple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dyndeploy.tracing.signature import DimValue

FILE = "recipe.toml"


def _size(value: object) -> int | str:
    if (isinstance(value, int) and not isinstance(value, bool) and value >= 1) or (isinstance(value, str) and value):
        return value
    raise ValueError("a size (>= 1) or the name of a dim is expected")


def _target(name: str) -> str:
    known = runtime_names()
    if name not in known:
        raise ValueError(f"no such target. {nearest(name, known)}")
    return name


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WeightsSection(_Section):
    """model.weights: the arguments of `dyndeploy.load_checkpoint`; the file lies beside the recipe."""

    file: str
    prefix: str = ""
    ignore: list[str] = []
    entry: str | None = None


def _weights(value: object) -> object:
    return {"file": value} if isinstance(value, str) else value


class ModelSection(_Section):
    """[model]: what builds the network, and its weights."""

    factory: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]
    weights: Annotated[WeightsSection | None, BeforeValidator(_weights)] = None
    options: dict[str, Any] = {}


class InputSection(_Section):
    """[inputs.<name>]: one argument of forward()."""

    shape: list[Annotated[int | str, PlainValidator(_size)]]
    range: Range | None = None
    dtype: Literal["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"] = (
        "float32"
    )


class OutputsSection(_Section):
    """[outputs]: names in the order of what forward() returns."""

    names: list[str]


class ExportSection(_Section):
    """[export]: the arguments of `dyndeploy.export` of the same names."""

    precision: Precision = "fp32"
    io_precision: Precision = "fp32"
    keep_fp32: list[str] = []
    body: Literal["standard", "gridsample"] = "standard"
    targets: list[Annotated[str, AfterValidator(_target)]] = []
    seed: int = 0


class RecipeFile(_Section):
    """recipe.toml."""

    description: str = ""
    model: ModelSection
    dims: dict[str, Dim] = {}
    inputs: Annotated[dict[str, InputSection], Field(min_length=1)]
    outputs: OutputsSection | None = None
    export: ExportSection = ExportSection()


class Recipe:
    """A recipe that was read and is consistent.

    Attributes:
        folder: where recipe.toml, model.py and the weights lie. Its name is the recipe's name.
        file: what recipe.toml says.
    """

    def __init__(self, folder: Path, file: RecipeFile) -> None:
        self.folder, self.file = folder, file

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe.

        Args:
            path: the folder, or the TOML file in it.

        Raises:
            DynError: there is none, a field is unknown or has a wrong value, or shapes and dims disagree.
        """
        toml = Path(path)
        if toml.is_dir():
            toml /= FILE
        if not toml.is_file():
            raise DynError(f"There is no {toml}.", fix=f"Give a folder with a {FILE}, or the file itself.")
        try:
            content = tomllib.loads(toml.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DynError(f"{toml} is not TOML.", why=str(error)) from None
        dims = content.get("dims")
        if isinstance(dims, dict):
            content["dims"] = {name: Dim.parse(name, value) for name, value in dims.items()}
        try:
            file = RecipeFile.model_validate(content)
        except ValidationError as error:
            raise _field_error(toml, error) from None
        _check_dims(toml, file)
        return cls(toml.resolve().parent, file)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def inputs(self) -> list[TensorSpec]:
        """The inputs, in the order of forward()."""
        return [
            TensorSpec(name=name, dtype=i.dtype, shape=tuple(i.shape), range=i.range)
            for name, i in self.file.inputs.items()
        ]

    def build_model(self) -> nn.Module:
        """The network with its weights, in eval mode.

        Raises:
            DynError: the factory is not found or does not take the options, or the weights do not fit.
        """
        torch = _torch()
        from dyndeploy.pipeline.factory import build

        model = self.file.model
        with torch.random.fork_rng():  # without weights, a recipe makes the same network every time
            torch.manual_seed(self.file.export.seed)
            weights = model.weights.model_dump() if model.weights else None
            return build(self.folder, model.factory, model.options, weights)

    def example_inputs(self, dims: Mapping[str, Dim] | None = None) -> tuple[Tensor, ...]:
        """Seeded inputs at the opt sizes, for forward().

        Args:
            dims: take these instead of the recipe's.
        """
        torch = _torch()
        sizes = sizes_at(self.file.dims if dims is None else dims, "opt")
        arrays = seeded_arrays(self.inputs, sizes, self.file.export.seed)
        # torch takes no bfloat16 from NumPy: such an input goes through float32, which holds every bfloat16.
        return tuple(
            torch.from_numpy(array.astype("float32") if spec.dtype == "bfloat16" else array).to(
                getattr(torch, spec.dtype)
            )
            for spec, array in zip(self.inputs, arrays.values())
        )


def export_recipe(
    recipe: str | os.PathLike[str] | Recipe,
    output: str | os.PathLike[str] | None = None,
    *,
    precision: Precision | None = None,
    io_precision: Precision | None = None,
    body: Literal["standard", "gridsample"] | None = None,
    dims: Mapping[str, DimValue] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Export the network of a recipe.

    Args:
        recipe: its folder or file, or a loaded one.
        output: the folder of the bundle; bundles/<name of the recipe> when left out.
        precision, io_precision, body: instead of those in the recipe.
        dims: name -> (min, opt, max) instead of those in the recipe.
        progress: called with the name of each phase.

    Raises:
        DynError: the recipe is wrong, a dim in `dims` is not in it, or the network cannot be exported.
    """
    loaded = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    file = loaded.file
    for name in dims or {}:
        if name not in file.dims:
            raise DynError(
                f"Recipe {loaded.name} has no dim {name!r}.",
                fix=nearest(name, file.dims) if file.dims else "All its shapes are fixed.",
            )
    sizes = {**file.dims, **{name: Dim.parse(name, value) for name, value in (dims or {}).items()}}
    _torch()
    from dyndeploy.pipeline.export import export

    if progress:
        progress("building the model")
    given = {"precision": precision, "io_precision": io_precision, "body": body}
    settings = {**file.export.model_dump(), **{k: v for k, v in given.items() if v is not None}}
    if precision == "fp32":
        settings["keep_fp32"] = []  # what the recipe keeps is meant for its own, lower precision
    bundle: Bundle = export(
        loaded.build_model(),
        loaded.example_inputs(sizes),
        Path("bundles") / loaded.name if output is None else output,
        inputs={spec.name: list(spec.shape) for spec in loaded.inputs},
        dims=sizes,
        outputs=file.outputs.names if file.outputs else None,
        ranges={spec.name: spec.range for spec in loaded.inputs if spec.range is not None},
        progress=progress,
        **settings,
    )
    return bundle


def _torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise MissingPackageError("torch", "Exporting", "export") from None
    return torch


def _field_error(toml: Path, error: ValidationError) -> DynError:
    """The wrong fields: where they are, what was given, what is allowed. An unknown one may be a missing one."""
    errors = {kind: [e for e in error.errors() if e["type"] == kind] for kind in ("extra_forbidden", "missing")}
    first = next((found[0] for found in errors.values() if found), error.errors()[0])
    *path, name = first["loc"]
    field = ".".join(map(str, first["loc"]))
    unknown, missing = (", ".join(".".join(map(str, e["loc"])) for e in found) for found in errors.values())
    lacks = f" Missing: {missing}." if missing else ""
    if unknown:
        return DynError(f"{toml}: there is no field {unknown}.{lacks}", fix=nearest(str(name), _fields_at(path)))
    if missing:
        return DynError(f"{toml}: the field {field} is missing.", fix=f"fields there: {', '.join(_fields_at(path))}")
    reason = str(first["msg"]).removeprefix("Value error, ")
    return DynError(f"{toml}: {field} = {first['input']!r} is not allowed.", why=reason)


def _fields_at(path: Iterable[int | str]) -> list[str]:
    """The fields that the section at `path` may have."""
    section: type[BaseModel] = RecipeFile
    for key in path:
        if key not in section.model_fields:
            continue  # a name of the user's, such as that of an input
        annotation = section.model_fields[str(key)].annotation
        for candidate in (annotation, *get_args(annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                section = candidate
    return list(section.model_fields)


def _check_dims(toml: Path, file: RecipeFile) -> None:
    used: set[str] = set()
    for name, section in file.inputs.items():
        for dim in section.shape:
            _, base = split_multiple(str(dim))
            if isinstance(dim, str) and base not in file.dims:
                raise DynError(
                    f"{toml}: inputs.{name}.shape has the dim {base!r}, which [dims] lacks.",
                    fix=nearest(base, file.dims) if file.dims else f'[dims] {base} = "MIN:OPT:MAX"',
                )
            used.add(base)
    unused = [name for name in file.dims if name not in used]
    if unused:
        raise DynError(
            f"{toml}: dims.{unused[0]} is in no input's shape.", fix="Remove it, or put its name in a shape."
        )
