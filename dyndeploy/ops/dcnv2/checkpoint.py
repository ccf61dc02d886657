"""Checkpoints of other code: what the predictor of offsets and masks is called, and whether it is one or two.

mask_scale cannot be seen in a checkpoint: where the code computes 2*sigmoid, the layer needs mask_scale=2.0.
"""

from __future__ import annotations

from dyndeploy.errors import DynError
from dyndeploy.ops._checkpoint import Conversion, Entries
from dyndeploy.ops.dcnv2.module import ModulatedDeformConv2d

_NAMES = {"conv_offset": "mmcv", "offset": "detectron2", "conv_offset_mask": "DCNv2 port"}


def predictors(layer: ModulatedDeformConv2d, entries: Entries) -> Conversion | None:
    """One predictor (conv_offset, conv_offset_mask, a sibling …_offset) or one of offsets and one of masks.

    Predictors are known by "offset", "mask" or "modul" in their names, and checked by their shapes; the weight of the
    convolution may have any name. Channels are those of ours: offsets [group][tap][y, x], then masks [group][tap].
    """
    weights = [key.removesuffix(".weight") for key, tensor in entries.items() if _is_convolution(key, tensor)]
    offsets = [name for name in weights if "offset" in name.lower()]
    masks = [name for name in weights if name not in offsets and _predicts_masks(name)]
    if not offsets:
        return None
    expected = layer.predictor.out_channels
    rows = sum(entries[f"{name}.weight"].shape[0] for name in offsets + masks)
    if len(offsets) > 1 or len(masks) > 1 or rows != expected:
        raise _unfit(layer, entries, offsets + masks)
    if masks and rows != 3 * entries[f"{masks[0]}.weight"].shape[0]:
        raise _unfit(layer, entries, offsets + masks)

    name = offsets[0]
    conversion = Conversion("split predictors" if masks else _NAMES.get(name[1:], "one predictor"), entries)
    conversion.join([f"{n}.weight" for n in (*offsets, *masks)], ".predictor.weight")
    conversion.join([f"{n}.bias" for n in (*offsets, *masks)], ".predictor.bias")
    if masks and not any(f"{n}.bias" in entries for n in (*offsets, *masks)):
        zeros = entries[f"{name}.weight"].new_zeros(rows)
        conversion.assume(".predictor.bias", zeros, "neither predictor has a bias")

    inner = [n for n in weights if n not in offsets + masks and n.startswith(".")]
    main = _main(layer, entries, inner)
    if main:
        conversion.move(f"{main}.weight", ".weight")
        conversion.move(f"{main}.bias", ".bias")
    bias = f"{main}.bias" if main else ".bias"
    if layer.bias is None and bias in entries:
        if entries[bias].any():
            raise DynError(
                f"{bias[1:]} is not zero, and the layer has no bias.", fix="ModulatedDeformConv2d(…, bias=True)"
            )
        conversion.made.pop(".bias", None)
        conversion.drop(bias, "zeros, and the layer has no bias")
    return conversion


def _is_convolution(key: str, tensor: object) -> bool:
    return key.endswith(".weight") and getattr(tensor, "ndim", 0) == 4


def _predicts_masks(name: str) -> bool:
    name = name.lower()
    return "mask" in name or ("modul" in name and "deform" not in name)


def _main(layer: ModulatedDeformConv2d, entries: Entries, names: list[str]) -> str:
    """Name of the convolution itself: "" where it has none of its own, or there is nothing to choose."""
    if "" in names or ".weight" in entries or not names:
        return ""
    fitting = [n for n in names if entries[f"{n}.weight"].shape == layer.weight.shape]
    if len(names) > 1 and len(fitting) != 1:
        listed = ", ".join(f"{n[1:]}.weight {list(entries[f'{n}.weight'].shape)}" for n in names)
        raise DynError(f"Which of these is the convolution's weight: {listed}?", fix='Rename it to "weight".')
    return fitting[0] if fitting else names[0]


def _unfit(layer: ModulatedDeformConv2d, entries: Entries, names: list[str]) -> DynError:
    taps, groups = layer.kernel_size[0] * layer.kernel_size[1], layer.offset_groups
    shapes = {name: entries[f"{name}.weight"].shape for name in names}
    rows = sum(shape[0] for shape in shapes.values())
    listed = ", ".join(f"{name[1:]}.weight {list(shape)}" for name, shape in list(shapes.items())[:4])
    kinds = "3·G·K channels (offsets, masks)" if layer.modulated else "2·G·K channels (offsets)"
    fix = None
    if rows == (2 if layer.modulated else 3) * groups * taps:
        fix = f"ModulatedDeformConv2d(…, modulated={not layer.modulated})"
    elif rows % ((3 if layer.modulated else 2) * taps) == 0:
        fix = f"ModulatedDeformConv2d(…, offset_groups={rows // ((3 if layer.modulated else 2) * taps)})"
    return DynError(
        f"{len(names)} predictors do not fit: {listed}.",
        why=f"The layer expects {layer.predictor.out_channels}: {kinds}, G = {groups} offset groups, K = {taps} taps.",
        fix=fix,
    )


LAYOUTS = {ModulatedDeformConv2d: (predictors,)}
