"""Training with dynamic layers: an ordinary loop, plus the two things that the papers ask for.

Predictors of offsets learn ten times slower than the rest (DCNv2), and DGC drops channels step by step, so
that the saliencies are worth something before they decide.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyndeploy import nn as dyn
from dyndeploy.demo.data import Digits, distort
from dyndeploy.demo.result import TrainingSummary
from dyndeploy.errors import DynError
from dyndeploy.training import PruningSchedule, parameter_groups

BATCH = 32
_RATE = 4e-3
_WARM_UP = 0.05  # fraction of the training in which the rate rises
_SMOOTHING = 0.05
_WINDOW = 20  # steps that a reported loss is the mean of
_TELL_EVERY = 0.05  # fraction of the training


def train(
    network: nn.Module,
    data: Digits,
    seconds: float = 60.0,
    *,
    max_steps: int | None = None,
    seed: int = 0,
    autocast: torch.dtype | None = None,
    progress: Callable[[str], None] | None = None,
    observe: Callable[[float], None] | None = None,
) -> TrainingSummary:
    """Train a classifier in place, on its device, and leave it in eval mode.

    Args:
        network: [N, 1, H, W] -> logits [N, classes].
        data: undistorted images; every step sees them distorted anew.
        seconds: wall time after which the training ends; the schedules follow the clock.
        max_steps: number of steps instead: the same seed then gives the same weights.
        seed: of order and distortion. The initial weights are the caller's.
        autocast: torch.float16 or torch.bfloat16: what autocast computes in; the weights stay float32, and of float16
            the loss is scaled. None: everything in float32.
        progress: called now and then with a line to show.
        observe: called with the loss of every step.

    Raises:
        DynError: seconds or max_steps is not positive.
    """
    if seconds <= 0 or (max_steps is not None and max_steps < 1):
        raise DynError(f"seconds={seconds}, max_steps={max_steps}: there is no time for a single step.")
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=autocast is torch.float16)
    optimizer = torch.optim.AdamW(
        parameter_groups(network, _RATE, weight_decay=0.01, no_weight_decay=lambda name, parameter: False)
    )
    drops = any(isinstance(layer, dyn.DGConv2d) for layer in network.modules())
    pruning = PruningSchedule(network) if drops else None
    rates = [group["lr"] for group in optimizer.param_groups]
    batch = min(BATCH, len(data.labels))
    losses: list[float] = []
    network.train()
    told, start = 0.0, time.monotonic()
    with _one_thread():
        for images, labels in _batches(data, batch, generator):
            done = len(losses) / max_steps if max_steps else (time.monotonic() - start) / seconds
            if done >= 1:
                break
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * rate_factor(done)
            if pruning:
                pruning.set_progress(done)

            images, labels = distort(images, generator).to(device), labels.to(device)
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                loss = F.cross_entropy(network(images).float(), labels, label_smoothing=_SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
            if observe:
                observe(losses[-1])
            if progress and done >= told:
                told += _TELL_EVERY
                progress(f"training {100 * done:.0f} %, loss {_mean(losses[-_WINDOW:]):.2f}")
    if pruning:
        pruning.set_progress(1.0)
    network.eval()
    return TrainingSummary(
        seconds=time.monotonic() - start,
        steps=len(losses),
        epochs=len(losses) * batch / len(data.labels),
        batch=batch,
        images=len(data.labels),
        parameters=sum(p.numel() for p in network.parameters()),
        first_loss=_mean(losses[:_WINDOW]),
        last_loss=_mean(losses[-_WINDOW:]),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """The network is too small to be shared, and threads that wait for each other lose where others want the CPU.

    On a 2-core machine with three other processes: 58 steps of 64 images in 12 s with one thread, 4 with two.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rate_factor(done: float) -> float:
    """Of the learning rate: a linear rise, then half a cosine to 0; `done` is the fraction of training."""
    if done < _WARM_UP:
        return (done + 1e-3) / _WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))


def accuracy(network: nn.Module, data: Digits) -> float:
    """Fraction of the images whose digit is right, 0..1."""
    device = next(network.parameters()).device
    with torch.no_grad():
        correct: Tensor = network(data.images.to(device)).argmax(1) == data.labels.to(device)
    return correct.float().mean().item()


def _batches(data: Digits, batch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, in an order of their own in every epoch."""
    while True:
        order = torch.randperm(len(data.labels), generator=generator)
        for first in range(0, len(order) - batch + 1, batch):
            index = order[first : first + batch]
            yield data.images[index], data.labels[index]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
