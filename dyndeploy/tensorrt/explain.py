"""What a build that failed is told the user: what, why, and what to type, instead of the vendor's last line."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Sequence
from typing import cast

import onnx

from dyndeploy.errors import DynError, nearest
from dyndeploy.ops._spec import DOMAIN
from dyndeploy.tensorrt.process import Outcome
from dyndeploy.tensorrt.vendor import Creator, Target

_TAIL = 8

#: What the vendor's log says, what it means, and what to do; the first that is found counts.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"terminate called without an active exception",
        "The vendor's library opened itself by a name that its package does not have.",
        "dyndeploy doctor",
    ),
    (
        r"Cannot compile operation '(?P<op>[^']+)' for Turing",
        "{op} cannot be compiled for Turing.",
        "--gpus without turing, or --precision fp16",
    ),
    (
        r"Unsupported SM|SM 0x\w+ is not supported|compute capability .* not supported",
        "This version of the package has no kernels for the GPU.",
        "another version of the package, or another GPU",
    ),
    (
        r"Dimension mismatch for tensor (?P<tensor>\S+) and profile.*?axis (?P<axis>\d+), profile has (?P<has>.+?) "
        r"but tensor has (?P<size>-?\d+)",
        "Dim {axis} of {tensor} is {size} in the graph, and the profile asks for {has}.",
        "--dim NAME=MIN:OPT:MAX within the sizes that the bundle was exported for",
    ),
    (
        r"insufficient workspace|[Tt]ry increasing the workspace|requested size was \d+ while the allowed maximum",
        "A layer needs more scratch memory than it was allowed.",
        "a larger --workspace, or none",
    ),
    (r"out ?of ?memory|OutOfMemory|std::bad_alloc", "The memory did not suffice.", "smaller --dim maxima"),
    (
        r"Failed to find any supported plugin/custom tactic format|could not find any supported formats",
        "A plugin does not support the dtypes that the graph has there.",
        "--precision fp32, or export again",
    ),
    (
        r"CUDA driver version is insufficient",
        "The driver is older than the package needs, or there is none.",
        "nvidia-smi",
    ),
)


def failure(outcome: Outcome, target: Target, model: onnx.ModelProto, *, what: str, log: str | None) -> DynError:
    """The error for a build that did not end well.

    Args:
        outcome: of the worker.
        target: of the build.
        model: the graph that was built.
        what: the beginning of the first sentence: "bundles/digits cannot be built for tensorrt-rtx".
        log: the file that has the vendor's whole log; None where none was asked for.
    """
    failed = outcome.failed
    more = f"The whole log is in {log}." if log else "--log FILE keeps the vendor's whole log."
    if failed is None:
        return _ended(outcome, target, what, more)
    stage = failed["stage"]
    if stage == "prepare":
        return DynError(str(failed["what"]), why=failed.get("why"), fix=failed.get("fix"))
    if stage == "write":
        return DynError(
            f"{what}: the engine ({failed['bytes']:,} bytes) cannot be written.",
            why=failed["why"],
            fix="Make room on the disk; what the bundle had before is as it was.",
        )
    for error in failed.get("errors", ()):
        if "lugin not found" in error["description"]:
            return _not_found(error, failed.get("registered", ()), target, model, what)
    lines = [message for _, message in outcome.log]
    own = next((line.removeprefix("dyndeploy: ") for line in lines if line.startswith("dyndeploy: ")), None)
    if own:  # a plugin says what it does not like, with the node's name
        return DynError(f"{what}: a plugin refuses its node.", why=own, fix=f"Export the model again. {more}")
    cause, fix = _cause(lines, target) or ("", "")
    why = failed["why"] or "; ".join(_described(e) for e in failed.get("errors", ()))
    reasons = [cause, why, f"{target.title} said:\n{_tail(outcome, errors=True)}" if outcome.log else ""]
    return DynError(f"{what}.", why="\n".join(filter(None, reasons)) or None, fix=f"{fix}. {more}".lstrip(". "))


def _ended(outcome: Outcome, target: Target, what: str, more: str) -> DynError:
    """The process is gone without a word."""
    if outcome.returncode < 0:
        number = -outcome.returncode
        name = signal.Signals(number).name
        ended = f"the process that builds it was ended by {name} while {outcome.stage}"
    else:
        name, ended = "", f"the process that builds it ended with status {outcome.returncode} while {outcome.stage}"
    found = _cause([*(m for _, m in outcome.log), *outcome.stderr], target)
    if not found and name == "SIGKILL":
        found = ("Something killed it; the system does so when memory runs out.", "smaller --dim maxima")
    cause, fix = found or ("The vendor's library did so, not this program.", "")
    return DynError(
        f"{what}: {ended}.", why=f"{cause} Its last lines:\n{_tail(outcome)}", fix=f"{fix}. {more}".lstrip(". ")
    )


def _not_found(
    error: dict[str, object],
    registered: Iterable[Sequence[str]],
    target: Target,
    model: onnx.ModelProto,
    what: str,
) -> DynError:
    """Which plugin the graph asks for, which there are, and which was probably meant."""
    known = [Creator(*entry) for entry in registered]
    op, node = str(error["op"]), str(error["node"])
    inside = "".join(f", inside {name}" for name in cast("list[str]", error["inside"]))
    asked = [
        asked_for(n) for n in model.graph.node if n.domain not in ("", "ai.onnx") or (n.op_type == op and not inside)
    ]
    names = sorted({c.name for c in known})
    near = nearest(op, names).partition("?")[0] if "?" in nearest(op, names) else None
    meant = [c for c in known if c.name in (op, near)]
    lines = [
        f"{target.title} has no layer of that name and no plugin. The graph asks for:",
        *(f"  {creator}" for creator in dict.fromkeys(asked)),
        *([f"  {Creator(op, '1', '')}{inside}"] if inside else ()),
        "Registered are:",
        *(f"  {creator}" for creator in known),
    ]
    if meant:
        lines.append(f"The nearest is {', '.join(map(str, meant))}.")
    if op == "DeformConv":
        fix = "dyndeploy export RECIPE --body gridsample, or build with the plugins"
    elif near and near != op:
        fix = f"Is {near} meant? Export the model again."
    elif any(n.domain == DOMAIN and n.op_type == op for n in model.graph.node):
        fix = "Export the model again: its nodes and this version's plugins do not go together."
    else:
        fix = f"Write the model without {op}, or give it a function body."
    return DynError(f"{what}: nothing runs node {node} ({op}){inside}.", why="\n".join(lines), fix=fix)


def asked_for(node: onnx.NodeProto) -> Creator:
    """The plugin by which the parser looks for a node."""
    values = {a.name: a.s.decode(errors="replace") for a in node.attribute if a.type == onnx.AttributeProto.STRING}
    return Creator(node.op_type, values.get("plugin_version", "1"), values.get("plugin_namespace", node.domain))


def _cause(lines: Iterable[str], target: Target) -> tuple[str, str] | None:
    # Without a driver every other error drags one about it behind: a cause only where a driver is needed.
    text = "\n".join(line for line in lines if target.needs_gpu or "CUDA driver version" not in line)
    for pattern, cause, fix in _CAUSES:
        match = re.search(pattern, text)
        if match:
            return cause.format(**match.groupdict()), fix
    return None


def _described(error: dict[str, object]) -> str:
    return f"node {error['node']} ({error['op']}): {error['description']}"


def _tail(outcome: Outcome, *, errors: bool = False) -> str:
    """The last lines; of the worst kind only, where errors are what is asked for."""
    lines = [*(message for _, message in outcome.log), *outcome.stderr]
    for kinds in (("ERROR", "INTERNAL_ERROR"), ("WARNING",)) if errors else ():
        worst = [message for severity, message in outcome.log if severity in kinds]
        if worst:
            lines = worst
            break
    return "\n".join(f"  {line}" for entry in lines[-_TAIL:] for line in entry.splitlines())
