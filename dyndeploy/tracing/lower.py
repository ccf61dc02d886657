"""From a torch.export program to an ONNX graph of bare nodes, each knowing the program's node that it computes."""

from __future__ import annotations

import ast
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from dyndeploy.graph._rewrite import REFERENCE, SOURCE, custom_nodes
from dyndeploy.ops._onnx import OPSET
from dyndeploy.ops._spec import custom_ops
from dyndeploy.ops._torch import torch_op
from dyndeploy.runtimes.quiet import quiet

_FX_NODE = "pkg.torch.onnx.fx_node"
_SCOPES = "pkg.torch.onnx.name_scopes"


def translation_table() -> dict[Any, Any]:
    """Translation functions of the custom ops, for torch.onnx.export(custom_translation_table=…)."""
    return {torch_op(s): import_module(s.module("onnx")).translate for s in custom_ops()}


def lower(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """Translate a program with torch's exporter; custom ops become bare nodes of domain "dyndeploy".

    Every node whose output is a value of the program carries its name in the metadata (REFERENCE), every custom op
    node the name of its own call (SOURCE) too, and a name made of the module path. What the exporter notes beside that
    (stack traces, with the paths of this machine) is removed.
    """
    # Names that nothing else bears: the exporter would merge an input called "bias" with a parameter of that name.
    stand_ins = (
        [f"dyndeploy.input.{i}" for i in range(len(inputs))],
        [f"dyndeploy.output.{i}" for i in range(len(outputs))],
    )
    with quiet():
        exported = torch.onnx.export(
            program,
            (),
            input_names=stand_ins[0],
            output_names=stand_ins[1],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            custom_translation_table=translation_table(),
        )
    assert exported is not None and exported.exported_program is not None
    model = exported.model
    names = _program_names(exported.exported_program, stand_ins[1])
    scopes = {node: node.metadata_props.get(_SCOPES) for node in model.graph}
    for node in model.graph:
        fx_name = node.metadata_props.get(_FX_NODE, "").split(" ")[0].lstrip("%")
        node.metadata_props.clear()
        node.doc_string = None
        reference = names.get(str(node.outputs[0].name)) if node.outputs else None
        if reference is not None and len(node.outputs) == 1:
            node.metadata_props[REFERENCE] = reference
        scopes[node] = scopes[node] or fx_name
    for value in (*model.graph.inputs, *(v for n in model.graph for v in n.outputs)):
        value.metadata_props.clear()
    _name_custom_nodes(model, scopes)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    _rename(model, dict(zip((*stand_ins[0], *stand_ins[1]), (*inputs, *outputs))))
    return model


def _program_names(decomposed: ExportedProgram, outputs: Sequence[str]) -> dict[str, str]:
    """ONNX value name -> name of the node of the original program with the same value.

    The exporter decomposes the program first; a decomposed node remembers the node it came from. Of several that came
    from one, the last one has its value.
    """
    origin: dict[str, str] = {}
    last: dict[str, str] = {}
    for node in decomposed.graph.nodes:
        sources = node.meta.get("from_node")
        if node.op == "call_function" and sources:
            root = sources[-1]
            while root.from_node:
                root = root.from_node[-1]
            origin[node.name] = root.name
            last[root.name] = node.name
    names = {name: root for name, root in origin.items() if last[root] == name}
    output_node = next(n for n in decomposed.graph.nodes if n.op == "output")
    for value, name in zip(output_node.args[0], outputs):
        if value is not None and value.name in names:
            names[name] = names[value.name]
    return names


def _rename(model: ir.Model, names: Mapping[str, str]) -> None:
    """Give inputs and outputs their names; a parameter or inner value that has one of them gets another."""
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
    taken = {str(value.name) for value in values} | set(names.values())
    renamed: dict[ir.Value, str] = {}
    for value in values:
        name = str(value.name)
        if name in names:
            renamed[value] = names[name]
        elif name in names.values():
            renamed[value] = next(n for i in itertools.count(1) if (n := f"{name}_{i}") not in taken)
            taken.add(renamed[value])
    ir.convenience.rename_values(list(renamed), list(renamed.values()))


def _name_custom_nodes(model: ir.Model, scopes: dict[ir.Node, str | None]) -> None:
    """Name a custom op node after the module that it belongs to: "layer1.0.conv2"."""
    used: Counter[str] = Counter()
    for node, spec in custom_nodes(model):
        node.metadata_props[SOURCE] = node.metadata_props.get(REFERENCE, "")
        try:
            path = [s for s in ast.literal_eval(scopes[node] or "")[:-1] if s]
        except (SyntaxError, ValueError):
            path = []
        stem = path[-1] if path else spec.folder
        used[stem] += 1
        node.name = stem if used[stem] == 1 else f"{stem}_{used[stem] - 1}"
