"""What only this torch op does: offsets out of reach, coordinates of half tensors; what it refuses."""

from dataclasses import replace

import pytest
import torch

from dyndeploy.errors import DynError
from dyndeploy.ops.dcnv2.op import SPEC
from dyndeploy.testing.cases import Case

WINDOW = {"kernel": (3, 2), "strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)}
CASE = Case.of(SPEC, **WINDOW, group=2, offset_group=2, N=1, O=2, H=3, W=5)


@pytest.fixture
def tensors(draw):
    return draw(CASE)


def test_offsets_that_reach_nothing_have_no_gradient(tensors):
    offset_mask = tensors[1]
    offset_mask[:, 0] = float("nan")
    offset_mask[:, 3] = 1e20
    for t in tensors:
        t.requires_grad_()
    CASE.run(*tensors).sum().backward()
    assert all(t.grad.isfinite().all() for t in tensors)
    assert not offset_mask.grad[:, :4].any()


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16")])
def test_half_types_keep_coordinates_in_float32(draw, dtype, name):
    """At column 1000 half has steps of 0.5 pixel: coordinates in half would miss by up to a quarter."""
    case = Case.of(SPEC, N=1, H=3, W=1003)
    halves = draw(case, dtype=dtype)
    truth = case.run(*(t.double() for t in halves))
    y = case.run(*halves)
    assert y.dtype == dtype
    error = (y.double() - truth).norm() / truth.norm()
    assert error < SPEC.tolerance[name] / 2


def with_tensor(index, change):
    def call(*tensors):
        changed = [change(t) if i == index else t for i, t in enumerate(tensors)]
        return CASE.run(*changed)

    return call


def with_attribute(**changes):
    return replace(CASE, attributes={**CASE.attributes, **changes}).run


BAD = {
    "offset_mask of another batch": (
        with_tensor(1, lambda t: torch.cat([t, t])),
        r"offset_mask has shape \[2, 36, 2, 4\], but dim 0 must be N = 1",
    ),
    "offsets without masks": (
        with_tensor(1, lambda t: t[:, :24]),
        r"dim 1 must be 3\*offset_group\*K = 36.*offsets in pixels.*then G\*K masks",
    ),
    "offset_mask at the input's size": (
        with_tensor(1, lambda t: t.new_zeros(1, 36, 3, 5)),
        "offset_mask has shape .* dim 2 must be Ho = 2",
    ),
    "weight of a dense convolution": (
        with_tensor(2, lambda t: t.repeat(1, 2, 1, 1)),
        r"weight has shape \[2, 4, 3, 2\], but dim 1 must be C//group = 2",
    ),
    "short bias": (with_tensor(3, lambda t: t[:1]), r"bias has shape \[1\], but dim 0 must be O = 2"),
    "groups": (with_attribute(group=3), "C = 4 is not divisible by group = 3"),
    "offset_groups": (with_attribute(offset_group=3), "C = 4 is not divisible by offset_group = 3"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(tensors, call, message):
    with pytest.raises(DynError, match=f"(?s)^.*{message}"):
        call(*tensors)
