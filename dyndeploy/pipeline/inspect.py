"""What a bundle or an ONNX file consists of, and who can run it how."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from dyndeploy.bundle import GOLDENS, MANIFEST, ONNX, PROGRAM, Bundle, file_digest
from dyndeploy.errors import DynError
from dyndeploy.ops._spec import DOMAIN, spec_of
from dyndeploy.pipeline.capabilities import Execution, executions
from dyndeploy.tensorrt.record import EngineRecord, records
from dyndeploy.tensors import Dim, TensorSpec

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class CustomNode:
    """One node of a dynamic op.

    Attributes:
        name: the node's name.
        type: its ONNX op type.
        inputs: input name of the op ("X", "W", …) -> shape.
        output: shape of the output.
        dtype: of its tensors; None when the file does not say.
        attributes: name -> value, in the order of the op's description.
    """

    name: str
    type: str
    inputs: dict[str, Shape]
    output: Shape
    dtype: str | None
    attributes: dict[str, Any]


@dataclass(frozen=True)
class CustomOp:
    """One type of dynamic op.

    Attributes:
        type: the ONNX op type.
        body: the standard ops of its function body; None when the file has no body for it.
        executions: how each runtime runs it.
    """

    type: str
    body: tuple[str, ...] | None
    executions: tuple[Execution, ...]


@dataclass(frozen=True)
class Parameters:
    """The floating-point constants.

    Attributes:
        count: numbers.
        bytes: their size.
        by_dtype: dtype -> numbers; what stayed float32 shows here.
    """

    count: int
    bytes: int
    by_dtype: dict[str, int]


@dataclass(frozen=True)
class FileRecord:
    """One file.

    Attributes:
        name: in the folder.
        bytes: its size.
        changed: it is not what was exported; None where no digest is known.
    """

    name: str
    bytes: int
    changed: bool | None


@dataclass(frozen=True)
class EngineReport:
    """An engine of the bundle.

    Attributes:
        target: "tensorrt" or "tensorrt-rtx".
        record: what is known of it; None where its record cannot be read.
        problem: why it cannot be used, and what to type; empty where nothing is wrong with its files.
    """

    target: str
    record: EngineRecord | None
    problem: str


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        name: of the bundle, or of the ONNX file.
        path: where it lies.
        bundle: it is a bundle, not an ONNX file alone.
        inputs, outputs: tensors with named dims.
        dims: name -> allowed sizes; empty for an ONNX file alone.
        precision, io_precision, body: as exported; None for an ONNX file alone.
        kept_fp32: what stayed float32 in a half-precision bundle, as the manifest says.
        opsets: domain -> version; the standard domain is "ai.onnx".
        standard: standard op -> number of nodes in the graph.
        required: the standard ops that a runtime needs: those of the graph and those of the bodies.
        nodes: the nodes of dynamic ops.
        ops: the types of dynamic ops, and who runs them how.
        parameters: the floating-point constants.
        producer: what wrote the ONNX file.
        versions: package -> version at export.
        goldens: the points at which the bundle has inputs and reference outputs.
        files: what lies there.
        engines: what was built from it.
    """

    name: str
    path: str
    bundle: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: dict[str, Dim]
    precision: str | None
    io_precision: str | None
    body: str | None
    kept_fp32: tuple[str, ...]
    opsets: dict[str, int]
    standard: dict[str, int]
    required: tuple[str, ...]
    nodes: tuple[CustomNode, ...]
    ops: tuple[CustomOp, ...]
    parameters: Parameters
    producer: str
    versions: dict[str, str]
    goldens: tuple[str, ...]
    files: tuple[FileRecord, ...]
    engines: tuple[EngineReport, ...] = ()

    @property
    def changed(self) -> tuple[str, ...]:
        """The files that are not what was exported."""
        return tuple(f.name for f in self.files if f.changed)


def inspect(target: Bundle | str | os.PathLike[str]) -> Inspection:
    """Look into a bundle or an ONNX file. No runtime and no torch is needed.

    Args:
        target: a bundle, its folder, or an ONNX file.

    Raises:
        DynError: there is neither, or the ONNX file cannot be read.
    """
    if not isinstance(target, Bundle) and Path(target).is_file():
        bundle, path = None, Path(target)
    else:
        bundle = target if isinstance(target, Bundle) else Bundle.open(target)
        path = bundle.onnx_path
    model = _load(path)
    manifest = bundle.manifest if bundle else None
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    custom = tuple(_custom_node(node) for node in nodes if node.domain == DOMAIN)
    bodies = {f.name: tuple(sorted({n.op_type for n in f})) for f in model.functions.values()}
    standard = Counter(_op_name(node) for node in nodes if node.domain != DOMAIN)
    types = sorted({node.type for node in custom})
    return Inspection(
        name=bundle.name if bundle else path.name,
        path=str(bundle.path if bundle else path),
        bundle=bundle is not None,
        inputs=tuple(manifest.inputs) if manifest else tuple(map(_tensor, model.graph.inputs)),
        outputs=tuple(manifest.outputs) if manifest else tuple(map(_tensor, model.graph.outputs)),
        dims=dict(manifest.dims) if manifest else {},
        precision=manifest.precision if manifest else None,
        io_precision=manifest.io_precision if manifest else None,
        body=manifest.body if manifest else None,
        kept_fp32=tuple(manifest.kept_fp32) if manifest else (),
        opsets={domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        standard=dict(sorted(standard.items(), key=lambda item: (-item[1], item[0]))),
        required=tuple(sorted({*standard, *(op for t in types for op in bodies.get(t, ()))})),
        nodes=custom,
        ops=tuple(_custom_op(t, bodies.get(t), custom, bundle is not None) for t in types),
        parameters=_parameters(model.graph),
        producer=f"{model.producer_name or 'unknown'} {model.producer_version or ''}".strip(),
        versions=dict(manifest.versions) if manifest else {},
        goldens=tuple(manifest.goldens) if manifest else (),
        files=_files(bundle) if bundle else (FileRecord(path.name, path.stat().st_size, None),),
        engines=tuple(_engines(bundle)) if bundle else (),
    )


def _engines(bundle: Bundle) -> Iterator[EngineReport]:
    for target, record in records(bundle).items():
        if isinstance(record, DynError):
            yield EngineReport(target, None, str(record))
            continue
        again = f"dyndeploy build {bundle.path} --target {target}"
        problem = ""
        if file_digest(record.path(bundle)) != record.sha256:
            problem = f"{record.file} is damaged: {again}"
        elif record.onnx_sha256 != bundle.manifest.files.get(ONNX):
            problem = f"built from another model.onnx: {again}"
        yield EngineReport(target, record, problem)


def _load(path: Path) -> ir.Model:
    """The model with the shapes of its inner values; weights in files of their own are left there."""
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # the error types of protobuf differ between its implementations
        raise DynError(f"{path} is not an ONNX file.", why=str(error)) from None
    if not proto.HasField("graph"):
        raise DynError(f"{path} is not an ONNX file.", why="It holds no graph.")
    for node in proto.graph.node:
        if node.domain == DOMAIN:  # registers the schema, by which shapes are inferred
            importlib.import_module(spec_of(node.op_type).module("onnx"))
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))


def _op_name(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _shape(value: ir.Value | None) -> Shape:
    if value is None or value.shape is None:
        return ("?",)
    return tuple(d if isinstance(d, int) else str(d.value or "?") for d in value.shape)


def _dtype(value: ir.Value | None) -> str | None:
    return None if value is None or value.dtype is None else str(value.dtype.numpy())


def _tensor(value: ir.Value) -> TensorSpec:
    return TensorSpec(name=str(value.name), dtype=_dtype(value) or "?", shape=_shape(value))


def _custom_node(node: ir.Node) -> CustomNode:
    spec = spec_of(node.op_type)
    return CustomNode(
        name=str(node.name),
        type=node.op_type,
        inputs={tensor.name: _shape(value) for tensor, value in zip(spec.inputs, node.inputs)},
        output=_shape(node.outputs[0]),
        dtype=_dtype(node.inputs[0]) or _dtype(node.outputs[0]),
        attributes={a.name: node.attributes[a.name].value for a in spec.attributes if a.name in node.attributes},
    )


def _custom_op(type_: str, body: tuple[str, ...] | None, nodes: Iterable[CustomNode], program: bool) -> CustomOp:
    dtypes = {node.dtype for node in nodes if node.type == type_}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    return CustomOp(type_, body, executions(body, dtype, program=program))


def _parameters(graph: ir.Graph) -> Parameters:
    tensors = [v.const_value for v in graph.initializers.values() if v.const_value is not None]
    floats = [t for t in tensors if t.dtype.is_floating_point()]
    by_dtype: Counter[str] = Counter()
    for tensor in floats:
        by_dtype[str(tensor.dtype.numpy())] += tensor.size
    return Parameters(sum(by_dtype.values()), sum(t.nbytes for t in floats), dict(by_dtype))


def _files(bundle: Bundle) -> tuple[FileRecord, ...]:
    changed, known = set(bundle.changed_files()), bundle.manifest.files
    names = dict.fromkeys([ONNX, PROGRAM, GOLDENS, *known, MANIFEST])
    return tuple(
        FileRecord(name, (bundle.path / name).stat().st_size, name in changed if name in known else None)
        for name in names
        if (bundle.path / name).is_file()
    )
