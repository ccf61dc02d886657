"""The bundle: a folder with everything that a model needs on its way.

model.onnx            the one file that every runtime executes
model.pt2             the torch.export program: the torch runtime, without the user's code
manifest.json         what is in here, and how it was made
goldens.safetensors   seeded inputs and float64 reference outputs
engines/<target>/     what was built from it
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from dyndeploy.errors import DynError
from dyndeploy.tensors import Dim, Point, TensorSpec

FORMAT = 1
ONNX, PROGRAM, MANIFEST, GOLDENS = "model.onnx", "model.pt2", "manifest.json", "goldens.safetensors"
ENGINES = "engines"

Precision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
DTYPE_OF: Mapping[Precision, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

Arrays = dict[str, "np.ndarray[Any, Any]"]


class OpRecord(BaseModel):
    """One custom op node of the ONNX file.

    Attributes:
        name: the node's name.
        type: its ONNX op type.
        folder: the operator's folder ("dcnv2").
        reference: the node of model.pt2 that computes the same value as this node's output.
        source: the node of model.pt2 that is the op itself (they differ where a BatchNorm or ReLU was fused).
    """

    model_config = ConfigDict(frozen=True)

    name: str
    type: str
    folder: str
    reference: str
    source: str


class Manifest(BaseModel):
    """manifest.json."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    created: str
    versions: dict[str, str]
    precision: Precision
    io_precision: Precision
    body: Literal["standard", "gridsample"]
    dims: dict[str, Dim]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    ops: list[OpRecord]
    nodes: dict[str, str]
    kept_fp32: list[str]
    targets: list[str] = []
    seed: int
    goldens: list[Point]
    files: dict[str, str]
    check: dict[str, Any] | None = None


class Bundle:
    """An opened bundle.

    Attributes:
        path: the folder. Its name is the model's name.
        manifest: what manifest.json says.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open a bundle.

        Raises:
            DynError: there is no bundle, a file is missing, or the manifest is not one that this version reads.
        """
        folder = Path(path)
        file = folder / MANIFEST
        if not file.is_file():
            what = "is not a folder" if not folder.is_dir() else f"has no {MANIFEST}"
            raise DynError(f"{folder} {what}: it is not a bundle.", fix="dyndeploy export RECIPE writes one.")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(content, dict) and content.get("format") != FORMAT:
                raise DynError(
                    f"{file} has format {content.get('format')}, this version reads {FORMAT}.",
                    fix="Export the model again.",
                )
            manifest = Manifest.model_validate(content)
        except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
            raise DynError(f"{file} cannot be read.", why=str(error), fix="Export the model again.") from None
        missing = [name for name in manifest.files if not (folder / name).is_file()]
        if missing:
            raise DynError(f"{folder} lacks {', '.join(missing)}.", fix="Export the model again.")
        return cls(folder, manifest)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def onnx_path(self) -> Path:
        """model.onnx."""
        return self.path / ONNX

    @property
    def program_path(self) -> Path:
        """model.pt2."""
        return self.path / PROGRAM

    def goldens(self, point: Point) -> tuple[Arrays, Arrays]:
        """Seeded inputs and float64 reference outputs at one point.

        Raises:
            DynError: the bundle has no goldens at this point (points of equal sizes are stored once), or they cannot be
                read.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if point not in self.manifest.goldens:
            raise DynError(f"{self.path} has no goldens at {point}.", fix=f"one of {', '.join(self.manifest.goldens)}")
        try:
            stored = load_file(self.path / GOLDENS)
            inputs = {s.name: stored[golden_key(point, "inputs", s.name)] for s in self.manifest.inputs}
            outputs = {s.name: stored[golden_key(point, "outputs", s.name)] for s in self.manifest.outputs}
        except (OSError, SafetensorError) as error:
            reason = str(error)
        except KeyError as error:
            reason = f"It has no {error}."
        else:
            return inputs, outputs
        raise DynError(f"{self.path / GOLDENS} cannot be read.", why=reason, fix="Export the model again.")

    def changed_files(self) -> list[str]:
        """The files whose content is not what was exported."""
        return [n for n, digest in self.manifest.files.items() if file_digest(self.path / n) != digest]

    def save_manifest(self) -> None:
        """Write manifest.json, whole or not at all."""
        write_atomically(self.path / MANIFEST, self.manifest.model_dump_json(indent=2) + "\n")


def golden_key(point: Point, kind: Literal["inputs", "outputs"], name: str) -> str:
    """The key of one tensor in goldens.safetensors."""
    return f"{point}/{kind}/{name}"


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(scratch, 0o644)  # a scratch file is its owner's alone; a server is another user
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a path at which a bundle would overwrite something else; for callers with long work ahead of the export.

    An older bundle may be replaced, with the engines that were built from it.

    Raises:
        DynError: `path` exists and is not a bundle, or holds files that are not the bundle's.
    """
    target = Path(path)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        manifest = Bundle.open(target).manifest
    except DynError as error:
        raise DynError(
            f"{target} exists and is not a bundle.", why=error.what, fix="Choose another folder, or remove this one."
        ) from None
    known = {MANIFEST, ENGINES, *manifest.files}
    foreign = sorted(entry.name for entry in target.iterdir() if entry.name not in known)
    if foreign:
        raise DynError(
            f"{target} holds more than a bundle: {', '.join(foreign)}.",
            why="Replacing the bundle would delete it.",
            fix="Move it away, or choose another folder.",
        )


@contextmanager
def new_bundle_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A scratch folder beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    Raises:
        DynError: see `check_target`, or the folder cannot be made.
    """
    target = Path(path).resolve()  # the folder behind a link is replaced, not the link
    check_target(path)
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise DynError(f"{target} cannot be written.", why=str(error), fix="Choose another folder.") from None
    try:
        yield scratch
        scratch.chmod(0o755)
        _swap(scratch, target)
        made = []
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for parent in made:  # the innermost first; one that is in use by now stays
            with suppress(OSError):
                parent.rmdir()


def _swap(scratch: Path, target: Path) -> None:
    """Put `scratch` in the place of `target`; when that fails, `target` is as it was."""
    if not target.exists():
        os.replace(scratch, target)
        return
    old = scratch.with_name(scratch.name + ".old")
    os.replace(target, old)
    try:
        os.replace(scratch, target)
    except BaseException:
        os.replace(old, target)
        raise
    shutil.rmtree(old)
