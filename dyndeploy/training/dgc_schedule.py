"""DGC's schedules: nothing is dropped at first, then more and more, and in the end what the network is to drop."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dyndeploy.errors import DynError
from dyndeploy.ops.dgc.module import DGConv2d
from dyndeploy.training._saliencies import Listener, dgc_layers


class _Schedule:
    """Progress p from 0 to 1, and a ramp over it: 0 up to `warmup`, linear, all from `ramp_end` on."""

    def __init__(self, total_steps: int | None, warmup: float, ramp_end: float) -> None:
        if total_steps is not None and (not isinstance(total_steps, int) or total_steps < 1):
            raise DynError(f"{type(self).__name__}: total_steps={total_steps} is not a positive whole number.")
        if not 0 <= warmup < ramp_end <= 1:
            raise DynError(
                f"{type(self).__name__}: warmup={warmup}, ramp_end={ramp_end}.",
                why="They are fractions of the training, 0 <= warmup < ramp_end <= 1.",
            )
        self.total_steps, self.warmup, self.ramp_end = total_steps, warmup, ramp_end
        self._progress = 0.0

    @property
    def progress(self) -> float:
        """Fraction of the training that is done, 0..1."""
        return self._progress

    def step(self) -> None:
        """One step of training is done: call it after `optimizer.step()`. Past the end the target stays.

        Raises:
            DynError: there is no `total_steps`.
        """
        if self.total_steps is None:
            name = type(self).__name__
            raise DynError(
                f"{name}.step() without total_steps.", fix=f"{name}(model, total_steps), or schedule.set_progress(p)"
            )
        # From the number of steps, not by adding fractions: rounding errors would move the ends of the ramp.
        done = round(self._progress * self.total_steps) + 1
        self.set_progress(min(done / self.total_steps, 1.0))

    def set_progress(self, progress: float) -> None:
        """Go to a fraction of the training, 0..1, where it is not counted in steps; `step` goes on from there.

        Raises:
            DynError: it is outside 0..1.
        """
        if not 0 <= progress <= 1:
            raise DynError(f"{type(self).__name__}: progress={progress} is outside 0..1.")
        self._progress = progress
        self._follow()

    def _follow(self) -> None:
        """Set the layers to what `progress` says."""
        raise NotImplementedError

    def _ramped(self, target: float) -> float:
        """The part of `target` that is due."""
        if self._progress <= self.warmup:
            return 0.0
        if self._progress >= self.ramp_end:
            return target
        # The official code's order of operations, so that a half rounds as it does there.
        return target * (1 / (self.ramp_end - self.warmup)) * (self._progress - self.warmup)


class PruningSchedule(_Schedule):
    """How many channels every DGConv2d drops per head while it is trained (Su et al., ECCV 2020).

    inactive = 0                                        p <= 1/12
               round(C * (1 - keep) * 1.5 * (p - 1/12)) between
               round(C * (1 - keep))                    p >= 3/4

    p = steps / total_steps; halves round to even. The numbers and the rounding are the official code's, and so is the
    moment: the p of a forward counts the steps before it. The one difference: there, a network that already drops
    channels keeps doing so up to 1/12.

    Making the object starts the training: `inactive` becomes 0. The last step leaves the target in the layers, and
    their state dicts carry it; the schedule itself is saved only to go on with a training that was interrupted.

    Args:
        model: any module with DGConv2d in it; network-wise ones are left to `ThresholdSchedule`.
        total_steps: number of optimizer steps; None where `set_progress` is called instead of `step`.
        warmup, ramp_end: where the ramp begins and ends, in fractions of the training.

    Raises:
        DynError: the model has no DGConv2d that drops by number, or an argument is out of range.

    Example:
        >>> from dyndeploy.nn import DGConv2d
        >>> layer = DGConv2d(64, 64, 1, keep=0.25)
        >>> schedule = PruningSchedule(layer, total_steps=12)
        >>> dropped = [layer.inactive]
        >>> for _ in range(12):
        ...     schedule.step()
        ...     dropped.append(layer.inactive)
        >>> dropped
        [0, 0, 6, 12, 18, 24, 30, 36, 42, 48, 48, 48, 48]
    """

    def __init__(
        self, model: nn.Module, total_steps: int | None = None, *, warmup: float = 1 / 12, ramp_end: float = 3 / 4
    ) -> None:
        super().__init__(total_steps, warmup, ramp_end)
        self._layers = [layer for layer in dgc_layers(model) if not layer.network_wise]
        if not self._layers:
            raise DynError(
                f"Every DGConv2d of {type(model).__name__} is network-wise.", fix="ThresholdSchedule(model, …)"
            )
        self._follow()

    def state_dict(self) -> dict[str, float]:
        """What `load_state_dict` takes."""
        return {"progress": self._progress}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on where a training was interrupted; with another `total_steps`, at the same fraction of it."""
        self.set_progress(state["progress"])

    def _follow(self) -> None:
        for layer in self._layers:
            layer.inactive = round(self._ramped(layer.in_channels * (1 - layer.keep)))


class ThresholdSchedule(_Schedule, Listener):
    """DGC-G: one threshold T for the whole network, such that a share `rate` of all its channels is dropped.

    The saliencies of all network-wise DGConv2d are one vector, and a channel is dropped where its saliency is <= T.
    Heads keep different numbers of channels then: more where more are wanted.

    How T is found is ours; the idea is the paper's, but its update rule is not in the official code. At every step,

    T = (1 - momentum) * T + momentum * (the round(k * r)-th smallest of the k saliencies in the batch),

    where r is `rate`, ramped as in `PruningSchedule`; as long as r is 0, T is 0, which drops nothing that counts.
    T lies in every layer (`DGConv2d.threshold`), and is saved and exported with it. It is a constant at inference:
    a share of `rate` is dropped on average then, not in each image.

    Making the object starts the training: T becomes 0. Saliencies are heard through hooks on `DGConv2d.saliency`;
    what is said of them in `SparsityLoss` holds here too. Several forwards before one step count together.

    Args:
        model: any module with DGConv2d(…, network_wise=True) in it; others are left to `PruningSchedule`.
        total_steps: number of optimizer steps; None where `set_progress` is called instead of `step`.
        rate: share of the channels to drop, 0..1; the paper's xi, 1 - keep.
        momentum: weight of the batch in the moving average, above 0 and at most 1.
        warmup, ramp_end: where the ramp begins and ends, in fractions of the training.

    Raises:
        DynError: the model has no network-wise DGConv2d, or an argument is out of range.

    Example:
        >>> import torch
        >>> from dyndeploy.nn import DGConv2d
        >>> layer = DGConv2d(64, 64, 1, network_wise=True)
        >>> with ThresholdSchedule(layer, total_steps=100, rate=0.5) as schedule:
        ...     for _ in range(100):
        ...         y = layer(torch.randn(8, 64, 4, 4))
        ...         schedule.step()
        >>> layer.threshold > 0
        True
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int | None = None,
        *,
        rate: float = 0.75,
        momentum: float = 0.1,
        warmup: float = 1 / 12,
        ramp_end: float = 3 / 4,
    ) -> None:
        _Schedule.__init__(self, total_steps, warmup, ramp_end)
        if not 0 <= rate <= 1 or not 0 < momentum <= 1:
            raise DynError(f"ThresholdSchedule: rate={rate} is outside 0..1, or momentum={momentum} outside (0, 1].")
        self._layers = [layer for layer in dgc_layers(model) if layer.network_wise]
        if not self._layers:
            raise DynError(
                f"No DGConv2d of {type(model).__name__} is network-wise.",
                fix="DGConv2d(…, network_wise=True), or PruningSchedule(model, …)",
            )
        Listener.__init__(self, self._layers)
        self.rate, self.momentum = rate, momentum
        self._threshold = 0.0
        self._saliencies: list[Tensor] = []
        self._follow()

    @property
    def threshold(self) -> float:
        """T, before the layers round it to float32."""
        return self._threshold

    def step(self) -> None:
        """One step of training is done: call it after `optimizer.step()`. Past the end T goes on averaging.

        Raises:
            DynError: there is no `total_steps`, or there was no forward in training mode since the last step.
        """
        if not self._saliencies:
            raise DynError(
                "ThresholdSchedule: no forward since the last step.",
                why="Forwards in eval mode, under torch.no_grad, or of a copy of the model do not count.",
                fix="model.train(); loss = criterion(model(x), target); …; schedule.step()",
            )
        super().step()

    def state_dict(self) -> dict[str, float]:
        """What `load_state_dict` takes."""
        return {"progress": self._progress, "threshold": self._threshold}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on where a training was interrupted; with another `total_steps`, at the same fraction of it."""
        self._saliencies, self._threshold = [], state["threshold"]
        self.set_progress(state["progress"])

    def _listen(self, layer: DGConv2d, saliency: Tensor) -> None:
        self._saliencies.append(saliency.detach().flatten())

    def _follow(self) -> None:
        rate = self._ramped(self.rate)
        if rate == 0:
            self._threshold = 0.0
        elif self._saliencies:
            self._threshold += self.momentum * (_quantile(torch.cat(self._saliencies), rate) - self._threshold)
        self._saliencies = []
        for layer in self._layers:
            layer.threshold = self._threshold


def _quantile(values: Tensor, share: float) -> float:
    """The round(k * share)-th smallest of k values, 0 for the zeroth; torch.quantile refuses more than 2^24."""
    rank = round(values.numel() * share)
    return values.float().kthvalue(rank).values.item() if rank else 0.0
