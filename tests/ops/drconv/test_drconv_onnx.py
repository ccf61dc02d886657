"""The function body where logits are equal, and how large it is."""

import numpy as np
import pytest

from dyndeploy.ops.drconv.op import SPEC
from dyndeploy.testing.cases import Case
from dyndeploy.testing.single_op import single_op_model


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_all_regions_tied(body_error, dtype):
    """Region 0 everywhere; a filter of any other would be infinitely wrong."""
    case = Case.of(SPEC, O=5)
    feeds = case.draw(dtype=dtype)
    feeds["guide"][:] = 0.25
    feeds["filters"][:, 5:] = np.nan
    assert body_error(case, feeds) < SPEC.tolerance[dtype]


def test_no_bigger_than_needed():
    """No loop is unrolled: one MatMul for all taps and regions."""
    used = [node.op_type for node in single_op_model(SPEC, Case.of(SPEC).attributes).functions[0].node]
    assert used.count("MatMul") == used.count("ArgMax") == used.count("GatherElements") == 1
    assert {"Loop", "If", "Scan"}.isdisjoint(used)
