"""Program: one exported program in four dtypes, its inner values, and its choices."""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from dyndeploy.errors import DynError
from dyndeploy.nn import DGConv2d, DRConv2d
from dyndeploy.ops.dgc.reference import kept
from dyndeploy.ops.drconv.reference import regions_of
from dyndeploy.runtimes.program import Program
from dyndeploy.testing.numeric import compare


class Net(nn.Module):
    """With a constant, a dtype written out, and both layers that choose."""

    def __init__(self) -> None:
        super().__init__()
        self.regions, self.groups = DRConv2d(4, 8, 3, padding=1, regions=4), DGConv2d(8, 8, 1, heads=2, keep=0.5)
        self.offset = torch.tensor([0.5])

    def forward(self, x, count):
        y = self.groups(self.regions(x)) + self.offset + torch.full((1,), 0.25, dtype=torch.float32)
        return y * count, count


@pytest.fixture(scope="module")
def exported():
    torch.manual_seed(0)
    model = Net().eval()
    dims = ({0: torch.export.Dim("n", min=1, max=4)}, {})
    return model, torch.export.export(model, (torch.randn(2, 4, 6, 5), torch.tensor(3)), dynamic_shapes=dims)


X = np.random.default_rng(0).standard_normal((3, 4, 6, 5)).astype("f")
COUNT = np.array(3)


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 0), ("float32", 1e-6), ("float16", 2e-3), ("bfloat16", 2e-2)])
def test_every_dtype(exported, dtype, limit):
    model, program = exported
    before = {k: v.clone() for k, v in model.state_dict().items()}
    reference, _ = Program(program, "float64").run([X, COUNT])
    (y, count), _ = Program(program, dtype).run([X, COUNT])
    assert y.dtype == np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert count.dtype == np.int64
    assert compare(y, reference[0]).relative_l2 <= limit
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "the user's model is not touched"


def test_float64_is_the_models_own(exported):
    model, program = exported
    import copy

    double = copy.deepcopy(model).double()
    double.offset = double.offset.double()
    expected, _ = double(torch.from_numpy(X).double(), torch.tensor(3))
    np.testing.assert_allclose(Program(program, "float64").run([X, COUNT])[0][0], expected.detach().numpy(), rtol=1e-12)


def test_watched_values(exported):
    _, program = exported
    run = Program(program, "float64")
    assert {spec.folder for spec in run.ops.values()} == {"drconv", "dgc"}
    plain, _ = run.run([X, COUNT])
    outputs, seen = run.run(
        [X, COUNT], watch=["dynamic_group_conv2d", run.input_of("dynamic_group_conv2d", "saliency")]
    )
    np.testing.assert_array_equal(outputs[0], plain[0])
    assert {a.shape for a in seen.values()} == {(3, 8, 6, 5), (3, 16)}
    with pytest.raises(DynError, match="no tensor nonsense"):
        run.run([X, COUNT], watch=["nonsense"])


def test_its_own_choices_change_nothing_and_others_do(exported):
    _, program = exported
    run = Program(program, "float64")
    names = {spec.folder: name for name, spec in run.ops.items()}
    watch = {"drconv": run.input_of(names["drconv"], "guide"), "dgc": run.input_of(names["dgc"], "saliency")}
    plain, seen = run.run([X, COUNT], watch=list(watch.values()))
    regions = regions_of(torch.from_numpy(seen[watch["drconv"]])).numpy()
    keep = kept(torch.from_numpy(seen[watch["dgc"]]), 2, 4, 0.0).numpy()
    assert keep.sum(-1).max() == 4
    same, _ = run.run([X, COUNT], choices={names["drconv"]: regions, names["dgc"]: keep})
    np.testing.assert_allclose(same[0], plain[0], rtol=1e-12)

    flipped = regions.copy()
    flipped[0, 2, 3] = (flipped[0, 2, 3] + 1) % 4
    _, values = run.run([X, COUNT], choices={names["drconv"]: flipped}, watch=[names["drconv"]])
    _, before = run.run([X, COUNT], watch=[names["drconv"]])
    changed = np.argwhere((values[names["drconv"]] != before[names["drconv"]]).any(axis=1))
    np.testing.assert_array_equal(changed, [[0, 2, 3]])

    moved = keep.copy()
    moved[1, 0] = ~moved[1, 0]
    other, _ = run.run([X, COUNT], choices={names["dgc"]: moved})
    assert not np.allclose(other[0][1], plain[0][1])
    np.testing.assert_array_equal(other[0][0], plain[0][0])


def test_bad_files_and_names(exported, tmp_path, capfd):
    _, program = exported
    with pytest.raises(DynError, match="has no op nonsense"):
        Program(program).run([X, COUNT], choices={"nonsense": COUNT})
    (tmp_path / "model.pt2").write_bytes(b"not a program")
    with pytest.raises(DynError, match="cannot be read by torch"):
        Program.load(tmp_path / "model.pt2")
    assert capfd.readouterr() == ("", ""), "the error says it all"
