"""Inner values: those that model.onnx and model.pt2 have in common, and the nodes that decide by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from dyndeploy.bundle import Bundle
from dyndeploy.errors import DynError
from dyndeploy.graph._rewrite import REFERENCE
from dyndeploy.ops._spec import OpSpec, spec_of
from dyndeploy.runtimes.program import Program


@dataclass(frozen=True)
class Site:
    """A node of model.onnx.

    Attributes:
        node, op_type: its name and type.
        dynamic: whether it is one of our ops.
        inputs, outputs: names of values; an input that is left out is not there.
    """

    node: str
    op_type: str
    dynamic: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """A node that takes a discrete decision.

    Attributes:
        node, op_type: its name and type in model.onnx.
        source: the node of model.pt2 that takes the same decision.
        spec: its operator.
        attributes: of the node of model.pt2, by their torch names.
        value: the value of model.onnx that it decides by (guide, saliency).
        reference: the node of model.pt2 that computes this value.
    """

    node: str
    op_type: str
    source: str
    spec: OpSpec
    attributes: Mapping[str, Any]
    value: str
    reference: str


@dataclass
class Anatomy:
    """The graph of model.onnx beside the program of model.pt2.

    Attributes:
        model: model.onnx.
        sites: its nodes, in topological order.
        choices: those that take discrete decisions, in the same order.
        reference: value of model.onnx -> node of model.pt2 that computes it, where that is known.
        producer: value of model.onnx -> the node it comes from.
    """

    model: onnx.ModelProto
    sites: list[Site] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    reference: dict[str, str] = field(default_factory=dict)
    producer: dict[str, Site] = field(default_factory=dict)

    @classmethod
    def of(cls, bundle: Bundle, program: Program) -> Anatomy:
        """Read the graph of a bundle.

        Raises:
            DynError: model.onnx is not ONNX.
        """
        try:
            anatomy = cls(onnx.load(bundle.onnx_path))
        except DecodeError as error:
            raise DynError(f"{bundle.onnx_path} is not an ONNX file.", why=str(error)) from error
        tensors = program.tensors
        records = {record.name: record for record in bundle.manifest.ops}
        for node in anatomy.model.graph.node:
            record = records.get(node.name)
            inputs = tuple(name for name in node.input if name)
            site = Site(node.name, node.op_type, record is not None, inputs, tuple(node.output))
            anatomy.sites.append(site)
            anatomy.producer |= dict.fromkeys(site.outputs, site)
            noted = {entry.key: entry.value for entry in node.metadata_props}.get(REFERENCE)
            reference = record.reference if record else noted or ""
            if reference in tensors and site.outputs:
                anatomy.reference[site.outputs[0]] = reference
            if record is None or record.source not in program.ops:
                continue
            spec = spec_of(record.type)
            if spec.choice is not None:
                value = node.input[[t.name for t in spec.inputs].index(spec.choice)]
                at = program.input_of(record.source, spec.choice)
                anatomy.reference.setdefault(value, at)
                attributes = program.attributes_of(record.source)
                anatomy.choices.append(Choice(node.name, node.op_type, record.source, spec, attributes, value, at))
        return anatomy
