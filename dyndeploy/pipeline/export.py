"""From a PyTorch model to a bundle."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from safetensors.numpy import save_file
from torch import nn

from dyndeploy._version import version
from dyndeploy.bundle import (
    GOLDENS,
    MANIFEST,
    ONNX,
    PRECISIONS,
    PROGRAM,
    Arrays,
    Bundle,
    Manifest,
    OpRecord,
    Precision,
    file_digest,
    golden_key,
    new_bundle_folder,
)
from dyndeploy.errors import DynError
from dyndeploy.graph import apply
from dyndeploy.graph._rewrite import REFERENCE, SOURCE, custom_nodes
from dyndeploy.graph.attach_bodies import AttachBodies
from dyndeploy.graph.cast_precision import CastPrecision
from dyndeploy.graph.fingerprint import fingerprints
from dyndeploy.graph.fold_batch_norm import FoldBatchNorm
from dyndeploy.graph.fold_constants import FoldConstants
from dyndeploy.graph.fuse_mixture import FuseMixture
from dyndeploy.graph.fuse_predictor import FusePredictor
from dyndeploy.graph.fuse_relu import FuseRelu
from dyndeploy.graph.name_dims import NameDims
from dyndeploy.graph.widen_predictor import WidenPredictor
from dyndeploy.runtimes.program import Program
from dyndeploy.runtimes.quiet import quiet
from dyndeploy.tensors import POINTS, Point, TensorSpec, seeded_arrays, sizes_at
from dyndeploy.tracing.lower import lower
from dyndeploy.tracing.signature import DimValue, ExampleInputs, Shape
from dyndeploy.tracing.trace import Traced, trace

Body = Literal["standard", "gridsample"]
BODIES: tuple[Body, ...] = ("standard", "gridsample")
#: protobuf's limit; a larger model would need its weights beside the file.
_MAX_BYTES = 2**31 - 1
_IR_VERSION = 10


def export(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: str | os.PathLike[str],
    *,
    inputs: Mapping[str, Shape] | None = None,
    dims: Mapping[str, DimValue] | None = None,
    outputs: Sequence[str] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    precision: Precision = "fp32",
    io_precision: Precision = "fp32",
    keep_fp32: Collection[str] = (),
    body: Body = "standard",
    targets: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Write a bundle: one ONNX file that every runtime executes, the program behind it, goldens and a manifest.

    Args:
        model: a float32 module on the CPU; it is traced in eval mode and left as it was.
        example_inputs: a tensor, a tuple of tensors, or a dict from argument name to tensor. They give number, rank,
            dtype and, without `ranges`, the range of the inputs; sizes of named dims are taken from `dims`.
        path: the bundle's folder, whose name is the model's. A bundle that is there already is replaced, anything else
            is refused; when the export fails, nothing changes.
        inputs: input name -> shape, with the name of a dim where its size may vary: {"x": ["batch", 3, "height", 224]};
            "2*height" is twice the size of that dim.
        dims: dim name -> (min, opt, max) or (min, opt, max, multiple). "batch" alone needs no `inputs`: it is dim 0.
        outputs: names of the outputs; by default the keys of a returned dict, "output", or "output_0", ….
        ranges: input name -> (low, high), realistic values in the input's own unit; goldens are drawn from them.
        precision: "fp32", "fp16" or "bf16": the precision of the ONNX graph.
        io_precision: precision of its inputs and outputs, "fp32" or the same as `precision`.
        keep_fp32: node names or ONNX op types that stay in float32.
        body: function body of ModulatedDeformConv2d, "standard" (DeformConv) or "gridsample".
        targets: runtimes the bundle is meant for; noted in the manifest.
        seed: of the goldens.
        progress: called with the name of each step.

    Returns:
        The opened bundle.

    Raises:
        DynError: the arguments do not fit the model, or the model cannot be traced or written.

    Example:
        >>> import tempfile
        >>> layer = nn.Conv2d(3, 4, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bundle = export(layer, torch.rand(1, 3, 8, 8), f"{folder}/conv", dims={"batch": (1, 2, 4)})
        ...     print(*bundle.manifest.inputs, *bundle.manifest.outputs, sep="\\n")
        input: float32 [batch, 3, 8, 8]
        output: float32 [batch, 4, 6, 6]
    """
    _check_choice("precision", precision, PRECISIONS)
    _check_choice("io_precision", io_precision, ("fp32", precision))
    _check_choice("body", body, BODIES)
    say = progress or (lambda step: None)
    with new_bundle_folder(path) as folder:
        say("tracing the model")
        traced = trace(model, example_inputs, inputs=inputs, dims=dims, outputs=outputs, ranges=ranges, seed=seed)
        _check_names([spec.name for spec in traced.inputs], traced.output_names)
        say("writing model.pt2")
        with quiet():
            torch.export.save(traced.program, folder / PROGRAM)
        say("translating to ONNX")
        graph = lower(traced.program, [spec.name for spec in traced.inputs], traced.output_names)
        kept = optimize(graph, symbols=traced.symbols, precision=precision, io_precision=io_precision, keep=keep_fp32)
        records = _records(graph)
        AttachBodies(gridsample=body == "gridsample")(graph)
        say("checking model.onnx")
        proto = _write_onnx(graph, folder / ONNX)
        say("computing the float64 reference")
        specs = [_described(spec, value) for spec, value in zip(traced.inputs, graph.graph.inputs)]
        points = _write_goldens(traced, specs, seed, folder / GOLDENS)
        manifest = Manifest(
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions=_versions(),
            precision=precision,
            io_precision=io_precision,
            body=body,
            dims=traced.dims,
            inputs=specs,
            outputs=[_described(TensorSpec(name=str(v.name), shape=()), v) for v in graph.graph.outputs],
            ops=records,
            nodes=fingerprints(proto),
            kept_fp32=kept,
            targets=list(targets),
            seed=seed,
            goldens=points,
            files={name: file_digest(folder / name) for name in (ONNX, PROGRAM, GOLDENS)},
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    return Bundle.open(path)


def optimize(
    model: ir.Model,
    *,
    symbols: Mapping[str, str],
    precision: Precision = "fp32",
    io_precision: Precision = "fp32",
    keep: Collection[str] = (),
) -> list[str]:
    """Run the passes up to the bodies, in place; return what stayed in float32 although the precision is lower."""
    passes: list[ir.passes.PassBase] = [
        FoldConstants(),
        FusePredictor(),
        FuseMixture(keep),
        WidenPredictor(),
        FoldBatchNorm(),
        FuseRelu(),
        NameDims(symbols),
        common.RemoveUnusedNodesPass(),
    ]
    cast = None
    if precision != "fp32":
        cast = CastPrecision(precision, io=io_precision, keep=keep)
        passes += [cast, common.RemoveUnusedNodesPass()]
    elif keep:
        raise DynError("keep_fp32 is given, but precision is fp32.", fix="precision='fp16' or 'bf16'")
    apply(model, passes)
    return cast.kept if cast else []


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise DynError(f"{name}={value!r} is not known.", fix=f"one of {', '.join(dict.fromkeys(allowed))}")


def _check_names(inputs: Sequence[str], outputs: Sequence[str]) -> None:
    for name in (*inputs, *outputs):
        if not name:
            raise DynError("An input or output has no name.", fix="Give it one in inputs or outputs.")
    for name in sorted({*inputs} & {*outputs}):
        raise DynError(f"{name!r} is the name of an input and of an output.", fix="Choose another in outputs.")


def _records(model: ir.Model) -> list[OpRecord]:
    return [
        OpRecord(
            name=str(node.name),
            type=node.op_type,
            folder=spec.folder,
            reference=node.metadata_props.get(REFERENCE, ""),
            source=node.metadata_props.get(SOURCE, ""),
        )
        for node, spec in custom_nodes(model)
    ]


def _write_onnx(model: ir.Model, path: Path) -> onnx.ModelProto:
    model.ir_version = _IR_VERSION
    model.producer_name, model.producer_version = "dyndeploy", version()
    proto = ir.serde.serialize_model(model)
    size = proto.ByteSize()
    if size > _MAX_BYTES:
        raise DynError(f"The model takes {size / 1e9:.1f} GB; one ONNX file holds at most 2 GB.")
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
    return proto


def _write_goldens(traced: Traced, specs: Sequence[TensorSpec], seed: int, path: Path) -> list[Point]:
    """Seeded inputs, in the graph's dtypes, and the float64 program's outputs, at each point with sizes of its own."""
    program = Program(traced.program, "float64")
    tensors: Arrays = {}
    points: list[Point] = []
    seen: list[dict[str, int]] = []
    for index, point in enumerate(POINTS):
        sizes = sizes_at(traced.dims, point)
        if sizes in seen:
            continue
        seen.append(sizes)
        points.append(point)
        arrays = seeded_arrays(specs, sizes, seed + index)
        results, _ = program.run(list(arrays.values()))
        # safetensors writes the memory as it lies, whatever the strides
        tensors |= {golden_key(point, "inputs", name): np.asarray(array, order="C") for name, array in arrays.items()}
        for name, result in zip(traced.output_names, results):
            if not np.isfinite(result).all():
                raise DynError(
                    f"Output {name} of the float64 reference is not finite at {point} {sizes}.",
                    why="The model does not survive its own input range, or its weights are broken.",
                    fix="Give realistic values in ranges.",
                )
            tensors[golden_key(point, "outputs", name)] = np.asarray(result, order="C")
    save_file(tensors, path)
    return points


def _described(spec: TensorSpec, value: ir.Value) -> TensorSpec:
    """The spec with the dtype and, for outputs, the shape that the graph gives it."""
    assert value.dtype is not None and value.shape is not None
    shape: tuple[Any, ...] = spec.shape or tuple(d if isinstance(d, int) else str(d.value) for d in value.shape)
    return spec.model_copy(update={"dtype": value.dtype.numpy().name, "shape": shape})


def _versions() -> dict[str, str]:
    packages = ("torch", "onnx", "onnx_ir", "onnxscript", "numpy")
    return {"dyndeploy": version()} | {name: metadata.version(name) for name in packages}
