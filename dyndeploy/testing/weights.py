"""Weights of a fresh network under which no layer is idle."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dyndeploy.ops.dgc.module import Saliency


def enliven(network: nn.Module, *inputs: Tensor, seed: int = 0) -> nn.Module:
    """Give a fresh network weights as if it had been trained, in place, for tests that compare two ways of running it.

    A fresh network hides errors: offset predictors and the last BatchNorm of a residual branch start at zero, running
    means at 0 and variances at 1. Here every parameter that is all zero is drawn anew (a matrix with a standard
    deviation of 0.2/sqrt(fan-in), a vector with 0.1), BatchNorms get a scale in 0.5..1.5 (a fifth of it where it was
    zero), and their statistics become those of the inputs, so that activations keep their size in a deep network. DGC's
    saliencies stay near 1: they multiply from layer to layer, and would make inputs that are a little larger explode.

    Args:
        network: left in eval mode.
        inputs: what forward takes; a batch of two or more samples.
        seed: of the numbers drawn; torch's own state stays as it is.

    Returns:
        The network.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            if norm.affine:
                # Those that start at zero keep their branches weak: 33 strong ones in a row multiply rounding errors.
                strength = 1.0 if norm.weight.any() else 0.2
                norm.weight.copy_(strength * (0.5 + torch.rand(norm.weight.shape, generator=generator)))
        for parameter in network.parameters():
            if not parameter.any():
                fan_in = math.prod(parameter.shape[1:])
                deviation = 0.2 / math.sqrt(fan_in) if parameter.dim() > 1 else 0.1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
        for layer in network.modules():
            if isinstance(layer, Saliency):
                layer.expand.weight.mul_(0.1)
        momenta = [norm.momentum for norm in norms]
        network.train()
        for norm in norms:
            norm.momentum = 1.0
        network(*inputs)
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            if norm.running_var is not None:  # a channel that was constant would explode on other inputs
                norm.running_var.clamp_(min=float(norm.running_var.mean()) / 4 + norm.eps)
    return network.eval()
