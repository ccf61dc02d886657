"""Named tensors with named dims: what a model takes and gives, and whether an array fits.

One description serves the exporter, the sessions, the server and the packages. Neither torch nor onnx is imported.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import ml_dtypes
import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dyndeploy.errors import DynError

Point = Literal["min", "opt", "max"]
POINTS: tuple[Point, ...] = ("min", "opt", "max")
_MULTIPLE_OF = re.compile(r"([1-9]\d*)\*([^\W\d]\w*)")

_Size = Annotated[int, Field(ge=1, strict=True)]


class Dim(BaseModel):
    """The sizes that a named dim may have.

    Attributes:
        min, opt, max: smallest size, the size to be fastest at, largest size.
        multiple: every size is a multiple of it (32 for many detectors).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: _Size
    opt: _Size
    max: _Size
    multiple: _Size = 1

    @model_validator(mode="after")
    def _ordered(self) -> Dim:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"min <= opt <= max does not hold for {self.min}, {self.opt}, {self.max}")
        for size in (self.min, self.opt, self.max):
            if size % self.multiple:
                raise ValueError(f"{size} is not a multiple of {self.multiple}")
        return self

    @classmethod
    def parse(cls, name: str, value: Dim | int | Sequence[int] | Mapping[str, int] | str) -> Dim:
        """A Dim from (min, opt, max[, multiple]), a mapping, "min:opt:max[:multiple]" or one fixed size.

        Example:
            >>> Dim.parse("batch", "1:4:8")
            Dim(min=1, opt=4, max=8, multiple=1)

        Raises:
            DynError: the name is no identifier, the value is none of these, or the sizes are not ordered.
        """
        if not (isinstance(name, str) and name.isidentifier()):
            raise DynError(
                f"dims has {name!r}, which is not a name for a dim.",
                why="It stands in expressions such as 2*height, so it is an identifier.",
                fix="Use letters, digits and _, with no digit first.",
            )
        given = value
        try:
            if isinstance(value, Dim):
                return value
            if isinstance(value, str):
                value = [int(part) for part in value.split(":")]
            if isinstance(value, int):
                value = (value, value, value)
            if isinstance(value, Mapping):
                return cls(**value)
            if len(value) not in (3, 4):
                raise ValueError(f"{len(value)} numbers")
            return cls(**dict(zip(("min", "opt", "max", "multiple"), value)))
        except (TypeError, ValueError) as error:
            reason = _reason(error)
            raise DynError(
                f"dims.{name}={given!r} is not a dim.",
                why=reason,
                fix=f"{name}=MIN:OPT:MAX or MIN:OPT:MAX:MULTIPLE, for example {name}=1:4:8",
            ) from None

    def check(self, name: str, size: int) -> None:
        """Raise DynError when `size` is not allowed."""
        if not self.min <= size <= self.max:
            raise DynError(
                f"{name}={size} is outside {self.min}..{self.max}.", fix=f"Export again with a wider dims.{name}."
            )
        if size % self.multiple:
            raise DynError(f"{name}={size} is not a multiple of {self.multiple}, as dims.{name} says.")


def _reason(error: Exception) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" if e["loc"] else e["msg"].removeprefix("Value error, ")
            for e in error.errors()
        )
    return str(error)


def _ordered_range(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not -math.inf < low < high < math.inf:
        raise ValueError("(low, high) with low < high, both finite, is expected")
    return value


#: Realistic values (low, high) of an input.
Range = Annotated[tuple[float, float], AfterValidator(_ordered_range)]


@functools.lru_cache(1024)  # asked for every axis of every request
def split_multiple(dim: str) -> tuple[int, str]:
    """Factor and name of an entry of a shape; an entry of another form is a name.

    Example:
        >>> split_multiple("2*height"), split_multiple("height")
        ((2, 'height'), (1, 'height'))
    """
    match = _MULTIPLE_OF.fullmatch(dim)
    return (int(match[1]), match[2]) if match else (1, dim)


class TensorSpec(BaseModel):
    """A named input or output.

    Attributes:
        name: as in the ONNX file.
        dtype: NumPy's name ("float32", "float16", "bfloat16", "int64", …).
        shape: an int, the name of a dim, a multiple of one ("2*height"), or (outputs) an expression of dims, per axis.
        range: realistic values (low, high) of an input; seeded inputs are drawn from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: str = "float32"
    shape: tuple[int | str, ...]
    range: Range | None = None

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of arrays of this tensor.

        Raises:
            DynError: NumPy has no such dtype.
        """
        try:
            return _numpy_dtype(self.dtype)
        except TypeError:
            raise DynError(
                f"{self.name} is {self.dtype!r}, which is no dtype.", fix="float32, float16, bfloat16, int64, …"
            ) from None

    def size_at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of an input with each dim's name replaced by its size."""
        return tuple(d if isinstance(d, int) else _size_of(d, sizes) for d in self.shape)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} [{', '.join(map(str, self.shape))}]"


@functools.lru_cache(64)
def _numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _size_of(dim: str, sizes: Mapping[str, int]) -> int:
    factor, name = split_multiple(dim)
    return factor * sizes[name]


def sizes_at(dims: Mapping[str, Dim], point: Point) -> dict[str, int]:
    """The size of every dim at one point."""
    return {name: int(getattr(dim, point)) for name, dim in dims.items()}


def check_arrays(arrays: Mapping[str, Any], specs: Sequence[TensorSpec], dims: Mapping[str, Dim]) -> dict[str, int]:
    """Check that arrays are what `specs` ask, and return the size of every dim.

    Args:
        arrays: name -> anything with `shape` and `dtype`.
        specs: the inputs of a model.
        dims: the allowed sizes of named dims; a name that is not in it may have any size, the same in all inputs.

    Raises:
        DynError: `arrays` is no mapping, an input is missing or unknown, or dtype, rank or a size does not fit; nothing
            is converted silently.
    """
    if not isinstance(arrays, Mapping):
        raise DynError(
            f"The inputs are a {type(arrays).__name__}, expected a dict from input name to array.",
            fix=f"{{{', '.join(f'{spec.name!r}: array' for spec in specs)}}}",
        )
    expected = {spec.name: spec for spec in specs}
    missing, unknown = expected.keys() - arrays.keys(), arrays.keys() - expected.keys()
    if missing or unknown:
        raise DynError(
            "The inputs given are not those of the model."
            + (f" Missing: {', '.join(sorted(missing))}." if missing else "")
            + (f" Unknown: {', '.join(sorted(unknown))}." if unknown else ""),
            fix="; ".join(map(str, specs)),
        )
    sizes: dict[str, int] = {}
    bound_by: dict[str, str] = {}
    for name, spec in expected.items():
        array = arrays[name]
        if not _is_array(array):
            raise DynError(f"Input {name} is a {type(array).__name__}.", fix=f"numpy.asarray({name}, '{spec.dtype}')")
        if np.dtype(array.dtype) != spec.numpy_dtype:
            raise DynError(
                f"Input {name} is {array.dtype}, expected {spec.dtype}.", fix=f"{name}.astype('{spec.dtype}')"
            )
        if len(array.shape) != len(spec.shape):
            raise DynError(f"Input {name} has shape {list(array.shape)}, expected {len(spec.shape)} dims: {spec}.")
        for axis, (size, dim) in enumerate(zip(array.shape, spec.shape)):
            if isinstance(dim, int):
                if size != dim:
                    raise DynError(f"Input {name} has size {size} in dim {axis}, expected {dim}: {spec}.")
                continue
            factor, base = split_multiple(dim)
            if size % factor:
                raise DynError(f"Input {name} has size {size} in dim {axis}, which is not {dim}: {spec}.")
            if base in dims:
                dims[base].check(base, size // factor)
            if factor * sizes.setdefault(base, size // factor) != size:
                raise DynError(
                    f"{dim} is {factor * sizes[base]} by {bound_by[base]} and {size} in {name}; it must be the same."
                )
            bound_by.setdefault(base, name)
    return sizes


def bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    """The numbers of an array in C order, as bytes: where they lie, or of a copy where they do not lie so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _is_array(value: Any) -> bool:
    """Whether it has a shape and a dtype that NumPy knows (a torch.Tensor has not)."""
    try:
        np.dtype(value.dtype)
    except (AttributeError, TypeError):
        return False
    return hasattr(value, "shape")


def seeded_arrays(specs: Sequence[TensorSpec], sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs drawn from each input's range (default: standard normal for floats, 0..1 for integers).

    Integers, vectors and matrices are uniform. Maps (three dims and more) are made like pictures, each sample with a
    brightness and contrast of its own and with flat areas beside noise: on noise alone all samples look alike to a
    network, and what it decides by content it would decide the same way for all of them.
    """
    generator = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for spec in specs:
        shape = spec.size_at(sizes)
        if np.issubdtype(spec.numpy_dtype, np.integer) or spec.dtype == "bool":
            low, high = spec.range or (0, 1)
            drawn: np.ndarray[Any, Any] = generator.integers(int(low), int(high), size=shape, endpoint=True)
        elif spec.range is None:
            drawn = generator.standard_normal(shape)
        else:
            low, high = spec.range
            drawn = low + (high - low) * (_pictures(generator, shape) if len(shape) > 2 else generator.random(shape))
        arrays[spec.name] = drawn.astype(spec.numpy_dtype, order="C")
    return arrays


def _pictures(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Values 0..1: blocks of a 4x4 grid mixed with noise, per sample."""
    rows, columns = (np.arange(size) * 4 // size for size in shape[-2:])
    blocks = generator.random((*shape[:-2], 4, 4))[..., rows[:, None], columns]
    per_sample = (shape[0], *(1 for _ in shape[1:]))
    share, contrast = generator.random(per_sample), generator.uniform(0.3, 1.0, per_sample)
    darkest = generator.random(per_sample) * (1 - contrast)
    pictures: np.ndarray[Any, Any] = darkest + contrast * (share * blocks + (1 - share) * generator.random(shape))
    return pictures
