"""DCNv2's R-CNN feature mimicking: a detector's RoI features learn to see what a crop of the image alone shows.

While a detector is trained, some of its positive proposals are cut out of the image, and go through the same backbone
once more, the R-CNN branch. What the detector knows of a proposal is pulled towards what the branch knows of it. The
branch ends with the training.

    chosen = sample_positives(rois, labels)
    teacher = branch(crop_rois(images, rois[chosen]))                   # same backbone, a head of its own
    loss = detector_loss + rcnn_branch_loss(student[chosen], teacher, classify(teacher), labels[chosen])

Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019, section 3.3.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dyndeploy.errors import DynError


def feature_mimicking_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    reduction: Literal["sum", "mean", "none"] = "sum",
    detach_teacher: bool = False,
) -> Tensor:
    """sum over b in Omega of 1 - cos(student[b], teacher[b]).

    Computed in float32 at least. A vector of zeros has cosine 0 with any other.

    Args:
        student: [M, D] features of the detector's RoI head (the paper: 1024, behind the second FC), one row per b.
        teacher: [M, D] features of the R-CNN branch for the same proposals.
        reduction: "sum" is the paper's; "mean" does not depend on how many proposals there are; "none" gives [M].
        detach_teacher: True: the teacher gets no gradient from here. The paper says nothing of it; both branches are
            trained and share their weights, so the default lets both learn.

    Returns:
        A scalar, 0 for no proposals; or [M].

    Raises:
        DynError: the shapes are not one [M, D], or the reduction is unknown.
    """
    if student.dim() != 2 or student.shape != teacher.shape:
        raise DynError(
            f"feature_mimicking_loss: student {list(student.shape)}, teacher {list(teacher.shape)}.",
            why="Both are [M, D], a row per proposal.",
        )
    if reduction not in ("sum", "mean", "none"):
        raise DynError(f"feature_mimicking_loss: reduction={reduction!r}.", fix='"sum", "mean" or "none"')
    if detach_teacher:
        teacher = teacher.detach()
    dtype = torch.promote_types(student.dtype, torch.float32)
    loss = 1 - F.cosine_similarity(student.to(dtype), teacher.to(dtype), dim=1)
    if reduction == "none":
        return loss
    return loss.sum() / (max(len(loss), 1) if reduction == "mean" else 1)


def rcnn_branch_loss(
    student: Tensor,
    teacher: Tensor,
    logits: Tensor,
    labels: Tensor,
    *,
    weight: float = 0.1,
    detach_teacher: bool = False,
) -> Tensor:
    """What the R-CNN branch adds to the loss of a detector: weight * (mimicking + classification).

    The classification is the cross-entropy of the branch's own (classes + 1)-way classifier, a mean over the
    proposals as the detector's is.

    Args:
        student, teacher, detach_teacher: as in `feature_mimicking_loss`, summed.
        logits: [M, classes + 1] of the branch, 0 the background.
        labels: [M] int64 classes of the proposals.
        weight: of both terms; 0.1 in the paper.

    Returns:
        A scalar; 0 where there are no proposals.

    Raises:
        DynError: the shapes do not fit.
    """
    if logits.dim() != 2 or logits.shape[:1] != labels.shape or len(student) != len(logits):
        raise DynError(
            f"rcnn_branch_loss: student {list(student.shape)}, logits {list(logits.shape)}, "
            f"labels {list(labels.shape)}.",
            why="They are [M, D], [M, classes + 1] and [M], a row per proposal.",
        )
    mimicking = feature_mimicking_loss(student, teacher, detach_teacher=detach_teacher)
    classification = F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)
    return weight * (mimicking + classification)


def sample_positives(rois: Tensor, labels: Tensor, count: int = 32, generator: torch.Generator | None = None) -> Tensor:
    """Omega: up to `count` positive proposals per image, drawn at random without repetition.

    Args:
        rois: [R, 5], as in `crop_rois`; only the index of the image is read.
        labels: [R], 0 the background; everything above is positive.
        count: per image; 32 in the paper. An image with fewer positives gives them all.
        generator: of the random numbers, on the CPU.

    Returns:
        [M] int64, rows of rois, image by image.

    Raises:
        DynError: the shapes do not fit, or count < 1.
    """
    _check_rois("sample_positives", rois)
    if labels.shape != rois.shape[:1] or count < 1:
        raise DynError(
            f"sample_positives: rois {list(rois.shape)}, labels {list(labels.shape)}, count={count}.",
            why="A label per proposal, and at least one is drawn.",
        )
    order = torch.randperm(len(rois), generator=generator).to(rois.device)
    shuffled = order[labels[order] > 0]
    images = rois[shuffled, 0]
    chosen = [shuffled[images == image][:count] for image in sorted(set(images.tolist()))]
    return torch.cat(chosen) if chosen else shuffled


def crop_rois(images: Tensor, rois: Tensor, size: int = 224) -> Tensor:
    """Cut boxes out of images and resize them to size x size, bilinearly and without regard to their aspect ratio.

    A box is continuous: pixel i covers i to i + 1, so that (0, 0, W, H) is the whole image. A value is read at the
    centre of each output pixel; beyond the image, that of its edge.

    Args:
        images: [N, C, H, W].
        rois: [M, 5]: index of the image, x1, y1, x2, y2 in pixels of `images`.
        size: height and width of a crop; 224 in the paper.

    Returns:
        [M, C, size, size], dtype of images; half types are interpolated in float32.

    Raises:
        DynError: the shapes do not fit, size < 1, or a roi is of an image that is not there.
    """
    _check_rois("crop_rois", rois)
    if images.dim() != 4 or size < 1:
        raise DynError(f"crop_rois: images {list(images.shape)}, size={size}.", why="[N, C, H, W], and at least 1.")
    of = rois[:, 0].long()
    if len(of) and not 0 <= int(of.min()) <= int(of.max()) < len(images):
        raise DynError(f"crop_rois: images {int(of.min())} to {int(of.max())} of a batch of {len(images)}.")
    dtype = torch.promote_types(images.dtype, torch.float32)
    centres = (torch.arange(size, device=images.device, dtype=dtype) + 0.5) / size
    x1, y1, x2, y2 = rois[:, 1:].to(dtype)[:, :, None].unbind(1)
    x = 2 * (x1 + (x2 - x1) * centres) / images.shape[3] - 1
    y = 2 * (y1 + (y2 - y1) * centres) / images.shape[2] - 1
    square = (len(rois), size, size)
    grid = torch.stack([x[:, None, :].expand(square), y[:, :, None].expand(square)], dim=3)
    crops, order = [images.new_empty(0, images.shape[1], size, size)], [of[:0]]
    for image in sorted(set(of.tolist())):
        # All boxes of an image as one tall grid: the image is not copied for each.
        rows = (of == image).nonzero()[:, 0]
        tall = F.grid_sample(
            images[image : image + 1].to(dtype),
            grid[rows].flatten(0, 1)[None],
            padding_mode="border",
            align_corners=False,
        )
        crops.append(tall.reshape(images.shape[1], len(rows), size, size).transpose(0, 1).to(images.dtype))
        order.append(rows)
    return torch.cat(crops)[torch.cat(order).argsort()]


def _check_rois(function: str, rois: Tensor) -> None:
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise DynError(
            f"{function}: rois have shape {list(rois.shape)}.", why="[M, 5]: index of the image, x1, y1, x2, y2."
        )
