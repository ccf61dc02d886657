"""The demo: a small network with all five layers, trained on digits, exported, checked and timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dyndeploy.demo.result import AccuracyRow, DemoResult, TrainingSummary
from dyndeploy.errors import MissingPackageError

if TYPE_CHECKING:
    from dyndeploy.demo.data import Digits

__all__ = ["AccuracyRow", "DemoResult", "TrainingSummary", "body_for", "run"]

RUNTIMES = ("torch", "onnxruntime", "onnxruntime-bodies")
ACCURACY_BATCHES = (8, 32)  # neither divides the number of held-out images
LATENCY_BATCHES = (1, 8, 32)
#: What `export` is told about the network; export/digits/recipe.toml says the same.
INPUTS: dict[str, list[int | str]] = {"image": ["batch", 1, 32, 32]}
DIMS = {"batch": (1, 8, 32)}
RANGES = {"image": (0.0, 1.0)}
OUTPUTS = ["logits"]


def run(
    folder: str | os.PathLike[str],
    seconds: float = 60.0,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    *,
    max_steps: int | None = None,
    iterations: int = 50,
) -> DemoResult:
    """Train the network, export it, check every runtime, measure accuracy and latency, and build engines.

    Args:
        folder: where the bundle is written, as `folder`/digits.
        seconds: how long to train; export, check and measurement come on top.
        seed: of the initial weights, the order of the images and their distortion.
        progress: called with a line to show.
        max_steps: number of training steps instead of `seconds`.
        iterations: measured requests per runtime and batch size.

    Raises:
        MissingPackageError: torch, ONNX Runtime or scikit-learn is not installed; `dyndeploy[demo]` has them.
        DynError: `folder`/digits exists and is not a bundle.
    """
    try:
        import onnxruntime
        import torch
    except ModuleNotFoundError as error:
        raise MissingPackageError(str(error.name), "The demo", "demo") from None

    from dyndeploy.bundle import check_target
    from dyndeploy.demo.data import load
    from dyndeploy.demo.engines import build_engines
    from dyndeploy.demo.network import DigitsNet, dynamic_layers
    from dyndeploy.demo.train import train
    from dyndeploy.native import instructions
    from dyndeploy.pipeline.bench import bench
    from dyndeploy.pipeline.check import check
    from dyndeploy.pipeline.export import export

    tell = progress or (lambda _line: None)
    start = time.monotonic()
    target = Path(folder) / "digits"
    check_target(target)
    training_data, held_out = load()
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        torch.manual_seed(seed)
        network = DigitsNet()
    training = train(network, training_data, seconds, max_steps=max_steps, seed=seed, progress=progress)
    bundle = export(
        network,
        (held_out.images[: DIMS["batch"][1]],),
        target,
        inputs=INPUTS,
        dims=DIMS,
        outputs=OUTPUTS,
        ranges=RANGES,
        body=body_for(onnxruntime.__version__),
        progress=tell,
    )
    checked = check(bundle, runtimes=RUNTIMES, progress=tell)
    accuracy = _accuracy(bundle.path, held_out, tell)
    latency = []
    for batch in LATENCY_BATCHES:
        tell(f"latency at batch {batch}")
        latency.append(bench(bundle, RUNTIMES, dims={"batch": batch}, iterations=iterations))
    engines, no_engines = build_engines(bundle, tell)
    return DemoResult(
        bundle=str(bundle.path),
        layers=dynamic_layers(network),
        instructions=instructions(),
        training=training,
        check=checked,
        accuracy=accuracy,
        latency=tuple(latency),
        engines=engines,
        no_engines=no_engines,
        seconds=time.monotonic() - start,
    )


def body_for(version: str) -> Literal["standard", "gridsample"]:
    """The body of ModulatedDeformConv2d that this ONNX Runtime executes; Python 3.10 has none newer than 1.23.

    Example:
        >>> body_for("1.23.2"), body_for("1.25.0")
        ('gridsample', 'standard')
    """
    major, minor = map(int, version.split(".")[:2])
    return "standard" if (major, minor) >= (1, 25) else "gridsample"


def _accuracy(path: Path, held_out: Digits, tell: Callable[[str], None]) -> tuple[AccuracyRow, ...]:
    """Every runtime on all held-out images, in batches of several sizes and with remainders."""
    import numpy as np

    from dyndeploy.runtimes import open_session

    images, labels = held_out.images.numpy(), held_out.labels.numpy()
    count = len(labels)
    predicted = {}
    for runtime in RUNTIMES:
        tell(f"accuracy of {runtime}")
        with open_session(path, runtime=runtime) as session:
            predicted[runtime] = [
                np.concatenate(
                    [
                        session.run({"image": images[first : first + batch]})["logits"].argmax(1)
                        for first in range(0, count, batch)
                    ]
                )
                for batch in ACCURACY_BATCHES
            ]
    baseline = predicted[RUNTIMES[0]][0]
    return tuple(
        AccuracyRow(
            runtime=runtime,
            batches=ACCURACY_BATCHES,
            images=count,
            correct=min(int((digits == labels).sum()) for digits in by_batch),
            differ=max(int((digits != baseline).sum()) for digits in by_batch),
        )
        for runtime, by_batch in predicted.items()
    )
