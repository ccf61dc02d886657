"""Parameter groups for torch.optim: the papers' learning-rate multipliers, and what weight decay is not for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from dyndeploy.errors import DynError
from dyndeploy.ops.dcnv2.module import ModulatedDeformConv2d

NoWeightDecay = Callable[[str, nn.Parameter], bool]


def vectors_and_biases(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is one-dimensional or a bias: BatchNorm, biases, gains."""
    return parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"


def parameter_groups(
    model: nn.Module,
    lr: float,
    *,
    weight_decay: float = 1e-4,
    predictor_lr_multiplier: float = 0.1,
    no_weight_decay: NoWeightDecay = vectors_and_biases,
) -> list[dict[str, Any]]:
    """Parameter groups for any optimizer of torch.optim, and for any of its learning-rate schedulers.

    The predictors of ModulatedDeformConv2d, weight and bias, learn at lr * predictor_lr_multiplier (Zhu et al., CVPR
    2019: 0.1); everything else, the fully connected layers of ModulatedDeformRoIPool too, at lr.

    What the official codes do about weight decay is not the same:

    - DDF (timm): none on vectors and biases. The default here.
    - DCNv2: only its operators are published, for MXNet, whose optimizers spare biases and the betas of BatchNorm,
      newer ones the gammas too: the same as the default, then.
    - DGC: on every parameter, `no_weight_decay=lambda name, parameter: False`; so does the ImageNet example of
      PyTorch, with which SCNet was trained. Only networks are published of DRConv.

    Args:
        model: frozen parameters (requires_grad=False) are left out, shared ones are there once.
        lr: learning rate of everything but the predictors.
        weight_decay: of the parameters that have one.
        predictor_lr_multiplier: 1 for predictors that learn as fast as the rest.
        no_weight_decay: (name, parameter) -> whether it has none.

    Returns:
        Up to four groups, none of them empty: {"name": "weights", "weights_no_decay", "predictors" or
        "predictors_no_decay", "params": parameters, "names": their names in the model, "lr": …, "weight_decay": …}.

    Raises:
        DynError: there is nothing to train, or a number is negative.

    Example:
        >>> from dyndeploy.nn import ModulatedDeformConv2d
        >>> for group in parameter_groups(ModulatedDeformConv2d(8, 8, 3), lr=0.02):
        ...     print(group["name"], group["names"], group["lr"], group["weight_decay"])
        weights ['weight'] 0.02 0.0001
        weights_no_decay ['bias'] 0.02 0.0
        predictors ['predictor.weight'] 0.002 0.0001
        predictors_no_decay ['predictor.bias'] 0.002 0.0
    """
    if not (lr >= 0 and weight_decay >= 0 and predictor_lr_multiplier >= 0):
        raise DynError(
            f"parameter_groups: lr={lr}, weight_decay={weight_decay} or "
            f"predictor_lr_multiplier={predictor_lr_multiplier} is negative."
        )
    predictors = {
        id(parameter)
        for layer in model.modules()
        if isinstance(layer, ModulatedDeformConv2d)
        for parameter in layer.predictor.parameters()
    }
    groups: dict[tuple[bool, bool], dict[str, Any]] = {
        (slow, bare): {
            "name": ("predictors" if slow else "weights") + ("_no_decay" if bare else ""),
            "params": [],
            "names": [],
            "lr": lr * predictor_lr_multiplier if slow else lr,
            "weight_decay": 0.0 if bare else weight_decay,
        }
        for slow in (False, True)
        for bare in (False, True)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = groups[id(parameter) in predictors, bool(no_weight_decay(name, parameter))]
            group["params"].append(parameter)
            group["names"].append(name)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise DynError(
            f"{type(model).__name__} has no parameter to train.", fix="parameter.requires_grad_(True) for some."
        )
    return filled
