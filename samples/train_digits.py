"""A small study: each dynamic layer against a plain convolution in the same network, on the distorted digits.

    python samples/train_digits.py --output docs/study

trains every layer with every seed for the same number of steps, and writes study.md (the table), study.png (the plot)
and study.json (all numbers). The network has three places for a 3x3 convolution that keeps its channels; the layer
takes all three. Everything else is the same for all: stem, 1x1 convolutions between the places, classifier, images,
learning rates, steps. Nothing is tuned for a layer.

    python samples/train_digits.py --output docs/study --device cuda --autocast bfloat16

does so on a GPU, in mixed precision. Forward and backward of the layers run on the compiled kernels of either device.

What training needs beyond an ordinary loop is in dyndeploy/training/, and used by dyndeploy/demo/train.py: offset
predictors learn at a tenth of the rate, and DGC drops its channels step by step.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn

from dyndeploy.demo.data import SIZE, load
from dyndeploy.demo.train import accuracy, train
from dyndeploy.models.macs import count_macs
from dyndeploy.nn import DDF, DGConv2d, DRConv2d, ModulatedDeformConv2d, SCConv2d

#: channels -> a layer that keeps channels and resolution.
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "Conv2d": lambda c: nn.Conv2d(c, c, 3, padding=1, bias=False),
    "ModulatedDeformConv2d": lambda c: ModulatedDeformConv2d(c, c, 3, padding=1, bias=False),
    "DDF": DDF,
    "DRConv2d": lambda c: DRConv2d(c, c, 3, padding=1, bias=False),
    "DGConv2d": lambda c: DGConv2d(c, c, 3, padding=1, keep=0.5, squeeze=8),
    "SCConv2d": lambda c: SCConv2d(c, pooling=2, split=True),
}
WIDTHS = (16, 32, 64)


class StudyNet(nn.Module):
    """Stem, three times (1x1 convolution, layer), the mean, a classifier; [N, 1, 32, 32] -> [N, 10]."""

    def __init__(self, layer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, WIDTHS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
        stages: list[nn.Module] = []
        for before, width in zip((WIDTHS[0], *WIDTHS), WIDTHS):
            widen = nn.Sequential(nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            studied = nn.Sequential(layer(width), nn.BatchNorm2d(width), nn.ReLU())
            stages.append(nn.Sequential(widen, studied))
        self.stages = nn.ModuleList(stages)
        self.pool = nn.AvgPool2d(2)
        self.classify = nn.Linear(WIDTHS[-1], 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for index, (widen, studied) in enumerate(self.stages):
            x = self.pool(x) if index else x
            x = studied(widen(x))
        logits: Tensor = self.classify(x.mean((2, 3)))
        return logits


def run(layer: str, seed: int, steps: int, device: str, autocast: str | None) -> dict[str, object]:
    """Train one network; the losses are of every step."""
    training_data, held_out = load()
    torch.manual_seed(seed)
    network = StudyNet(LAYERS[layer]).to(device)
    losses: list[float] = []
    dtype = getattr(torch, autocast) if autocast else None
    summary = train(network, training_data, max_steps=steps, seed=seed, autocast=dtype, observe=losses.append)
    return {
        "layer": layer,
        "seed": seed,
        "accuracy": accuracy(network, held_out),
        "seconds": summary.seconds,
        "losses": [round(loss, 4) for loss in losses],
    }


def table(runs: list[dict]) -> str:
    """The results as Markdown."""
    seeds = sorted({r["seed"] for r in runs})
    lines = [
        f"| layer | parameters | MACs | {' | '.join(f'seed {s}' for s in seeds)} | mean | against Conv2d |",
        "|---|---|---|" + "---|" * (len(seeds) + 2),
    ]
    means = {name: 100 * statistics.mean(r["accuracy"] for r in runs if r["layer"] == name) for name in _layers(runs)}
    for name in means:
        network = StudyNet(LAYERS[name])
        parameters = sum(p.numel() for p in network.parameters())
        macs = count_macs(network, (1, 1, SIZE, SIZE)).total
        right = {r["seed"]: 100 * r["accuracy"] for r in runs if r["layer"] == name}
        cells = " | ".join(f"{right[s]:.1f}" for s in seeds)
        difference = f"{means[name] - means['Conv2d']:+.1f}" if "Conv2d" in means else ""
        lines.append(f"| {name} | {parameters:,} | {macs / 1e6:.2f} M | {cells} | {means[name]:.1f} | {difference} |")
    return "\n".join(lines)


def _layers(runs: list[dict]) -> list[str]:
    return [name for name in LAYERS if any(r["layer"] == name for r in runs)]


def plot(runs: list[dict], path: Path) -> None:
    """Accuracy of every run, and the mean training loss of every layer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    layers = _layers(runs)[::-1]
    for row, name in enumerate(layers):
        mine = [r for r in runs if r["layer"] == name]
        points = [100 * r["accuracy"] for r in mine]
        color = f"C{row}"
        left.plot(points, [row] * len(points), "o", color=color, alpha=0.6)
        left.plot(statistics.mean(points), row, "|", color="black", markersize=16)
        curve = torch.tensor([r["losses"] for r in mine]).mean(0)
        window = max(1, len(curve) // 40)
        smooth = curve.unfold(0, window, 1).mean(1)
        right.plot(range(window, window + len(smooth)), smooth, color=color, label=name)
    left.set_yticks(range(len(layers)), layers)
    left.set_xlabel("held-out accuracy, % (a dot per seed, the line is the mean)")
    left.grid(axis="x", alpha=0.3)
    right.set_xlabel("step")
    right.set_ylabel("training loss, mean of the seeds")
    right.grid(alpha=0.3)
    right.legend(fontsize="small")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Train all, print the table, write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for study.md, study.png and study.json")
    parser.add_argument("--steps", type=int, default=600, help="of every training, 32 images each (default: 600)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings per layer (default: 3)")
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS), help="which ones (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--autocast", choices=("float16", "bfloat16"), help="mixed precision (default: float32)")
    options = parser.parse_args(arguments)
    if min(options.steps, options.seeds, options.jobs) < 1:
        parser.error("--steps, --seeds and --jobs are at least 1")

    todo = [(layer, seed) for seed in range(options.seeds) for layer in options.layers]
    # A fresh process per training: torch's threads and its random state do not survive a fork.
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(run, layer, seed, options.steps, options.device, options.autocast) for layer, seed in todo
        ]
        runs = []
        for future in waiting:
            runs.append(future.result())
            done = runs[-1]
            print(
                f"{done['layer']}, seed {done['seed']}: {100 * done['accuracy']:.1f} %, {done['seconds']:.0f} s",
                flush=True,
            )
    result = table(runs)
    print(f"\n{result}")
    options.output.mkdir(parents=True, exist_ok=True)
    command = f"python samples/train_digits.py --steps {options.steps} --seeds {options.seeds}"
    if (options.device, options.autocast) != ("cpu", None):
        command += f" --device {options.device}" + (f" --autocast {options.autocast}" if options.autocast else "")
    (options.output / "study.md").write_text(STUDY.format(command=command, table=result, steps=options.steps))
    (options.output / "study.json").write_text(json.dumps({"command": command, "runs": runs}) + "\n")
    plot(runs, options.output / "study.png")


STUDY = """# Each layer against a plain convolution

Written by `{command} --output docs/study`: a network with three 3x3 layers
on scikit-learn's handwritten digits, enlarged to 32x32 and distorted anew in every step; {steps} steps of 32 images,
the same for all. Accuracy in % of 450 held-out images; one image is 0.22 %.

{table}

![Accuracy and loss](study.png)

This says that the layers learn, and what they cost, and no more: the task is small, nothing was tuned for any of them,
and differences between seeds are as large as many of those between layers. MACs are those of `dyndeploy.count_macs`; of
DGConv2d's channels half are kept. SCConv2d pools by 2 here, as the last map is only 4x4.
"""

if __name__ == "__main__":
    main()
