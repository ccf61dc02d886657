"""The loss of the paper's section 3.3, and the proposals and crops that it is about."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.training import crop_rois, feature_mimicking_loss, rcnn_branch_loss, sample_positives

# --- the loss


def test_is_one_minus_the_cosine_summed():
    student = torch.tensor([[1.0, 0.0], [2.0, 2.0], [3.0, 0.0], [0.0, 0.0]])
    teacher = torch.tensor([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])
    each = torch.tensor([0, 1 - math.sqrt(0.5), 2, 1])
    torch.testing.assert_close(feature_mimicking_loss(student, teacher, reduction="none"), each)
    torch.testing.assert_close(feature_mimicking_loss(student, teacher), each.sum())
    torch.testing.assert_close(feature_mimicking_loss(student, teacher, reduction="mean"), each.mean())


@pytest.mark.parametrize("detach", [False, True])
def test_who_learns(detach):
    student, teacher = (torch.randn(3, 5, requires_grad=True) for _ in range(2))
    feature_mimicking_loss(student, teacher, detach_teacher=detach).backward()
    assert student.grad.any()
    assert (teacher.grad is None) == detach


def test_the_branch_adds_mimicking_and_classification_at_a_tenth():
    student, teacher, logits = torch.randn(4, 8), torch.randn(4, 8), torch.randn(4, 3)
    labels = torch.tensor([1, 2, 1, 2])
    expected = feature_mimicking_loss(student, teacher) + F.cross_entropy(logits, labels)
    torch.testing.assert_close(rcnn_branch_loss(student, teacher, logits, labels), 0.1 * expected)
    torch.testing.assert_close(rcnn_branch_loss(student, teacher, logits, labels, weight=2), 2 * expected)


def test_no_proposals_no_loss():
    student, logits = torch.zeros(0, 8, requires_grad=True), torch.zeros(0, 3, requires_grad=True)
    loss = rcnn_branch_loss(student, student, logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert feature_mimicking_loss(student, student, reduction="mean") == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_features_are_compared_in_float32(dtype):
    student, teacher = (torch.randn(3, 64) * 300 for _ in range(2))  # their squares are not halves any more
    loss = feature_mimicking_loss(student.to(dtype), teacher.to(dtype))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, feature_mimicking_loss(student, teacher), rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: feature_mimicking_loss(torch.zeros(2, 3), torch.zeros(3, 3)), r"student \[2, 3\], teacher \[3, 3\]"),
        (lambda: feature_mimicking_loss(torch.zeros(2), torch.zeros(2)), r"Both are \[M, D\]"),
        (lambda: feature_mimicking_loss(*torch.zeros(2, 2, 3), reduction="max"), "reduction='max'"),
        (lambda: rcnn_branch_loss(*torch.zeros(2, 2, 3), torch.zeros(3, 4), torch.zeros(3).long()), r"logits \[3, 4\]"),
        (lambda: rcnn_branch_loss(*torch.zeros(2, 2, 3), torch.zeros(2, 4), torch.zeros(3).long()), r"labels \[3\]"),
    ],
)
def test_shapes_of_the_loss(call, message):
    with pytest.raises(DynError, match=message):
        call()


# --- proposals


def test_positives_are_drawn_per_image():
    rois = torch.zeros(100, 5)
    rois[60:, 0] = 2  # image 1 is not there
    labels = torch.tensor([0, 1, 2, 0] * 25)
    labels[60:92] = 0
    chosen = sample_positives(rois, labels, 8)
    assert (labels[chosen] > 0).all()
    assert len(set(chosen.tolist())) == len(chosen) == 8 + 4  # of 30, and of the 4 that are there
    assert rois[chosen, 0].tolist() == [0] * 8 + [2] * 4


def test_the_same_generator_draws_the_same():
    rois, labels = torch.zeros(50, 5), torch.ones(50)
    draws = [sample_positives(rois, labels, 5, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_no_positives_are_no_rows():
    assert sample_positives(torch.zeros(3, 5), torch.zeros(3)).tolist() == []
    assert sample_positives(torch.zeros(0, 5), torch.zeros(0)).tolist() == []


@pytest.mark.parametrize(
    ("rois", "labels", "count"), [((3, 4), (3,), 1), ((3, 5), (2,), 1), ((3, 5), (3, 1), 1), ((3, 5), (3,), 0)]
)
def test_shapes_of_proposals(rois, labels, count):
    with pytest.raises(DynError, match="sample_positives: rois"):
        sample_positives(torch.zeros(rois), torch.zeros(labels), count)


# --- crops


def test_a_crop_at_its_own_size_is_the_pixels():
    images = torch.randn(3, 2, 9, 12)
    crops = crop_rois(images, torch.tensor([[2.0, 3, 1, 8, 6], [0, 0, 0, 5, 5], [2, 7, 4, 12, 9]]), size=5)
    torch.testing.assert_close(crops[0], images[2, :, 1:6, 3:8])
    torch.testing.assert_close(crops[1], images[0, :, :5, :5])
    torch.testing.assert_close(crops[2], images[2, :, 4:9, 7:12])


@pytest.mark.parametrize("size", [3, 8, 13])
def test_resizing_is_that_of_interpolate(size):
    """The whole image: pixel centres, and at the edge the value of the edge."""
    images = torch.randn(2, 3, 7, 10, dtype=torch.float64)
    rois = torch.tensor([[1.0, 0, 0, 10, 7], [0, 0, 0, 10, 7]])
    expected = F.interpolate(images.flip(0), size=(size, size), mode="bilinear", align_corners=False)
    torch.testing.assert_close(crop_rois(images, rois, size), expected)


def test_boxes_between_pixels_read_between_them():
    """On a ramp, bilinear interpolation is exact."""
    y, x = torch.meshgrid(torch.arange(8.0) + 0.5, torch.arange(9.0) + 0.5, indexing="ij")
    (crop,) = crop_rois(torch.stack([y, x])[None], torch.tensor([[0, 1.3, 2.1, 7.7, 5.3]]), size=4)
    torch.testing.assert_close(crop[0, :, 0], 2.1 + 3.2 * (torch.arange(4) + 0.5) / 4)
    torch.testing.assert_close(crop[1, 0], 1.3 + 6.4 * (torch.arange(4) + 0.5) / 4)


def test_crops_pass_gradients_and_keep_the_dtype():
    images = torch.randn(1, 1, 6, 6, requires_grad=True)
    crop_rois(images, torch.tensor([[0.0, 0, 0, 3, 6]]), size=4).sum().backward()
    assert images.grad[..., :3].all()
    assert not images.grad[..., 4:].any()
    assert crop_rois(images.half(), torch.tensor([[0.0, 0, 0, 3, 6]]), size=4).dtype == torch.float16


def test_no_boxes_no_crops():
    assert crop_rois(torch.zeros(2, 3, 8, 8), torch.zeros(0, 5)).shape == (0, 3, 224, 224)


@pytest.mark.parametrize(
    ("images", "rois", "size", "message"),
    [
        ((3, 8, 8), [[0.0, 0, 0, 1, 1]], 4, r"images \[3, 8, 8\]"),
        ((2, 3, 8, 8), [[0.0, 0, 1, 1]], 4, r"rois have shape \[1, 4\]"),
        ((2, 3, 8, 8), [[0.0, 0, 0, 1, 1], [2.0, 0, 0, 1, 1]], 4, "images 0 to 2 of a batch of 2"),
        ((2, 3, 8, 8), [[-1.0, 0, 0, 1, 1]], 4, "images -1 to -1"),
        ((2, 3, 8, 8), [[0.0, 0, 0, 1, 1]], 0, "size=0"),
    ],
)
def test_shapes_of_crops(images, rois, size, message):
    with pytest.raises(DynError, match=message):
        crop_rois(torch.zeros(images), torch.tensor(rois), size)


def test_a_detector_learns_from_the_branch():
    """As in the module's docstring: shared backbone, heads of their own, everything gets a gradient."""
    backbone, student_head, teacher_head, classifier = (
        nn.Conv2d(1, 4, 3),
        nn.Linear(4, 6),
        nn.Linear(4, 6),
        nn.Linear(6, 3),
    )
    images, labels = torch.randn(2, 1, 16, 16), torch.tensor([1, 0, 2])
    rois = torch.tensor([[0.0, 0, 0, 8, 8], [0, 4, 4, 9, 9], [1, 2, 3, 12, 15]])
    chosen = sample_positives(rois, labels)
    assert sorted(chosen.tolist()) == [0, 2]
    teacher = teacher_head(backbone(crop_rois(images, rois[chosen], 12)).mean((2, 3)))
    student = student_head(backbone(images).mean((2, 3)))[rois[:, 0].long()]
    rcnn_branch_loss(student[chosen], teacher, classifier(teacher), labels[chosen]).backward()
    for module in (backbone, student_head, teacher_head, classifier):
        assert all(p.grad.any() for p in module.parameters())
