"""Checkpoints of other code: what the predictor of offsets and masks is called, and whether it is one or two.

mask_scale cannot be seen in a checkpoint: where the code computes 2*sigmoid, the layer needs mask_scale=2.0.
"""

from __future__ import annotations

import re
from itertools import product
from typing import NamedTuple

import torch

from dyndeploy.errors import DynError
from dyndeploy.ops._checkpoint import Conversion, Entries
from dyndeploy.ops.dcnv2.module import ModulatedDeformConv2d

_NAMES = {"conv_offset": "mmcv", "offset": "detectron2", "conv_offset_mask": "DCNv2 port"}


class _Roles(NamedTuple):
    """Which convolutions are what: the predictor, or that of offsets and that of masks; "" is the module itself."""

    predictors: tuple[str, ...]
    main: str


def predictors(layer: ModulatedDeformConv2d, entries: Entries) -> Conversion | None:
    """One predictor (conv_offset, conv_offset_mask, a sibling …_offset) or one of offsets and one of masks.

    Inside of the module they are known by their shapes, and by "off", "mask" or "mod" in their names where shapes
    leave a choice; siblings by both. Channels are those of ours: offsets [group][tap][y, x], then masks [group][tap].
    A predictor without a bias has one of zeros.

    Raises:
        DynError: what is named like predictors is not of this layer, or several convolutions could be the same thing.
    """
    shapes = {key.removesuffix(".weight"): t.shape for key, t in entries.items() if key.endswith(".weight")}
    inner = [name for name in shapes if name.startswith(".") and name != ".predictor" and len(shapes[name]) == 4]
    roles = _roles(layer, shapes, inner, inner)
    if roles is None and ".predictor" not in shapes:
        siblings = [name for name in shapes if name.startswith("_") and _is_sibling(layer, name, shapes[name])]
        roles = _roles(layer, shapes, siblings, inner)
    if roles is None:
        return None

    split = len(roles.predictors) > 1
    name = roles.predictors[0]
    conversion = Conversion("split predictors" if split else _NAMES.get(name[1:], "one predictor"), entries)
    conversion.join([f"{n}.weight" for n in roles.predictors], ".predictor.weight")
    biases = [f"{n}.bias" for n in roles.predictors]
    if all(bias in entries for bias in biases):
        conversion.join(biases, ".predictor.bias")
    else:
        weights = [entries[f"{n}.weight"] for n in roles.predictors]
        parts = [entries.get(bias, weight.new_zeros(len(weight))) for bias, weight in zip(biases, weights)]
        there = [bias for bias in biases if bias in entries]
        lacking = "one predictor has no bias" if there else "no predictor has a bias"
        conversion.assume(".predictor.bias", torch.cat(parts), lacking, there)
    conversion.move(f"{roles.main}.weight", ".weight")
    bias = f"{roles.main}.bias"
    if layer.bias is not None:
        conversion.move(bias, ".bias")
    elif bias in entries:
        if entries[bias].any():
            raise DynError(
                f"{bias[1:]} is not zero, and the layer has no bias.", fix="ModulatedDeformConv2d(…, bias=True)"
            )
        conversion.drop(bias, "zeros, and the layer has no bias")
    return conversion


def _roles(
    layer: ModulatedDeformConv2d, shapes: dict[str, torch.Size], names: list[str], inner: list[str]
) -> _Roles | None:
    """The roles that leave least unexplained, predictors being among `names`; None if there are no predictors."""

    def of_rows(rows: int) -> list[str]:
        return [name for name in names if shapes[name] == (rows, layer.in_channels, *layer.kernel_size)]

    def unexplained(roles: _Roles) -> tuple[int, ...]:
        used = {*roles.predictors, roles.main}
        masks = roles.predictors[1:]
        return (
            sum(_is_named(name) for name in names if name not in used),
            int(shapes.get(roles.main) != layer.weight.shape),
            (not _predicts_offsets(roles.predictors[0]))
            + sum(not _predicts_masks(name) for name in masks)
            + _is_named(roles.main),
        )

    sets: list[tuple[str, ...]] = [(name,) for name in of_rows(layer.predictor.out_channels)]
    if layer.modulated:
        sets += product(of_rows(2 * _mask_rows(layer)), of_rows(_mask_rows(layer)))
    found = [_Roles(chosen, main) for chosen in sets for main in _mains(layer, shapes, chosen, inner)]
    if not found:
        named = [name for name in names if _is_named(name)]
        if any(_predicts_offsets(name) for name in named):
            raise _unfit(layer, shapes, named)
        return None
    best, *others = sorted(found, key=unexplained)
    if others and unexplained(others[0]) == unexplained(best):
        listed = ", ".join(f"{name[1:]}.weight {list(shapes[name])}" for name in names[:8])
        raise DynError(
            f"Which of these is the convolution, and which predicts offsets and masks: {listed}?",
            fix='Rename them to "weight", "conv_offset.weight" and "conv_mask.weight".',
        )
    if unexplained(best)[0]:
        raise _unfit(layer, shapes, [name for name in names if name != best.main and _is_named(name)])
    return best


def _mains(
    layer: ModulatedDeformConv2d, shapes: dict[str, torch.Size], chosen: tuple[str, ...], inner: list[str]
) -> list[str]:
    """What may be the convolution itself, beside these predictors."""
    if "" in shapes:
        return [""]
    rest = [name for name in inner if name not in chosen]
    return [name for name in rest if shapes[name] == layer.weight.shape] or rest[:1] or [""]


def _is_sibling(layer: ModulatedDeformConv2d, name: str, shape: torch.Size) -> bool:
    rows = [count * _mask_rows(layer) for count in (1, 2, 3)]
    return _is_named(name) and shape[1:] == (layer.in_channels, *layer.kernel_size) and shape[0] in rows


def _is_named(name: str) -> bool:
    return _predicts_offsets(name) or _predicts_masks(name)


def _predicts_offsets(name: str) -> bool:
    return "off" in name.lower()


def _predicts_masks(name: str) -> bool:
    """Like "mask" or "modulator", but neither a "modulated_deform_conv" nor just a part of a "model" or "module"."""
    name = name.lower()
    return "mask" in name or ("deform" not in name and re.search(r"mod(?!el|ules?\b)", name) is not None)


def _mask_rows(layer: ModulatedDeformConv2d) -> int:
    """G·K."""
    return layer.offset_groups * layer.kernel_size[0] * layer.kernel_size[1]


def _unfit(layer: ModulatedDeformConv2d, shapes: dict[str, torch.Size], names: list[str]) -> DynError:
    taps, groups = layer.kernel_size[0] * layer.kernel_size[1], layer.offset_groups
    rows = sum(shapes[name][0] for name in names)
    listed = ", ".join(f"{name[1:]}.weight {list(shapes[name])}" for name in names[:4])
    kinds = "3·G·K channels (offsets, masks)" if layer.modulated else "2·G·K channels (offsets)"
    per_group = (3 if layer.modulated else 2) * taps
    fix = None
    if rows == (2 if layer.modulated else 3) * groups * taps:
        fix = f"ModulatedDeformConv2d(…, modulated={not layer.modulated})"
    elif rows % per_group == 0:
        fix = f"ModulatedDeformConv2d(…, offset_groups={rows // per_group})"
    return DynError(
        f"{len(names)} predictors do not fit: {listed}.",
        why=f"The layer expects {layer.predictor.out_channels}: {kinds}, G = {groups} offset groups, K = {taps} taps.",
        fix=fix,
    )


LAYOUTS = {ModulatedDeformConv2d: (predictors,)}
