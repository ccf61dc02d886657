"""The engines of the GPU benchmarks: this project's kernels, and what else computes the same, or a bound of it.

An engine is a function of a problem and its tensors on the GPU; it returns the call that is timed. Tensors lie ready in
the engine's own form and layout before anything is timed. Weights are packed in every call of ours, as in torch.

The rivals of DCNv2 have no sigmoid: they get the masks activated and apart from the offsets; ours gets them raw.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import compositions
import torch
from gate import LeftOutError
from gpu_gate import Call, Recorded, several
from problems import Problem
from torch.nn import functional as F
from training import training_step

import dyndeploy
from dyndeploy import DynError

Tensors = dict[str, Any]

#: Relative L2 error up to which an engine computes the same, by the dtype of its products.
AGREEMENT = {"float32": 1e-4, "tf32": 5e-3, "float16": 5e-3, "bfloat16": 4e-2}
#: Of torchvision in float16: its coordinates are float16 as well, up to 1/16 of a pixel off on these maps.
COARSE = 0.2
#: Bytes of the large copy, many times what an L2 cache holds.
BULK = 1 << 29
DEVICE = "cuda"
#: What holds as long as the process lives.
_PROCESS = ExitStack()


@dataclass(frozen=True)
class Engine:
    """How an engine is made ready.

    Attributes:
        computes: the "operator", a training "step", a "plain" convolution, a "copy" of X, a "bulk" copy, one "element".
        make: (problem, tensors) -> the call.
        tf32: float32 products may use it.
        agreement: relative error that is allowed in half types, where it is not AGREEMENT.
    """

    computes: str
    make: Callable[[Problem, Tensors], Call]
    tf32: bool = False
    agreement: float | None = None

    def work(self, problem: Problem) -> tuple[int, int]:
        """Multiply-accumulates and bytes."""
        if self.computes in ("bulk", "element"):
            return 0, 2 * BULK if self.computes == "bulk" else 8
        return problem.work(self.computes)


@dataclass(frozen=True)
class Answer:
    """What an engine says of itself: its relative error, the error it may have, and why it has no CUDA graph."""

    error: float
    limit: float
    refusal: str


def prepare(name: str, problem: Problem) -> tuple[Recorded, Answer]:
    """What a worker does with a task."""
    engine = ENGINES[name]
    torch.cuda.empty_cache()
    # A process has one engine: a training step needs autograd all its life.
    _PROCESS.enter_context(torch.inference_mode(engine.computes != "step"))
    torch.backends.cudnn.benchmark = True
    dtype = getattr(torch, problem.dtype)
    tensors = {name: torch.from_numpy(array).to(DEVICE, dtype) for name, array in problem.draw().items()}
    _use_tf32(False)
    truth = several(_solve(engine, problem, {name: t.float() for name, t in tensors.items()}))
    _use_tf32(engine.tf32)
    call = engine.make(problem, tensors)
    limit = AGREEMENT["tf32" if engine.tf32 else problem.dtype]
    if problem.dtype != "float32" and engine.agreement:
        limit = engine.agreement

    def error(result: Any) -> float:
        return max(float((r.float() - t).norm() / t.norm()) for r, t in zip(several(result), truth, strict=True))

    first = error(call())
    recorded = Recorded(call, lambda result: error(result) <= limit)
    return recorded, Answer(first, limit, recorded.refusal)


def _use_tf32(allowed: bool) -> None:
    # torch's older switches: they keep what the newer ones say in step, the newer ones do not.
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def _solve(engine: Engine, problem: Problem, tensors: Tensors) -> Any:
    """The right answer in float32, by the reference: one image after the other, for it takes much memory."""
    if engine.computes in ("bulk", "element"):
        return torch.ones(1, device=tensors["X"].device)
    if engine.computes == "step":
        return problem.gradients(list(tensors.values()))
    if engine.computes != "operator":
        return problem.solve(engine.computes, tensors)
    one = replace(problem, shape=(1, *problem.shape[1:]))
    batched = {tensor.name for tensor in problem.case.spec.inputs if tensor.shape[0] == "N"}
    images = []
    for index in range(problem.shape[0]):
        image = {name: t[index : index + 1] if name in batched else t for name, t in tensors.items()}
        images.append(one.solve("operator", image))
    return torch.cat(images)


def _last(tensor: Any) -> Any:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise LeftOutError(f"{package} is not installed: pip install {package}") from None
        raise LeftOutError(f"{package} is installed, but does not load: {error}") from None


# --- ours


def ours(problem: Problem, tensors: Tensors) -> Call:
    """An engine of ours takes part with its compiled library only; the references are not what is measured."""
    from dyndeploy.native import kernels

    try:
        dyndeploy.library_path("cuda")
    except DynError as error:
        raise LeftOutError(f"{error.what} {error.fix}") from None
    assert kernels.available(problem.case.spec, "forward", tensors["X"])
    values, keywords = list(tensors.values()), problem.public_keywords()
    op = problem.public_function()
    return lambda: op(*values, **keywords)


def ours_last(problem: Problem, tensors: Tensors) -> Call:
    return ours(problem, {name: _last(tensor) for name, tensor in tensors.items()})


def ddf_up_composed(problem: Problem, tensors: Tensors) -> Call:
    """One DDF per sub-pixel with our own kernel, stacked, and a pixel shuffle: what the official DDF-Up does."""
    x, channel, spatial, gain = tensors.values()
    parts = problem.scale**2
    calls = [
        ours(replace(problem, scale=1), dict(zip(tensors, (x, *three))))
        for three in zip(channel.chunk(parts, 1), spatial.chunk(parts, 1), gain.chunk(parts))
    ]
    return lambda: F.pixel_shuffle(torch.stack([call() for call in calls], 2).flatten(1, 2), problem.scale)


def ddf_up_composed_last(problem: Problem, tensors: Tensors) -> Call:
    """Everything is channels-last, the filters of every sub-pixel apart."""
    x, channel, spatial, gain = tensors.values()
    parts = problem.scale**2
    calls = [
        ours_last(replace(problem, scale=1), dict(zip(tensors, (x, *three))))
        for three in zip(channel.chunk(parts, 1), spatial.chunk(parts, 1), gain.chunk(parts))
    ]
    n, c, h, w = problem.shape
    s = problem.scale

    def call() -> Any:
        """A pixel shuffle of maps whose channels lie together: the sub-pixels of a row become its neighbours."""
        rows = torch.stack([call().permute(0, 2, 3, 1) for call in calls], 3)  # [N, H, W, s*s, C]
        shuffled = rows.view(n, h, w, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(n, s * h, s * w, c)
        return shuffled.permute(0, 3, 1, 2)

    return call


# --- others


def composed(form: Callable[..., Any]) -> Callable[[Problem, Tensors], Call]:
    """One of compositions.py."""

    def make(problem: Problem, tensors: Tensors) -> Call:
        values = list(tensors.values())
        try:
            form(problem, *values)
        except RuntimeError as error:  # an operator that lacks this dtype here
            raise LeftOutError(f"torch refuses {form.__name__}: {str(error).splitlines()[0]}") from None
        return lambda: form(problem, *values)

    return make


def deform_conv_torchvision(problem: Problem, tensors: Tensors) -> Call:
    ops = _import("torchvision").ops
    offset, mask = tensors["offset_mask"][:, :18].contiguous(), tensors["offset_mask"][:, 18:].sigmoid()
    x, weight, bias = tensors["X"], tensors["W"], tensors["B"]
    return lambda: ops.deform_conv2d(x, offset, weight, bias, stride=problem.stride, padding=1, mask=mask)


def step_ours(problem: Problem, tensors: Tensors) -> Call:
    """Forward and backward, by the compiled kernels."""
    from dyndeploy.native import kernels

    ours(problem, tensors)
    assert kernels.available(problem.case.spec, "backward", tensors["X"])
    op, keywords = problem.public_function(), problem.public_keywords()
    return training_step(lambda *leaves: op(*leaves, **keywords), list(tensors.values()))


def step_ours_last(problem: Problem, tensors: Tensors) -> Call:
    return step_ours(problem, {name: _last(tensor) for name, tensor in tensors.items()})


def step_composed(problem: Problem, tensors: Tensors) -> Call:
    """Forward and backward of what the papers' code composes."""
    if problem.operator == "dcnv2":
        _import("torchvision")
    form = compositions.LEARNING[problem.operator]
    return training_step(lambda *leaves: form(problem, *leaves), list(tensors.values()))


def step_composed_last(problem: Problem, tensors: Tensors) -> Call:
    return step_composed(problem, {name: _last(tensor) for name, tensor in tensors.items()})


def conv(problem: Problem, tensors: Tensors) -> Call:
    x, weight = tensors["X"], problem.plain_weight(tensors).contiguous()
    groups, stride = problem.shape[1] // weight.shape[1], problem.stride
    return lambda: F.conv2d(x, weight, None, stride, 1, 1, groups)


def conv_last(problem: Problem, tensors: Tensors) -> Call:
    x, weight = _last(tensors["X"]), _last(problem.plain_weight(tensors))
    groups, stride = problem.shape[1] // weight.shape[1], problem.stride
    return lambda: F.conv2d(x, weight, None, stride, 1, 1, groups)


def ddf_shift(problem: Problem, tensors: Tensors) -> Call:
    """The sum over nine shifted views, in float32, as torch's compiler fuses it into one kernel."""
    n, c, h, w = problem.shape

    def shift(x: Any, channel: Any, spatial: Any, gain: Any) -> Any:
        per_channel = compositions.filter_norm(channel.float().view(n, c, 9), 2) * gain.float().view(c, 9)
        per_pixel = compositions.filter_norm(spatial.float(), 1)
        padded = F.pad(x, (1, 1, 1, 1))
        y = 0
        for tap in range(9):
            view = padded[:, :, tap // 3 : tap // 3 + h, tap % 3 : tap % 3 + w].float()
            y = y + view * per_channel[:, :, tap, None, None] * per_pixel[:, tap, None]
        return y.to(x.dtype)  # type: ignore[attr-defined]

    torch._dynamo.reset()
    torch._inductor.config.compile_threads = 1  # this process is a daemon: it may not have children
    compiled = torch.compile(shift, fullgraph=True, dynamic=False)
    values = list(tensors.values())
    try:
        compiled(*values)
    except Exception as error:  # whatever the compiler lacks here
        raise LeftOutError(f"torch.compile fails: {type(error).__name__}: {str(error).splitlines()[0]}") from None
    return lambda: compiled(*values)


def ddf_shift_last(problem: Problem, tensors: Tensors) -> Call:
    return ddf_shift(problem, {name: _last(tensor) for name, tensor in tensors.items()})


def copy(problem: Problem, tensors: Tensors) -> Call:
    y = torch.empty_like(tensors["X"])
    return lambda: y.copy_(tensors["X"])


def bulk_copy(problem: Problem, tensors: Tensors) -> Call:
    x = torch.ones(BULK // 4, device=tensors["X"].device)
    y = torch.empty_like(x)
    return lambda: y.copy_(x)


def element(problem: Problem, tensors: Tensors) -> Call:
    x = torch.ones(1, device=tensors["X"].device)
    y = torch.empty_like(x)
    return lambda: y.copy_(x)


ENGINES = {
    "ours, NCHW": Engine("operator", ours),
    "ours, channels_last": Engine("operator", ours_last),
    "ours with TF32, NCHW": Engine("operator", ours, tf32=True),
    "ours with TF32, channels_last": Engine("operator", ours_last, tf32=True),
    "torchvision": Engine("operator", deform_conv_torchvision, agreement=COARSE),
    "torchvision with TF32": Engine("operator", deform_conv_torchvision, tf32=True),
    "conv2d of torch, NCHW": Engine("plain", conv),
    "conv2d of torch, channels_last": Engine("plain", conv_last),
    "conv2d of torch with TF32, channels_last": Engine("plain", conv_last, tf32=True),
    "unfold": Engine("operator", composed(compositions.unfold)),
    "all regions, then select": Engine("operator", composed(compositions.select)),
    "sorted rows, grouped product": Engine("operator", composed(compositions.sorted_rows)),
    "official masked form": Engine("operator", composed(compositions.masked)),
    "step of ours, NCHW": Engine("step", step_ours),
    "step of ours, channels_last": Engine("step", step_ours_last),
    "step of the composition, NCHW": Engine("step", step_composed, agreement=COARSE),
    "step of the composition, channels_last": Engine("step", step_composed_last, agreement=COARSE),
    "compiled shifts, NCHW": Engine("operator", ddf_shift),
    "compiled shifts, channels_last": Engine("operator", ddf_shift_last),
    "4 calls of ours, NCHW": Engine("operator", ddf_up_composed),
    "4 calls of ours, channels_last": Engine("operator", ddf_up_composed_last),
    "copy of X": Engine("copy", copy),
    "copy of 512 MiB": Engine("bulk", bulk_copy),
    "copy of one element": Engine("element", element),
}
