"""What the demo found out, as data: the command line prints it, and writes it with --json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dyndeploy.pipeline.bench import BenchResult
    from dyndeploy.pipeline.build import BuildResult
    from dyndeploy.pipeline.check import CheckResult


@dataclass(frozen=True)
class TrainingSummary:
    """How the network was trained.

    Attributes:
        seconds: wall time of the training loop.
        steps: optimiser steps.
        epochs: passes over the training images, a fraction at the end.
        batch: images per step.
        images: training images.
        parameters: learned numbers of the network.
        first_loss: mean cross-entropy of the first steps.
        last_loss: mean cross-entropy of the last steps.
    """

    seconds: float
    steps: int
    epochs: float
    batch: int
    images: int
    parameters: int
    first_loss: float
    last_loss: float


@dataclass(frozen=True)
class AccuracyRow:
    """One runtime on the held-out images, run once per batch size.

    Attributes:
        runtime: "torch", "onnxruntime", …
        batches: the batch sizes; with each, all images are run, the last batch with what remains.
        images: held-out images.
        correct: images whose digit is right, the fewest over the batch sizes.
        differ: images that get another digit than from torch at the first batch size, the most over the batch
            sizes.
    """

    runtime: str
    batches: tuple[int, ...]
    images: int
    correct: int
    differ: int

    @property
    def accuracy(self) -> float:
        """Fraction of right digits, 0..1."""
        return self.correct / self.images


@dataclass(frozen=True)
class DemoResult:
    """What `dyndeploy demo` prints.

    Attributes:
        bundle: the folder that was written.
        layers: class names of the dynamic layers in the network, in the order of the data.
        instructions: the instruction set of the compiled kernels that ran them.
        training: how the network was trained.
        check: the parity of every runtime at every point, as `dyndeploy check` finds it.
        accuracy: one row per runtime.
        latency: as `dyndeploy bench` measures it, one result per batch size.
        engines: how an engine was built -> as `dyndeploy build` does; empty where TensorRT for RTX is not installed.
        no_engines: why engines are missing, or "".
        seconds: wall time of everything.
    """

    bundle: str
    layers: tuple[str, ...]
    instructions: str
    training: TrainingSummary
    check: CheckResult
    accuracy: tuple[AccuracyRow, ...]
    latency: tuple[BenchResult, ...]
    seconds: float
    engines: dict[str, BuildResult] = field(default_factory=dict)
    no_engines: str = ""
