"""The graph that an engine is built from: a bundle's, in the precision and with the bodies that were asked for."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import onnx
import onnx_ir as ir

from dyndeploy.bundle import ONNX, Bundle, Precision
from dyndeploy.errors import DynError, nearest
from dyndeploy.graph import apply
from dyndeploy.graph._rewrite import attribute, custom_nodes
from dyndeploy.graph.cast_precision import CastPrecision
from dyndeploy.ops._onnx import bodies
from dyndeploy.ops._spec import DOMAIN, PLUGIN_ATTRIBUTES, custom_ops, spec_of

#: Ops whose plugins exist in a version that rounds the factors of float32 products to TF32; DDF has none.
TF32_OPS = frozenset(str(s.name) for s in custom_ops()) - {"DecoupledDynamicFilter"}
_TF32 = "1-tf32"
_DEFORM = "ModulatedDeformConv2d"


@dataclass(frozen=True)
class CustomNode:
    """One of our nodes in the graph to be built.

    Attributes:
        name: the node's name.
        type: its op type.
        version: of the plugin that it asks for; None where it is to be built from its body.
    """

    name: str
    type: str
    version: str | None


@dataclass(frozen=True)
class Prepared:
    """What is given to the parser.

    Attributes:
        content: an ONNX file.
        onnx_sha256: digest of the bundle's file that it was made from.
        graph_sha256: digest of `content`.
        changes: what was changed in it, in words; empty where it is the bundle's file as it is.
        precision: of the graph.
        body: which body of ModulatedDeformConv2d it has.
        nodes: the custom nodes, in graph order.
    """

    content: bytes
    onnx_sha256: str
    graph_sha256: str
    changes: tuple[str, ...]
    precision: Precision
    body: Literal["standard", "gridsample"]
    nodes: tuple[CustomNode, ...]


def prepare(
    bundle: Bundle,
    *,
    precision: Precision | None = None,
    plugins: bool = True,
    inline: Collection[str] = (),
    tf32: bool = False,
) -> Prepared:
    """Read a bundle's graph and change it as an engine is to have it; the bundle stays as it is.

    Args:
        bundle: the bundle.
        precision: "fp16" or "bf16" casts a float32 graph as an export does; None is the bundle's own.
        plugins: nodes of ours become plugins; otherwise all are built from their bodies.
        inline: names or op types of nodes that are built from their bodies all the same.
        tf32: float32 products may round their factors to TF32.

    Raises:
        DynError: model.onnx is not what was exported or cannot be read, a node of ours is broken, the graph cannot be
            cast so, or `inline` names nothing.
    """
    manifest = bundle.manifest
    content = bundle.onnx_path.read_bytes()
    digest = _digest(content)
    if digest != manifest.files.get(ONNX):
        raise DynError(
            f"{bundle.onnx_path} is not the file that was exported.",
            why=f"Its digest is {digest[:19]}…, the manifest says {str(manifest.files.get(ONNX))[:19]}….",
            fix="Export the model again, or copy the bundle again.",
        )
    model = _model(content, bundle)
    _check_nodes(model)
    changes = []
    wanted = _precision(bundle, precision, tf32)
    if wanted != manifest.precision:
        model = _cast(model, wanted, gridsample=manifest.body == "gridsample")
        changes.append(f"cast from {manifest.precision} to {wanted}")
    names = _inlined(model, plugins, inline)
    body = manifest.body
    if names:
        for node, _ in custom_nodes(model):
            if node.name in names:
                for name in PLUGIN_ATTRIBUTES:
                    node.attributes.pop(name, None)
        changes.append("all from bodies" if not plugins else f"from bodies: {', '.join(sorted(names))}")
        if body == "standard" and any(n.name in names and n.op_type == _DEFORM for n, _ in custom_nodes(model)):
            body = "gridsample"
            function = bodies([spec_of(_DEFORM).key], gridsample=True)[_DEFORM]
            model.functions[function.identifier()] = function
            changes.append(f"GridSample body of {_DEFORM}")
    if tf32:
        for node, _ in custom_nodes(model):
            if node.op_type in TF32_OPS and node.name not in names:
                node.attributes["plugin_version"] = ir.AttrString("plugin_version", _TF32)
        changes.append("TF32 products")
    if changes:
        content = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    return Prepared(
        content=content,
        onnx_sha256=digest,
        graph_sha256=_digest(content),
        changes=tuple(changes),
        precision=wanted,
        body=body,
        nodes=tuple(
            CustomNode(str(n.name), n.op_type, None if n.name in names else str(attribute(n, "plugin_version")))
            for n, _ in custom_nodes(model)
        ),
    )


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _model(content: bytes, bundle: Bundle) -> ir.Model:
    try:
        return ir.serde.deserialize_model(onnx.ModelProto.FromString(content))
    except Exception as error:  # the error types of protobuf differ between its implementations
        raise DynError(f"{bundle.onnx_path} is not an ONNX file.", why=str(error), fix="Export again.") from None


def _check_nodes(model: ir.Model) -> None:
    """Refuse nodes of ours that no plugin would take, with their names: TensorRT's own words for it are few."""
    for node in model.graph:
        if node.domain != DOMAIN:
            continue
        known = [str(s.name) for s in custom_ops()]
        if node.op_type not in known:
            raise DynError(
                f"Node {node.name} is a {DOMAIN}::{node.op_type}, and there is no such operator.",
                fix=nearest(node.op_type, known),
            )
        spec = spec_of(node.op_type)
        for spec_attribute in spec.attributes:
            if spec_attribute.name not in node.attributes:
                raise DynError(
                    f"Node {node.name} ({node.op_type}) has no attribute {spec_attribute.name}.",
                    why="A node writes all its attributes, so that no runtime's default matters.",
                    fix="Export the model again with this version of dyndeploy.",
                )
            value = node.attributes[spec_attribute.name].value
            try:
                spec_attribute.check(node.op_type, list(value) if spec_attribute.type == "ints" else value)
            except (DynError, TypeError) as error:
                reason = error.what if isinstance(error, DynError) else str(error)
                reason = reason.replace(f"{spec_attribute.torch_name}=", f"{spec_attribute.name}=")
                raise DynError(
                    f"Node {node.name} ({node.op_type}) has a broken attribute {spec_attribute.name}.",
                    why=reason,
                    fix="Export the model again.",
                ) from None
        unknown = node.attributes.keys() - {a.name for a in spec.attributes} - PLUGIN_ATTRIBUTES.keys()
        if unknown:
            raise DynError(
                f"Node {node.name} ({node.op_type}) has an unknown attribute {', '.join(sorted(unknown))}.",
                why="TensorRT's parser would pass over it in silence.",
                fix=nearest(sorted(unknown)[0], [a.name for a in spec.attributes]),
            )


def _precision(bundle: Bundle, precision: Precision | None, tf32: bool) -> Precision:
    own = bundle.manifest.precision
    wanted = precision or own
    if wanted != own and own != "fp32":
        raise DynError(
            f"{bundle.path} is {own}, and cannot become {wanted}.",
            why="Precision is a property of the graph, and what was rounded does not come back.",
            fix=f"dyndeploy export RECIPE --precision {wanted}",
        )
    if tf32 and wanted != "fp32":
        raise DynError(
            f"tf32 is for float32 products; the graph is {wanted}.", fix="Leave out tf32, or precision='fp32'."
        )
    return wanted


def _cast(model: ir.Model, precision: Precision, *, gridsample: bool) -> ir.Model:
    """As an export with this precision casts, whose passes before the cast have run."""
    assert precision != "fp32"
    own = {identifier for identifier in model.functions if identifier[0] == DOMAIN}
    for identifier in own:
        del model.functions[identifier]
    for _, spec in custom_nodes(model):  # registers the schema, by which shapes are inferred
        importlib.import_module(spec.module("onnx"))
    inferred = onnx.shape_inference.infer_shapes(ir.serde.serialize_model(model))
    model = ir.serde.deserialize_model(inferred)
    apply(model, [CastPrecision(precision), ir.passes.common.RemoveUnusedNodesPass()])
    for function in bodies(sorted({s.key for _, s in custom_nodes(model)}), gridsample=gridsample).values():
        model.functions[function.identifier()] = function
    return model


def _inlined(model: ir.Model, plugins: bool, inline: Collection[str]) -> set[str]:
    """Names of the nodes that are built from their bodies."""
    nodes = [(str(n.name), n.op_type) for n, _ in custom_nodes(model)]
    known = {name for pair in nodes for name in pair}
    for name in sorted(inline):
        if name not in known:
            raise DynError(
                f"inline names {name!r}, which is neither a dynamic node nor its op type.",
                fix=nearest(name, sorted(known)),
            )
    names = {name for name, type_ in nodes if not plugins or name in inline or type_ in inline}
    lacking = sorted({t for name, t in nodes if name in names} - {f[1] for f in model.functions if f[0] == DOMAIN})
    if lacking:
        raise DynError(f"model.onnx has no function body for {', '.join(lacking)}.", fix="Export the model again.")
    return names
