"""Checkpoints of other code: its names for the modules of our networks. The layers' own are the operators' business."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import nn

from dyndeploy.models.drconv import ShuffleNetV2
from dyndeploy.models.resnet import ResNet
from dyndeploy.ops._checkpoint import Conversion, Entries, Layout

#: As for re.sub: text with groups, or a function of the match.
Replacement = str | Callable[[re.Match[str]], str]


def names(layout: str, known_by: str, pairs: Sequence[tuple[str, Replacement]]) -> Layout:
    """A layout that only renames.

    Args:
        layout: its name, for the report.
        known_by: a pattern that one of its keys matches, and none of ours.
        pairs: (pattern, replacement), applied to every key one after the other.
    """

    def rename(network: nn.Module, entries: Entries) -> Conversion | None:
        if not any(re.match(known_by, key) for key in entries):
            return None
        conversion = Conversion(layout, entries)
        for key in entries:
            ours = key
            for pattern, replacement in pairs:
                ours = re.sub(pattern, replacement, ours)
            if ours != key:
                conversion.move(key, ours)
        return conversion

    return rename


DETECTRON2 = names(
    "detectron2 ResNet",
    r"\.(stem\.conv1|res[2-5]\.\d+)\.",
    [
        (r"^\.stem\.conv1\.norm\.", ".bn1."),
        (r"^\.stem\.conv1\.", ".conv1."),
        (r"^\.res2\.", ".layer1."),
        (r"^\.res3\.", ".layer2."),
        (r"^\.res4\.", ".layer3."),
        (r"^\.res5\.", ".layer4."),
        (r"^(\.layer\d\.\d+)\.conv(\d)\.norm\.", r"\1.bn\2."),
        (r"^(\.layer\d\.\d+)\.shortcut\.norm\.", r"\1.downsample.1."),
        (r"^(\.layer\d\.\d+)\.shortcut\.", r"\1.downsample.0."),
        (r"^\.linear\.", ".fc."),
    ],
)
HELLOZHUO = names(
    "hellozhuo ResNet",
    r"\.layer\d\.\d+\.downsample\.1\.norm\.",
    [(r"^(\.layer\d\.\d+\.downsample\.1)\.norm\.", r"\1.")],
)
MEGVII = names(
    "megvii ShuffleNetV2",
    r"\.stage\d_block\d+\.",
    [
        (r"^\.(conv_first|conv_last)\.conv\.", r".\1.0."),
        (r"^\.(conv_first|conv_last)\.bn\.", r".\1.1."),
        (r"^\.stage(\d)_block(\d+)\.", lambda found: f".stage{found[1]}.{int(found[2]) - 1}."),
        (r"\.masknet\.", ".guide."),
        (r"\.conv([abc])_right\.(conv|bn)\.", lambda found: f".{found[2]}{'abc'.index(found[1]) + 1}."),
        (r"\.conv([ab])_left\.(conv|bn)\.", lambda found: f".left.{'ab'.index(found[1]) * 2 + (found[2] == 'bn')}."),
    ],
)

LAYOUTS = {ResNet: (DETECTRON2, HELLOZHUO), ShuffleNetV2: (MEGVII,)}
