"""Who runs a custom op how: one rule per runtime, as data.

An ONNX file carries each custom op as a node and as a function body of standard ops. A runtime takes a kernel
or plugin for the node where it has one, and the body where it has not; what counts then are the body's ops.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """What a runtime makes of some standard ops in a body.

    Attributes:
        ops: the standard ops, any of them.
        note: the condition, or what to do instead.
        dtypes: the dtypes that it concerns; all when empty.
        blocks: the body cannot run.
    """

    ops: tuple[str, ...]
    note: str
    dtypes: tuple[str, ...] = ()
    blocks: bool = False

    def applies(self, ops: Collection[str], dtype: str | None) -> bool:
        """Whether a body of these ops, with tensors of this dtype, meets the limit."""
        return not set(self.ops).isdisjoint(ops) and (not self.dtypes or dtype in self.dtypes)


@dataclass(frozen=True)
class Rule:
    """How one runtime runs custom ops.

    Attributes:
        runtime: its name.
        body: it runs the function body.
        native: what it has for the node itself, if anything.
        program: it runs model.pt2, not the ONNX file.
        limits: what stands in the body's way, the more special ones first.
    """

    runtime: str
    body: bool
    native: str | None = None
    program: bool = False
    limits: tuple[Limit, ...] = ()


# Of ONNX Runtime 1.31. DecoupledDynamicFilter's body has none of these: it computes in float32.
_ORT_CPU_BFLOAT16 = Limit(("Sigmoid", "MatMul", "Conv"), "its CPU kernels have no bfloat16", ("bfloat16",), blocks=True)
_ORT_LIMITS = (
    Limit(("DeformConv",), "its DeformConv kernel has no bfloat16", ("bfloat16",), blocks=True),
    Limit(("DeformConv",), "the DeformConv kernel inside needs onnxruntime >= 1.25"),
)
# One importer of DeformConv has float32, float16 and equal pads only; the other does not exist.
_TENSORRT_LIMITS = (Limit(("DeformConv",), "`build --no-plugins` takes its GridSample body"),)

RULES: tuple[Rule, ...] = (
    Rule("torch", body=False, native="torch custom op", program=True),
    Rule("onnxruntime", body=False, native="compiled kernel"),
    Rule("onnxruntime-bodies", body=True, limits=(_ORT_CPU_BFLOAT16, *_ORT_LIMITS)),
    Rule("onnxruntime-cuda", body=True, limits=_ORT_LIMITS),
    Rule("tensorrt", body=True, native="plugin", limits=_TENSORRT_LIMITS),
    Rule("tensorrt-rtx", body=True, native="plugin", limits=_TENSORRT_LIMITS),
)


@dataclass(frozen=True)
class Execution:
    """How one runtime runs one op.

    Attributes:
        runtime: its name.
        how: "torch custom op", "compiled kernel", "plugin or function body", "function body", "not at all"
        note: a condition of it, or why a way is closed; empty when there is nothing to say.
        runs: whether there is any way.
    """

    runtime: str
    how: str
    note: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.how} ({self.note})" if self.note else self.how


def executions(body: Collection[str] | None, dtype: str | None, *, program: bool = True) -> tuple[Execution, ...]:
    """How every runtime runs an op.

    Args:
        body: the standard ops of its function body; None when the file has no body for it.
        dtype: of the op's tensors; None when it is not known.
        program: there is a model.pt2.

    Example:
        >>> for way in executions(["DeformConv", "Split"], "float32"):
        ...     print(f"{way.runtime}: {way}")
        torch: torch custom op
        onnxruntime: compiled kernel
        onnxruntime-bodies: function body (the DeformConv kernel inside needs onnxruntime >= 1.25)
        onnxruntime-cuda: function body (the DeformConv kernel inside needs onnxruntime >= 1.25)
        tensorrt: plugin or function body (`build --no-plugins` takes its GridSample body)
        tensorrt-rtx: plugin or function body (`build --no-plugins` takes its GridSample body)
    """
    return tuple(_execution(rule, body, dtype, program) for rule in RULES)


def _execution(rule: Rule, body: Collection[str] | None, dtype: str | None, program: bool) -> Execution:
    note, native, body_runs = "", rule.native, rule.body
    if rule.program and not program:
        note, native = "it runs the model.pt2 of a bundle", None
    elif rule.body and body is None:
        note, body_runs = "the file has no function body for it", False
    elif rule.body and body is not None:
        limit = next((x for x in rule.limits if x.applies(body, dtype)), None)
        if limit:
            note, body_runs = limit.note, not limit.blocks
    ways = [way for way in (native, "function body" if body_runs else None) if way]
    return Execution(rule.runtime, " or ".join(ways) or "not at all", note, runs=bool(ways))
