"""Checkpoints of megvii-research/DRConv and of shallowtoil/DRConv-PyTorch."""

from __future__ import annotations

from torch import Tensor

from dyndeploy.errors import DynError
from dyndeploy.ops._checkpoint import Conversion, Entries
from dyndeploy.ops.drconv.module import DRConv2d, MixGenerator, PaperGenerator


def megvii(layer: DRConv2d, entries: Entries) -> Conversion | None:
    """DRConv: banks as the columns of one matrix; the guide comes from outside.

    Raises:
        DynError: the layer has another generator, or a guide of its own.
    """
    if not any(key.startswith(".routing_fc.") for key in entries):
        return None
    if not isinstance(layer.generator, MixGenerator):
        raise _other_generator("mix")
    if layer.guide_conv is not None:
        raise DynError(
            "The layer has a guide of its own, the checkpoint's has none.",
            why="The official layer is given its guide, by the block's masknet.",
            fix="DRConv2d(…, guide_conv=False), and layer(x, guide).",
        )
    generator = layer.generator
    conversion = Conversion("megvii", entries)
    conversion.move(".weight", ".generator.weight", lambda matrix: _banks(matrix, generator))
    for kind in ("weight", "bias"):
        conversion.move(f".routing_fc.{kind}", f".generator.mixture.{kind}")
    return conversion


def _banks(matrix: Tensor, generator: MixGenerator) -> Tensor:
    """[O*C*kh*kw, bases] -> [bases*O, C, kh, kw]; those of another layer stay as they are, and are found out."""
    weight = generator.weight
    expected = (weight.numel() // generator.bases, generator.bases)
    return matrix.mT.reshape(weight.shape) if matrix.shape == expected else matrix


def shallowtoil(layer: DRConv2d, entries: Entries) -> Conversion | None:
    """DRConv2d: the paper's generator, a guide with a bias, no bias.

    Raises:
        DynError: the layer has another generator or no guide of its own.
    """
    if not any(key.startswith((".conv_kernel.", ".conv_guide.")) for key in entries):
        return None
    if not isinstance(layer.generator, PaperGenerator):
        raise _other_generator("paper")
    if layer.guide_conv is None:
        raise DynError("The checkpoint has a guide, the layer has none.", fix="DRConv2d(…, guide_conv=True)")
    conversion = Conversion("shallowtoil", entries)
    for kind in ("weight", "bias"):
        conversion.move(f".conv_kernel.1.{kind}", f".generator.squeeze.{kind}")
        conversion.move(f".conv_kernel.3.{kind}", f".generator.expand.{kind}")
    conversion.move(".conv_guide.weight", ".guide_conv.weight")
    _guide_bias(layer, entries, conversion)
    if layer.bias is not None:
        conversion.assume(".bias", layer.bias.detach().new_zeros(layer.out_channels), "their layer never has one")
    return conversion


def _guide_bias(layer: DRConv2d, entries: Entries, conversion: Conversion) -> None:
    theirs, ours = ".conv_guide.bias", ".guide_conv.bias"
    assert layer.guide_conv is not None
    if theirs not in entries or layer.guide_conv.bias is not None:
        conversion.move(theirs, ours)
    elif (entries[theirs] == entries[theirs].flatten()[:1]).all():
        conversion.drop(theirs, "the same for all regions, which the argmax does not see")
    else:
        conversion.add(theirs, ours)


def _other_generator(theirs: str) -> DynError:
    return DynError(
        f"The checkpoint's generator is \"{theirs}\", the layer's is another.", fix=f'DRConv2d(…, generator="{theirs}")'
    )


def with_guide_bias(layer: DRConv2d, entries: Entries) -> Conversion | None:
    """Our own, of a layer that was made with, or given, a bias of its guide: this one is given it, too."""
    if ".guide_conv.bias" not in entries or layer.guide_conv is None or layer.guide_conv.bias is not None:
        return None
    conversion = Conversion("own names", entries)
    conversion.add(".guide_conv.bias", ".guide_conv.bias")
    return conversion


LAYOUTS = {DRConv2d: (megvii, shallowtoil, with_guide_bias)}
