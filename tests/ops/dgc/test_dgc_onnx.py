"""The function body where saliencies are equal, zero or at the threshold, and how large it is."""

import pytest
import torch

from dyndeploy.ops.dgc.op import SPEC
from dyndeploy.testing.cases import Case
from dyndeploy.testing.single_op import single_op_model


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("inactive", range(9))
def test_drops_what_the_reference_drops(body_error, inactive, dtype):
    """Every number of inactive channels, with many ties and zeros: a wrong choice is a large error."""
    case = Case.of(SPEC, inactive=inactive, N=8, C=8, H=3, W=3)
    for seed in range(3):
        assert body_error(case, case.draw(seed, dtype)) < SPEC.tolerance[dtype]


def test_all_saliencies_zero(body_error):
    """One dropped channel drops all: the bias is left. Without one, all are kept, at zero."""
    for inactive in (0, 1):
        case = Case.of(SPEC, inactive=inactive, N=1, C=8)
        feeds = case.draw(dtype="float32")
        feeds["saliency"][:] = 0
        assert body_error(case, feeds) < 1e-7


def test_threshold_is_compared_in_float32(body_error):
    """0.3 in half is 0.30005: a half saliency of just that is above the threshold, and kept."""
    case = Case.of(SPEC, inactive=-1, threshold=0.3, N=1, C=8)
    feeds = case.draw(dtype="float16")
    feeds["saliency"][:] = 0.3
    x, saliency, weight, bias = (torch.from_numpy(a).double() for a in feeds.values())
    assert not torch.equal(case.run(x, saliency, weight, bias), case.run(x, saliency * 0, weight, bias))
    assert body_error(case, feeds) < SPEC.tolerance["float16"]


def test_no_bigger_than_needed():
    """No loop over heads: one TopK, one grouped convolution, one pass for the shuffle."""
    used = [node.op_type for node in single_op_model(SPEC, {}).functions[0].node]
    assert used.count("TopK") == used.count("Conv") == used.count("Gather") == 1
    assert {"Loop", "If", "Scan"}.isdisjoint(used)
