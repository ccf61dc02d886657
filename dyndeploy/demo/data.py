"""Handwritten digits: real images that a package carries, enlarged and distorted.

scikit-learn's `load_digits`: 1797 images of 8x8 pixels, from "Optical Recognition of Handwritten Digits"
(E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dyndeploy.errors import MissingPackageError

SIZE = 32
#: Split and distortion of the held-out images are the same in every run, so that runs can be compared.
_HELD_OUT_SEED = 0
_HELD_OUT_FRACTION = 0.25

# An 8x8 digit fills its frame; shrunk to these fractions of it, a rotated and shifted one stays inside.
_SCALE = (0.6, 0.85)
_DEGREES = 20.0
_SHEAR = 0.2
_SHIFT = 0.15  # of half the frame
_ELASTIC = 0.06  # standard deviation at the knots, of half the frame
_KNOTS = 5


class Digits(NamedTuple):
    """Images [N, 1, 32, 32] float32 in 0..1 (1 is ink) and labels [N] int64 in 0..9."""

    images: Tensor
    labels: Tensor


def load() -> tuple[Digits, Digits]:
    """The training images undistorted, for `distort` at every step, and the held-out images, distorted once.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise MissingPackageError("scikit-learn", "The demo's data", "demo") from None
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels, labels, test_size=_HELD_OUT_FRACTION, stratify=labels, random_state=_HELD_OUT_SEED)
    train_pixels, test_pixels, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    generator = torch.Generator().manual_seed(_HELD_OUT_SEED)
    return (
        Digits(_enlarge(train_pixels), train_labels),
        Digits(distort(_enlarge(test_pixels), generator), test_labels),
    )


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, scale, shear, shift and bend every image in its own random way.

    Args:
        images: [N, C, H, W]; what lies outside an image is 0.
        generator: where the randomness comes from.

    Returns:
        [N, C, H, W].
    """
    n, _, height, width = images.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    angle = uniform(-1, 1) * math.radians(_DEGREES)
    shear, zoom_y, zoom_x = uniform(-_SHEAR, _SHEAR), 1 / uniform(*_SCALE), 1 / uniform(*_SCALE)
    shift_y, shift_x = uniform(-_SHIFT, _SHIFT), uniform(-_SHIFT, _SHIFT)
    cos, sin = angle.cos(), angle.sin()
    # affine_grid wants the map from output to input: hence the inverse scales.
    rows = [
        torch.stack([zoom_x * cos, zoom_x * (shear * cos - sin), shift_x], dim=1),
        torch.stack([zoom_y * sin, zoom_y * (shear * sin + cos), shift_y], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    knots = _ELASTIC * torch.randn(n, 2, _KNOTS, _KNOTS, generator=generator)
    bend = F.interpolate(knots, size=(height, width), mode="bicubic", align_corners=True)
    return F.grid_sample(images, grid + bend.permute(0, 2, 3, 1), align_corners=False)


def _enlarge(pixels: Tensor) -> Tensor:
    """[N, 64] in 0..16 -> [N, 1, 32, 32] in 0..1."""
    images = (pixels.float() / 16).reshape(-1, 1, 8, 8)
    return F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
