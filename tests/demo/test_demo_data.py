import sys

import pytest
import torch
from sklearn.datasets import load_digits

from dyndeploy.demo.data import distort, load
from dyndeploy.errors import MissingPackageError


@pytest.fixture(scope="module")
def parts():
    return load()


def test_shapes_types_and_range(parts):
    for images, labels in parts:
        assert images.shape[1:] == (1, 32, 32)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert len(images) == len(labels)
        assert 0 <= images.min() < 0.01 < 0.9 < images.max() <= 1
    train, test = parts
    assert (len(train.labels), len(test.labels)) == (1347, 450)


def test_both_parts_hold_every_digit_equally(parts):
    for _, labels in parts:
        share = labels.bincount(minlength=10) / len(labels)
        torch.testing.assert_close(share, torch.full((10,), 0.1), atol=0.01, rtol=0)


def test_held_out_images_are_the_same_every_time(parts):
    again = load()[1]
    assert torch.equal(parts[1].images, again.images)
    assert torch.equal(parts[1].labels, again.labels)


def test_training_images_keep_the_pixels_of_the_source(parts):
    """Enlarging blurs, but the mean ink stays that of the source."""
    source = torch.from_numpy(load_digits().data / 16).float()
    torch.testing.assert_close(parts[0].images.mean(), source.mean(), atol=0.01, rtol=0)


def test_distortion_is_seeded(parts):
    images = parts[0].images[:4]
    first, same, other = (distort(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other, atol=0.1)


def test_every_image_is_distorted_in_its_own_way(parts):
    twice = parts[0].images[:1].repeat(2, 1, 1, 1)
    one, other = distort(twice, torch.Generator().manual_seed(0))
    assert (one - other).abs().max() > 0.1


def test_distorted_digits_stay_inside_the_frame(parts):
    """Little ink is lost over the border: the sum follows the mean area of the scales, 0.725 squared."""
    images = parts[0].images[:256]
    ink = distort(images, torch.Generator().manual_seed(0)).sum() / images.sum()
    assert 0.725**2 * 0.9 < ink < 0.725**2 * 1.1


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingPackageError, match=r"dyndeploy\[demo\]"):
        load()
