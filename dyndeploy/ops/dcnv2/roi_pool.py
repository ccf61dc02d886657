"""Modulated deformable RoI pooling: every bin of a region reads where a predictor tells it to.

Plain differentiable torch ops, so that it needs no plugin: the ONNX graph is made of standard ops.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from dyndeploy.errors import DynError
from dyndeploy.ops._layer import check_arguments, check_input
from dyndeploy.ops._torch import pair

Rule = Literal["dcnv2", "mmcv"]
Predictor = Literal["joint", "split"]


class _Samples(NamedTuple):
    """Where every bin reads along one axis; S samples per bin.

    position: [M, ph, pw, S] in pixels of the map, ph or pw being 1 where all bins across the axis read the same;
    inside: the same shape, whether the sample reads anything; divisor: of the sum, [M, ph, pw, 1].
    """

    position: Tensor
    inside: Tensor
    divisor: Tensor


def modulated_deform_roi_pool(
    features: Tensor,
    rois: Tensor,
    offset: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    samples: int = 2,
    offset_scale: float = 0.1,
    rule: Rule = "dcnv2",
) -> Tensor:
    """y[m,c,k] = mask[m,k] / n_k * sum over the samples j of bin k of bilinear(features[image(m),c], p_kj + d_k).

    d_k = offset[m,:,k] * offset_scale * (width, height) of the region. The samples of a bin are an even grid
    (Zhu et al., CVPR 2019, section 3.2, without position-sensitive channels). `rule` says where it lies:

    - "dcnv2", the operator of the paper's code and of its ports: corners are rounded (half away from zero), the last
      pixel belongs to the region, which is at least 0.1 pixels large; samples lie at the bin's first edge and every
      bin/samples from there; n_k counts those within half a pixel of the map;
    - "mmcv": corners as they are; samples lie in the middle of their cells; those more than a pixel outside of the
      map are 0, and n_k counts them all.

    Neither rule has a gradient for the RoIs. At an integer coordinate the gradient of an offset is the one of the cell
    to the lower right.

    Args:
        features: [N, C, H, W].
        rois: [M, 5], (index of the image, x1, y1, x2, y2), corners in pixels of the image. M may be 0.
        offset: [M, 2, ph, pw], (x, y): the column before the row, unlike in `ModulatedDeformConv2d`. None: zeros.
        mask: [M, 1, ph, pw], as it is multiplied. None: ones.
        output_size: bins (ph, pw), one int or (h, w).
        spatial_scale: pixels of the map per pixel of the image, 1/stride.
        samples: per bin and axis. With rule "mmcv" 0 takes ceil(region / bins), for each region and axis.
        offset_scale: size of an offset of 1, as a share of the region (`trans_std`, `gamma`).
        rule: "dcnv2" or "mmcv".

    Returns:
        [M, C, ph, pw] in the dtype of `features`; coordinates are float32 at least.

    Raises:
        DynError: an argument is out of range, or the tensors do not fit each other; a RoI names an image that is not
            there (not checked while compiling or exporting).
    """
    height, width = pair(output_size)
    _check_options("modulated_deform_roi_pool", output_size, spatial_scale, samples, rule)
    _check_tensors(features, rois, offset, mask, height, width)
    dtype = torch.promote_types(torch.promote_types(features.dtype, rois.dtype), torch.float32)
    left, top, right, bottom = rois[:, 1:, None, None].detach().to(dtype).unbind(1)
    bin_y = torch.arange(height, device=rois.device, dtype=dtype)[:, None]
    bin_x = torch.arange(width, device=rois.device, dtype=dtype)
    shift_x, shift_y = (None, None) if offset is None else (offset.to(dtype) * offset_scale).unbind(1)
    sample = _sample_dcnv2 if rule == "dcnv2" else _sample_mmcv
    rows, columns = features.shape[2:]
    row, weight_y = _neighbours(sample(top, bottom, spatial_scale, bin_y, shift_y, rows, samples), rows)
    column, weight_x = _neighbours(sample(left, right, spatial_scale, bin_x, shift_x, columns, samples), columns)

    # One row of C numbers per pixel: a bin is a weighted sum of rows.
    pixels = features.permute(0, 2, 3, 1).flatten(0, 2)
    image = rois[:, 0].detach().long()[:, None, None, None]
    index = ((image * rows + row) * columns)[..., :, None] + column[..., None, :]
    weight = weight_y[..., :, None] * weight_x[..., None, :]
    picked = F.embedding(index.flatten(3), pixels).to(dtype)
    pooled = torch.matmul(weight.flatten(3)[..., None, :], picked).squeeze(3).permute(0, 3, 1, 2)
    if mask is not None:
        pooled = pooled * mask
    return pooled.to(features.dtype).contiguous()


class ModulatedDeformRoIPool(nn.Module):
    """Deformable RoI pooling v2 with its own offset and mask predictor (Zhu et al., CVPR 2019, section 3.2).

    The predictor reads what plain pooling of the same regions gives, through fully connected layers. Its last layers
    start at zero: the layer starts as half (mask 0.5) of plain pooling. In training it has the full learning rate,
    unlike the predictor of `ModulatedDeformConv2d`.

    Args:
        in_channels: channels C of the map.
        output_size: bins (ph, pw), K = ph*pw; 7 for boxes, 14 for masks.
        spatial_scale: pixels of the map per pixel of the image, 1/stride.
        samples: per bin and axis: 2 in the paper, 4 in its PyTorch port; with rule "mmcv" 0 is one per pixel.
        offset_scale: size of a predicted offset of 1, as a share of the region.
        rule: "dcnv2" or "mmcv", where the samples lie; see `modulated_deform_roi_pool`.
        hidden_channels: of the predictor.
        predictor: "joint", one network of three layers for offsets and masks (paper), or "split", one of three layers
            for the offsets and one of two for the masks (the port's first version, mmcv).

    Shape:
        features [N, C, H, W], rois [M, 5] (index of the image, x1, y1, x2, y2, in pixels of the image) ->
        [M, C, ph, pw].

    Raises:
        DynError: an argument is out of range; the map has other channels than C, or rois are not [M, 5].

    Example:
        >>> layer = ModulatedDeformRoIPool(8, 7, spatial_scale=1 / 16)
        >>> layer(torch.zeros(1, 8, 20, 30), torch.tensor([[0.0, 16, 32, 300, 200]])).shape
        torch.Size([1, 8, 7, 7])
    """

    def __init__(
        self,
        in_channels: int,
        output_size: int | Sequence[int] = 7,
        spatial_scale: float = 1.0,
        samples: int = 2,
        offset_scale: float = 0.1,
        rule: Rule = "dcnv2",
        hidden_channels: int = 1024,
        predictor: Predictor = "joint",
    ) -> None:
        super().__init__()
        check_arguments("ModulatedDeformRoIPool", in_channels=in_channels, hidden_channels=hidden_channels)
        _check_options("ModulatedDeformRoIPool", output_size, spatial_scale, samples, rule)
        if predictor not in get_args(Predictor):
            raise DynError(f"ModulatedDeformRoIPool: predictor={predictor!r}.", fix='"joint" or "split"')
        self.in_channels, self.output_size = in_channels, pair(output_size)
        self.spatial_scale, self.samples, self.offset_scale, self.rule = spatial_scale, samples, offset_scale, rule
        bins = self.output_size[0] * self.output_size[1]
        pooled, hidden = in_channels * bins, hidden_channels
        self.offset_mask_fc = self.offset_fc = self.mask_fc = None
        # The names of the ports, whose checkpoints fit as they are.
        if predictor == "joint":
            self.offset_mask_fc = _mlp(pooled, hidden, hidden, 3 * bins)
        else:
            self.offset_fc, self.mask_fc = _mlp(pooled, hidden, hidden, 2 * bins), _mlp(pooled, hidden, bins)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Hidden weights normal with a standard deviation of 0.01 (paper); everything else zero."""
        for network in (self.offset_mask_fc, self.offset_fc, self.mask_fc):
            if network is None:
                continue
            layers = [module for module in network if isinstance(module, nn.Linear)]
            for layer in layers:
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
            nn.init.zeros_(layers[-1].weight)

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        """[N, C, H, W] and [M, 5] -> [M, C, ph, pw]."""
        check_input("ModulatedDeformRoIPool", features, self.in_channels)
        offset, mask = self._predict(self._pool(features, rois).flatten(1))
        return self._pool(features, rois, offset, mask)

    def _pool(self, features: Tensor, rois: Tensor, offset: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return modulated_deform_roi_pool(
            features,
            rois,
            offset,
            mask,
            output_size=self.output_size,
            spatial_scale=self.spatial_scale,
            samples=self.samples,
            offset_scale=self.offset_scale,
            rule=self.rule,
        )

    def _predict(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[M, C*K] -> offset [M, 2, ph, pw], mask [M, 1, ph, pw]."""
        if self.offset_mask_fc is not None:
            raw = self.offset_mask_fc(pooled).unflatten(1, (3, *self.output_size))
            return raw[:, :2], raw[:, 2:].sigmoid()
        assert self.offset_fc is not None and self.mask_fc is not None
        offset, mask = self.offset_fc(pooled), self.mask_fc(pooled)
        return offset.unflatten(1, (2, *self.output_size)), mask.sigmoid().unflatten(1, (1, *self.output_size))

    def extra_repr(self) -> str:
        """The arguments."""
        text = f"{self.in_channels}, output_size={self.output_size}, spatial_scale={self.spatial_scale}"
        return f"{text}, samples={self.samples}, offset_scale={self.offset_scale}, rule={self.rule!r}"


def _sample_dcnv2(
    low: Tensor, high: Tensor, scale: float, bins: Tensor, shift: Tensor | None, size: int, samples: int
) -> _Samples:
    """Regions from `low` to `high` [M, 1, 1], in pixels of the image, on an axis of `size` pixels of the map.

    In the order of operations of the official kernel: a sample on the very border must fall on the same side.
    """
    start = _round(low) * scale - 0.5
    extent = ((_round(high) + 1) * scale - 0.5 - start).clamp(min=0.1)
    cell = torch.arange(samples, device=low.device, dtype=low.dtype)
    size_of_bin = extent / bins.numel()
    first = bins * size_of_bin + start
    if shift is not None:
        first = first + shift * extent
    position = first[..., None] + cell * (size_of_bin / samples)[..., None]
    # A difference: the size is a symbol while exporting. NaN is outside.
    inside = (position >= -0.5) & (position - size <= -0.5)
    return _Samples(position, inside, inside.sum(-1, keepdim=True).clamp(min=1))


def _sample_mmcv(
    low: Tensor, high: Tensor, scale: float, bins: Tensor, shift: Tensor | None, size: int, samples: int
) -> _Samples:
    """As `_sample_dcnv2`, in the order of mmcv's kernel."""
    start = low * scale - 0.5
    extent = high * scale - 0.5 - start
    size_of_bin = extent / bins.numel()
    wanted = torch.full_like(extent, samples) if samples else size_of_bin.ceil().clamp(min=0)
    wanted = wanted[..., None]
    cell = torch.arange(samples or _largest(wanted), device=low.device, dtype=low.dtype)
    divisor = wanted.clamp(min=1)
    if shift is not None:
        start = start + extent * shift
    position = (start + bins * size_of_bin)[..., None] + (cell + 0.5) * size_of_bin[..., None] / divisor
    inside = (position >= -1) & (position - size <= 0) & (cell < wanted)
    return _Samples(position, inside, divisor)


def _neighbours(samples: _Samples, size: int) -> tuple[Tensor, Tensor]:
    """Index and weight of the two pixels that each sample lies between: [M, ph, pw, 2*S], every index a valid one."""
    weight = samples.inside.to(samples.position.dtype) / samples.divisor
    # Not a product: offsets are unbounded, and may be NaN.
    position = torch.where(samples.inside, samples.position, 0.0).clamp(0, size - 1)
    low = position.floor()
    fraction, index = position - low, low.long()
    behind = (index + 1).clamp(max=size - 1)
    return torch.cat([index, behind], -1), torch.cat([weight * (1 - fraction), weight * fraction], -1)


def _largest(steps: Tensor) -> int:
    """The largest of the counts, at least 1: there may be no RoIs."""
    largest: Any = torch.cat([steps.flatten(), steps.new_ones(1)]).max().long().item()
    torch._check(largest >= 1)  # type: ignore[no-untyped-call]  # what a tracer cannot know of the data
    return largest  # type: ignore[no-any-return]


def _round(x: Tensor) -> Tensor:
    """Half away from zero, as C does; torch rounds half to even."""
    whole = x.abs().floor()
    return x.sign() * (whole + (x.abs() - whole >= 0.5))


def _mlp(*channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(channels):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _check_options(who: str, output_size: int | Sequence[int], spatial_scale: float, samples: int, rule: Rule) -> None:
    check_arguments(who, output_size=output_size)
    if not spatial_scale > 0:
        raise DynError(f"{who}: spatial_scale={spatial_scale} is not positive.", fix="1/stride of the map")
    if rule not in get_args(Rule):
        raise DynError(f"{who}: rule={rule!r}.", fix='"dcnv2" or "mmcv"')
    if samples < (1 if rule == "dcnv2" else 0):
        raise DynError(f"{who}: samples={samples} with rule={rule!r}.", fix='at least 1, or 0 with rule="mmcv"')


def _check_tensors(
    features: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, height: int, width: int
) -> None:
    who = "modulated_deform_roi_pool"
    if features.dim() != 4:
        raise DynError(f"{who}: the features have shape {list(features.shape)}, expected [N, C, H, W].")
    if rois.dim() != 2 or rois.shape[1] != 5 or not rois.is_floating_point():
        raise DynError(
            f"{who}: rois have shape {list(rois.shape)} and dtype {rois.dtype}, expected floats [M, 5].",
            fix="torch.cat([image_index[:, None], boxes], 1)",
        )
    for name, tensor, channels in (("offset", offset, 2), ("mask", mask, 1)):
        if tensor is None:
            continue
        expected = (rois.shape[0], channels, height, width)
        if tensor.shape != expected:
            raise DynError(f"{who}: {name} has shape {list(tensor.shape)}, expected {list(expected)}.")
    if not torch.compiler.is_compiling() and min(features.shape[2:]) < 1:
        raise DynError(f"{who}: the features have shape {list(features.shape)}: there is nothing to pool.")
    valueless = torch.compiler.is_compiling() or rois.is_meta or isinstance(rois, FakeTensor)
    if valueless or not rois.shape[0]:
        return
    first, last = float(rois[:, 0].detach().min()), float(rois[:, 0].detach().max())
    if not (first >= 0 and last < features.shape[0]):
        raise DynError(
            f"{who}: rois name the images {first:g} to {last:g}, and the features are those of {features.shape[0]}.",
            fix="rois[:, 0] is the index of the image in the batch. To export a head, let it take boxes and make the "
            "index itself: dyndeploy.export draws all columns of an input from one range.",
        )
