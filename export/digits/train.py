"""Train the digits network and write its weights: how a network with dynamic layers is trained.

    python export/digits/train.py --steps 3000 --output export/digits/digits.safetensors

The loop itself is dyndeploy/demo/train.py. It is an ordinary one; two things in it, both from dyndeploy/training/,
belong to dynamic layers:

1. Offsets start at zero and learn at a tenth of the rate (`parameter_groups`). A sampling grid that moves
   faster than the filters that read it never settles.
2. DGC drops no channel at first and all that it is to drop from 3/4 of the training on (`PruningSchedule`).
   Untrained saliencies would drop the wrong ones, and what is dropped has no gradient to come back by.

Everything else needs nothing special: DRConv's argmax has a gradient of its own, DDF's filters are
normalised inside the layer, SCConv is made of plain convolutions. A BatchNorm after each layer keeps the
scales in order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from dyndeploy.demo.data import load
from dyndeploy.demo.network import DigitsNet
from dyndeploy.demo.train import accuracy, train


def main(arguments: list[str] | None = None) -> None:
    """Train, print the accuracy on the held-out images, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--seconds", type=float, default=180.0, help="how long to train (default: 180)")
    parser.add_argument("--steps", type=int, help="how many steps instead: the same seed then gives the same weights")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and distortion (default: 0)")
    options = parser.parse_args(arguments)

    training_data, held_out = load()
    torch.manual_seed(options.seed)
    network = DigitsNet()
    summary = train(
        network,
        training_data,
        options.seconds,
        max_steps=options.steps,
        seed=options.seed,
        progress=lambda line: print(line, flush=True),
    )
    print(f"{summary.steps} steps in {summary.seconds:.0f} s")
    print(f"loss {summary.first_loss:.2f} -> {summary.last_loss:.2f}")
    print(f"{100 * accuracy(network, held_out):.1f} % of {len(held_out.labels)} held-out images")

    # Recipes read safetensors only, as a pickle can run code. The state says how many channels DGC drops.
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, options.output)
    print(f"wrote {options.output} ({options.output.stat().st_size / 1024:.0f} KB)")


if __name__ == "__main__":
    main()
