"""Deformable RoI pooling against loops over samples, as the two kernels of the field have them."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from dyndeploy.errors import DynError
from dyndeploy.nn import ModulatedDeformRoIPool
from dyndeploy.ops.dcnv2.roi_pool import modulated_deform_roi_pool
from dyndeploy.pipeline.check import check
from dyndeploy.pipeline.export import export

BOTH = pytest.mark.parametrize(("rule", "samples"), [("dcnv2", 2), ("dcnv2", 3), ("mmcv", 2), ("mmcv", 0)])


def c_round(x):
    return math.copysign(math.floor(abs(x) + 0.5), x)


def bilinear(channel, y, x):
    """Between the four pixels around a point that lies on the map."""
    top, left = min(int(y), channel.shape[0] - 1), min(int(x), channel.shape[1] - 1)
    below, right = min(top + 1, channel.shape[0] - 1), min(left + 1, channel.shape[1] - 1)
    a, b = y - top, x - left
    upper = (1 - b) * channel[top, left] + b * channel[top, right]
    lower = (1 - b) * channel[below, left] + b * channel[below, right]
    return (1 - a) * upper + a * lower


def bin_of_dcnv2(channel, roi, place, bins, shift, scale, samples):
    """Corners rounded, the last pixel included; the mean of the samples that fall on the map."""
    rows, columns = channel.shape
    x1, y1 = (c_round(v) * scale - 0.5 for v in roi[:2])
    x2, y2 = ((c_round(v) + 1) * scale - 0.5 for v in roi[2:])
    wide, high = max(x2 - x1, 0.1), max(y2 - y1, 0.1)
    x0 = place[1] * (wide / bins[1]) + x1 + shift[0] * wide
    y0 = place[0] * (high / bins[0]) + y1 + shift[1] * high
    read = []
    for i in range(samples):
        for j in range(samples):
            y, x = y0 + i * (high / bins[0] / samples), x0 + j * (wide / bins[1] / samples)
            if -0.5 <= y <= rows - 0.5 and -0.5 <= x <= columns - 0.5:
                read.append(bilinear(channel, min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)))
    return sum(read) / len(read) if read else 0.0


def bin_of_mmcv(channel, roi, place, bins, shift, scale, samples):
    """Corners as they are; samples in the middle of cells, and 0 where they are off the map."""
    rows, columns = channel.shape
    x1, y1, x2, y2 = (v * scale - 0.5 for v in roi)
    high, wide = (y2 - y1) / bins[0], (x2 - x1) / bins[1]
    down, across = (samples, samples) if samples else (max(math.ceil(high), 0), max(math.ceil(wide), 0))
    total = 0.0
    for i in range(down):
        for j in range(across):
            y = y1 + shift[1] * (y2 - y1) + place[0] * high + (i + 0.5) * high / down
            x = x1 + shift[0] * (x2 - x1) + place[1] * wide + (j + 0.5) * wide / across
            if -1 <= y <= rows and -1 <= x <= columns:
                total += bilinear(channel, min(max(y, 0), rows - 1), min(max(x, 0), columns - 1))
    return total / max(down * across, 1)


def by_loops(features, rois, offset, mask, *, output_size, spatial_scale, samples, offset_scale, rule):
    bin_of = bin_of_dcnv2 if rule == "dcnv2" else bin_of_mmcv
    y = np.zeros((len(rois), features.shape[1], *output_size))
    for m, c, i, j in np.ndindex(*y.shape):
        shift = (0, 0) if offset is None else offset[m, :, i, j] * offset_scale
        channel = features[int(rois[m, 0]), c]
        y[m, c, i, j] = bin_of(channel, rois[m, 1:], (i, j), output_size, shift, spatial_scale, samples)
        if mask is not None:
            y[m, c, i, j] *= mask[m, 0, i, j]
    return y


def draw_rois(images, rows, columns, count, scale):
    """Some beyond the border, some empty or turned round, some with corners at halves of a pixel."""
    size = torch.tensor([columns, rows, columns, rows]) / scale
    corners = torch.rand(count, 4, dtype=torch.float64) * 1.4 * size - 0.2 * size
    corners[: count // 2, 2:] = corners[: count // 2, :2] + corners[: count // 2, 2:].abs()
    corners[::3] = (corners[::3] * 2).round() / 2
    corners[-1, 2:] = corners[-1, :2]
    index = torch.arange(count, dtype=torch.float64).remainder(images)
    return torch.cat([index[:, None], corners], 1)


def draw(rows, columns, bins=(3, 2), count=7, scale=0.25):
    return (
        torch.randn(2, 3, rows, columns, dtype=torch.float64),
        draw_rois(2, rows, columns, count, scale),
        torch.randn(count, 2, *bins, dtype=torch.float64),
        torch.rand(count, 1, *bins, dtype=torch.float64),
    )


@BOTH
@pytest.mark.parametrize(("rows", "columns", "scale"), [(9, 12, 0.25), (6, 5, 1.0), (1, 7, 0.37), (4, 1, 1 / 16)])
def test_agrees_with_loops(rule, samples, rows, columns, scale):
    tensors = draw(rows, columns, scale=scale)
    options = {"output_size": (3, 2), "spatial_scale": scale, "samples": samples, "offset_scale": 0.2, "rule": rule}
    expected = by_loops(*(t.numpy() for t in tensors), **options)
    assert expected.any()
    np.testing.assert_allclose(modulated_deform_roi_pool(*tensors, **options), expected, rtol=1e-9, atol=1e-12)
    plain = by_loops(*(t.numpy() for t in tensors[:2]), None, None, **options)
    np.testing.assert_allclose(modulated_deform_roi_pool(*tensors[:2], **options), plain, rtol=1e-9, atol=1e-12)


def test_the_rules_differ():
    tensors = draw(9, 12)
    results = [
        modulated_deform_roi_pool(*tensors, output_size=(3, 2), spatial_scale=0.25, rule=r) for r in ("dcnv2", "mmcv")
    ]
    assert (results[0] - results[1]).norm() > 0.1 * results[0].norm()


def test_corners_are_rounded_half_away_from_zero():
    features = torch.randn(1, 1, 9, 9)
    halves, whole = torch.tensor([[0.0, 0.5, 2.5, 4.5, 6.5]]), torch.tensor([[0.0, 1, 3, 5, 7]])
    pooled = [modulated_deform_roi_pool(features, r, output_size=2) for r in (halves, whole)]
    torch.testing.assert_close(*pooled, rtol=0, atol=0)
    pooled = [modulated_deform_roi_pool(features, r, output_size=2, rule="mmcv") for r in (halves, whole)]
    assert not torch.equal(*pooled)


def test_the_first_plane_of_the_offsets_moves_along_the_row():
    """x before y, unlike in the convolution."""
    features = torch.arange(12.0).expand(1, 1, 12, 12)
    rois = torch.tensor([[0.0, 4, 4, 7, 7]])
    for plane, change in ((0, 0.5), (1, 0.0)):
        offset = torch.zeros(1, 2, 1, 1)
        offset[:, plane] = 1.0
        moved, still = (
            modulated_deform_roi_pool(features, rois, o, output_size=1, offset_scale=0.125) for o in (offset, None)
        )
        assert (moved - still).item() == change  # an eighth of a region that is four pixels wide


@BOTH
def test_gradients(rule, samples):
    features, rois, offset, mask = draw(6, 7, count=4)

    def pool(features, offset, mask):
        return modulated_deform_roi_pool(
            features, rois, offset, mask, output_size=(3, 2), spatial_scale=0.25, samples=samples, rule=rule
        )

    inputs = [t.requires_grad_() for t in (features, offset, mask)]
    assert torch.autograd.gradcheck(pool, inputs)


def test_rois_have_no_gradient():
    features, rois, offset, _ = draw(6, 7)
    for rule in ("dcnv2", "mmcv"):
        rois.requires_grad_()
        y = modulated_deform_roi_pool(features, rois, offset.requires_grad_(), output_size=(3, 2), rule=rule)
        y.sum().backward()
        assert rois.grad is None


@BOTH
def test_offsets_that_are_not_finite_reach_nothing(rule, samples):
    features, rois, offset, mask = draw(6, 7)
    expected = by_loops(
        *(t.numpy() for t in (features, rois, offset, mask)),
        output_size=(3, 2),
        spatial_scale=0.25,
        samples=samples,
        offset_scale=0.1,
        rule=rule,
    )
    offset[0, 0, 0, 0], offset[1, 1, 2, 1] = math.nan, math.inf
    expected[0, :, 0, 0] = expected[1, :, 2, 1] = 0
    y = modulated_deform_roi_pool(
        features, rois, offset, mask, output_size=(3, 2), spatial_scale=0.25, samples=samples, rule=rule
    )
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_keeps_coordinates_in_float32(dtype):
    """Pixel 300 of a wide map, which half would read at 300 +- 0.125."""
    features = torch.rand(1, 2, 3, 400).to(dtype)
    rois = torch.tensor([[0.0, 300, 0, 303, 2]])
    offset = torch.full((1, 2, 1, 2), 0.03)
    y = modulated_deform_roi_pool(features, rois, offset, output_size=(1, 2))
    expected = modulated_deform_roi_pool(features.double(), rois.double(), offset.double(), output_size=(1, 2))
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected.to(dtype), rtol=1e-6, atol=0)


# --- the layer


def learned(layer):
    """With a predictor that has learned something."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def small(**options):
    return ModulatedDeformRoIPool(3, (3, 2), 0.25, hidden_channels=8, **options)


@pytest.mark.parametrize("predictor", ["joint", "split"])
@BOTH
def test_starts_as_half_of_plain_pooling(rule, samples, predictor):
    features, rois, *_ = draw(9, 12)
    layer = small(rule=rule, samples=samples, predictor=predictor).double()
    options = {"output_size": (3, 2), "spatial_scale": 0.25, "samples": samples, "rule": rule}
    torch.testing.assert_close(layer(features, rois), modulated_deform_roi_pool(features, rois, **options) / 2)


@pytest.mark.parametrize("predictor", ["joint", "split"])
def test_predictor_reads_the_plain_pooling(predictor):
    """Written out: flattened, through the layers, x plane and y plane, mask through a sigmoid."""
    features, rois, *_ = draw(9, 12)
    layer = learned(small(predictor=predictor)).double()
    options = {"output_size": (3, 2), "spatial_scale": 0.25}
    pooled = modulated_deform_roi_pool(features, rois, **options).reshape(len(rois), -1)
    if predictor == "joint":
        raw = layer.offset_mask_fc(pooled)
    else:
        raw = torch.cat([layer.offset_fc(pooled), layer.mask_fc(pooled)], 1)
    assert raw.shape == (7, 18)
    offset, mask = raw[:, :12].reshape(7, 2, 3, 2), 1 / (1 + torch.exp(-raw[:, 12:].reshape(7, 1, 3, 2)))
    torch.testing.assert_close(
        layer(features, rois), modulated_deform_roi_pool(features, rois, offset, mask, **options)
    )


def test_names_and_sizes_are_those_of_the_ports():
    with torch.device("meta"):
        joint, split = ModulatedDeformRoIPool(256), ModulatedDeformRoIPool(256, predictor="split")
    shapes = {name: tuple(p.shape) for name, p in joint.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "offset_mask_fc.0.weight": (1024, 12544),
        "offset_mask_fc.2.weight": (1024, 1024),
        "offset_mask_fc.4.weight": (147, 1024),
    }
    shapes = {name: tuple(p.shape) for name, p in split.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "offset_fc.0.weight": (1024, 12544),
        "offset_fc.2.weight": (1024, 1024),
        "offset_fc.4.weight": (98, 1024),
        "mask_fc.0.weight": (1024, 12544),
        "mask_fc.2.weight": (49, 1024),
    }


def test_initialisation():
    first, second, last = ModulatedDeformRoIPool(16, 3, hidden_channels=64).offset_mask_fc[::2]
    assert first.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert second.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not any(t.any() for t in (last.weight, first.bias, second.bias, last.bias))


@pytest.mark.parametrize("predictor", ["joint", "split"])
def test_everything_learns(predictor):
    features, rois, *_ = draw(9, 12)
    layer = learned(small(predictor=predictor))
    layer(features.float(), rois.float()).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.any(), name


@BOTH
def test_no_rois(rule, samples):
    features = torch.randn(2, 3, 6, 7, requires_grad=True)
    y = small(rule=rule, samples=samples)(features, torch.zeros(0, 5))
    assert y.shape == (0, 3, 3, 2)
    y.sum().backward()
    assert not features.grad.any()


def test_autocast():
    features, rois, *_ = draw(9, 12)
    layer = learned(small(rule="mmcv"))
    expected = layer(features.float(), rois.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(features.float(), rois.float())
    assert (y - expected).norm() < 0.05 * expected.norm()


def test_compiles():
    features, rois, *_ = draw(9, 12)
    layer = learned(small()).double()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features, rois), layer(features, rois))


# --- export


@pytest.mark.parametrize(("rule", "samples"), [("dcnv2", 2), ("mmcv", 0)])
def test_one_graph_of_standard_ops_for_every_size(rule, samples):
    layer = learned(small(rule=rule, samples=samples)).eval()
    dim = torch.export.Dim
    dims = {"features": {0: dim("images"), 2: dim("rows"), 3: dim("columns")}, "rois": {0: dim("regions")}}
    features, rois, *_ = draw(9, 12)
    program = torch.export.export(layer, (features.float(), rois.float()), dynamic_shapes=dims)
    model = torch.onnx.export(program, (), dynamo=True, verbose=False, opset_version=22).model_proto
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for rows, columns, count in ((9, 12, 7), (20, 5, 1), (1, 1, 4), (6, 6, 0)):
        features = torch.randn(3, 3, rows, columns)
        rois = draw_rois(3, rows, columns, count, 0.25).float() if count else torch.zeros(0, 5)
        (y,) = session.run(None, {"features": features.numpy(), "rois": rois.numpy()})
        expected = layer(features, rois).detach().numpy()
        assert y.shape == expected.shape == (count, 3, 3, 2)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


class Head(nn.Module):
    """A detector's head for one image: boxes without the image's index."""

    def __init__(self):
        super().__init__()
        self.pool = learned(small())
        self.score = nn.Linear(18, 4)

    def forward(self, features, boxes):
        rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
        return self.score(self.pool(features, rois).flatten(1))


def test_a_bundle_passes_its_check(tmp_path):
    bundle = export(
        Head(),
        (torch.randn(1, 3, 9, 12), torch.rand(5, 4)),
        tmp_path / "head",
        inputs={"features": [1, 3, "rows", "columns"], "boxes": ["regions", 4]},
        dims={"rows": (4, 9, 20), "columns": (4, 12, 20), "regions": (1, 5, 9)},
        ranges={"features": (-1.0, 1.0), "boxes": (0.0, 60.0)},
    )
    assert bundle.manifest.ops == []
    assert {node.domain for node in onnx.load(bundle.onnx_path).graph.node} == {""}
    result = check(bundle, runtimes=["torch", "onnxruntime"])
    assert result.ok, result


# --- bad input


def pool(*, features=(1, 3, 6, 7), rois=(4, 5), offset=None, mask=None, **options):
    tensors = [torch.zeros(shape) if shape else None for shape in (features, rois, offset, mask)]
    return lambda: modulated_deform_roi_pool(*tensors, **{"output_size": 2, **options})


def image(index):
    return lambda: small()(torch.zeros(2, 3, 6, 7), torch.tensor([[index, 0.0, 0, 4, 4]]))


BAD = {
    "features": (pool(features=(3, 6, 7)), r"features have shape \[3, 6, 7\], expected \[N, C, H, W\]"),
    "rois": (pool(rois=(4, 4)), r"rois have shape \[4, 4\].*expected floats \[M, 5\].*torch.cat"),
    "rois of ints": (lambda: small()(torch.zeros(1, 3, 4, 4), torch.zeros(1, 5).long()), "dtype torch.int64"),
    "offset": (pool(offset=(4, 2, 3, 3)), r"offset has shape \[4, 2, 3, 3\], expected \[4, 2, 2, 2\]"),
    "offsets of other rois": (pool(offset=(3, 2, 2, 2)), r"expected \[4, 2, 2, 2\]"),
    "mask": (pool(mask=(4, 2, 2)), r"mask has shape \[4, 2, 2\], expected \[4, 1, 2, 2\]"),
    "no such image": (image(2.0), "images 2 to 2, and the features are those of 2"),
    "negative image": (image(-1.0), "images -1 to -1"),
    "bins": (pool(output_size=(0, 2)), r"output_size=\(0, 2\) is not positive"),
    "scale": (pool(spatial_scale=0), "spatial_scale=0 is not positive.*1/stride"),
    "samples": (pool(samples=0), "samples=0 with rule='dcnv2'.*rule=\"mmcv\""),
    "negative samples": (pool(samples=-1, rule="mmcv"), "samples=-1"),
    "rule": (lambda: small(rule="port"), 'ModulatedDeformRoIPool: rule=\'port\'.*"dcnv2" or "mmcv"'),
    "predictor": (lambda: small(predictor="both"), 'predictor=\'both\'.*"joint" or "split"'),
    "no channels": (lambda: ModulatedDeformRoIPool(0), "in_channels=0 is not positive"),
    "channels": (lambda: small()(torch.zeros(1, 4, 6, 7), torch.zeros(1, 5)), r"expected \[N, 3, H, W\]"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(call, message):
    with pytest.raises(DynError, match=f"(?s)^.*{message}"):
        call()


def test_repr():
    assert "3, output_size=(3, 2), spatial_scale=0.25, samples=2, offset_scale=0.1, rule='dcnv2'" in repr(small())
