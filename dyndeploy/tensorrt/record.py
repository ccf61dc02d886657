"""What a bundle knows about an engine in it: engines/<target>/record.json, beside the engine's file.

The record is replaced in one step and names the engine's file: a reader sees the old engine or the new one, never half
of either.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dyndeploy.bundle import ENGINES, Bundle, write_atomically
from dyndeploy.errors import DynError
from dyndeploy.tensors import Dim

TargetName = Literal["tensorrt", "tensorrt-rtx"]
#: What an op became: a layer that calls the plugin library, or TensorRT's own layers from the function body.
How = Literal["plugin", "inlined"]

FORMAT = 1
RECORD = "record.json"


class EngineTensor(BaseModel):
    """An input or output of an engine.

    Attributes:
        name: as in the ONNX file.
        mode: "input" or "output".
        dtype: NumPy's name ("float32", "bfloat16", …).
        shape: as the engine has it; -1 where a size may vary.
        format: how it lies in memory, "linear" unless the build asked for another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    mode: Literal["input", "output"]
    dtype: str
    shape: tuple[int, ...]
    format: str = "linear"


class EngineOp(BaseModel):
    """What became of one custom node.

    Attributes:
        name: of the ONNX node.
        type: its op type.
        how: "plugin" or "inlined".
        version: of the plugin; None for an inlined body.
        layers: TensorRT's layers that it became, before these are fused; 1 for a plugin.
        dtype: of its output.
        format: of the map that a plugin reads, in the vendor's words ("Linear", "NHWC", …); None where the vendor
            does not tell, and for an inlined body.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: str
    how: How
    version: str | None
    layers: int
    dtype: str
    format: str | None


class Gpu(BaseModel):
    """A GPU, or a generation of them.

    Attributes:
        compute_capability: "8.9".
        name: of the GPU on which an engine was timed; None where it was built for a generation without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    compute_capability: str
    name: str | None = None

    def __str__(self) -> str:
        sm = f"sm_{self.compute_capability.replace('.', '')}"
        return f"{self.name} ({sm})" if self.name else sm


class Runtime(BaseModel):
    """The package that built an engine: only the same version is sure to load it.

    Attributes:
        package: the imported module ("tensorrt_rtx").
        version: "1.7.1.116".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


class EngineRecord(BaseModel):
    """record.json.

    Attributes:
        format: of this file.
        target: "tensorrt" or "tensorrt-rtx".
        file: the engine's file, in the same folder.
        bytes: its size.
        sha256: its digest, as `dyndeploy.bundle.file_digest` writes it.
        created: UTC, ISO 8601.
        onnx_sha256: digest of the bundle's model.onnx.
        precision, io_precision: of the graph that was built.
        body: which function body of ModulatedDeformConv2d the graph had.
        runtime: the package that built it.
        plugin_sha256: digest of the plugin library that the engine needs, or has inside; None where no op is a plugin.
        plugins_embedded: the library is inside the engine.
        gpus: what it runs on: the GPU on which it was timed, or the generations that it was built for.
        dims: the named dims of the profile.
        profiles: per profile, input -> (min, opt, max) shapes; inputs of fixed shape are left out.
        tensors: inputs and outputs.
        ops: the custom nodes.
        config: what the build was told, by name.
        seconds: wall time of the build.
        key: the cache key; two builds of equal keys give the same engine.
        key_parts: what the key consists of, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    target: TargetName
    file: str
    bytes: int
    sha256: str
    created: str
    onnx_sha256: str
    precision: str
    io_precision: str
    body: Literal["standard", "gridsample"]
    runtime: Runtime
    plugin_sha256: str | None
    plugins_embedded: bool
    gpus: tuple[Gpu, ...]
    dims: dict[str, Dim]
    profiles: tuple[dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]], ...]
    tensors: tuple[EngineTensor, ...]
    ops: tuple[EngineOp, ...]
    config: dict[str, Any]
    seconds: float
    key: str
    key_parts: dict[str, str]

    @property
    def inputs(self) -> tuple[EngineTensor, ...]:
        """The inputs."""
        return tuple(t for t in self.tensors if t.mode == "input")

    @property
    def outputs(self) -> tuple[EngineTensor, ...]:
        """The outputs."""
        return tuple(t for t in self.tensors if t.mode == "output")

    def path(self, bundle: Bundle) -> Path:
        """The engine's file."""
        return engine_folder(bundle, self.target) / self.file

    def save(self, folder: Path) -> None:
        """Write `folder`/record.json, whole or not at all.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        write_atomically(folder / RECORD, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> EngineRecord:
        """The record in a folder.

        Raises:
            DynError: there is none, it cannot be read, or its engine is missing.
        """
        file = folder / RECORD
        fix = f"dyndeploy build {folder.parents[1]} --target {folder.name}"
        if not file.is_file():
            raise DynError(f"{folder} has no engine.", fix=fix)
        try:
            record = cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise DynError(f"{file} cannot be read.", why=str(error), fix=fix) from None
        if record.format != FORMAT:
            raise DynError(f"{file} has format {record.format}, this version reads {FORMAT}.", fix=fix)
        if record.target != folder.name or Path(record.file).name != record.file:
            raise DynError(f"{file} is not the record of an engine for {folder.name}.", fix=fix)
        if not (folder / record.file).is_file():
            raise DynError(f"{folder / record.file} is missing.", why=f"{file} names it.", fix=fix)
        return record


def engine_folder(bundle: Bundle, target: str) -> Path:
    """engines/<target> of a bundle."""
    return bundle.path / ENGINES / target


def find(bundle: Bundle, target: str) -> EngineRecord:
    """The record of the engine that a bundle has for a target.

    Raises:
        DynError: it has none, with the command that builds it; or the record cannot be read.
    """
    folder = engine_folder(bundle, target)
    if not (folder / RECORD).is_file():
        raise DynError(
            f"{bundle.path} has no engine for {target}.", fix=f"dyndeploy build {bundle.path} --target {target}"
        )
    return EngineRecord.load(folder)


def records(bundle: Bundle) -> dict[str, EngineRecord | DynError]:
    """Every engine of a bundle by target; the error where a record cannot be read."""
    found: dict[str, EngineRecord | DynError] = {}
    folder = bundle.path / ENGINES
    for entry in sorted(os.listdir(folder)) if folder.is_dir() else ():
        if (folder / entry / RECORD).is_file():
            try:
                found[entry] = EngineRecord.load(folder / entry)
            except DynError as error:
                found[entry] = error
    return found
