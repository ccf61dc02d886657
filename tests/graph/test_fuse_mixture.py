"""FuseMixture: a product that mixes filters becomes part of the convolution, however it is written; others stay."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dyndeploy.graph import apply
from dyndeploy.graph._rewrite import REFERENCE, SOURCE, custom_nodes
from dyndeploy.graph.fold_batch_norm import FoldBatchNorm
from dyndeploy.graph.fold_constants import FoldConstants
from dyndeploy.graph.fuse_mixture import FuseMixture
from dyndeploy.ops.drconv.op import dynamic_region_aware_conv2d

REGIONS, BASES, CHANNELS, OUTPUTS, TAPS = 3, 5, 4, 6, 9


class Port(nn.Module):
    """A region-aware convolution whose filters are mixed by hand."""

    def __init__(self, transposed=False):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        banks = torch.randn(BASES, OUTPUTS * CHANNELS * TAPS, generator=generator) / 6
        self.banks = nn.Parameter(banks.mT.contiguous() if transposed else banks)
        self.routing = nn.Linear(CHANNELS, REGIONS * BASES)
        self.guide = nn.Conv2d(CHANNELS, REGIONS, 3, padding=1)
        self.norm = nn.BatchNorm2d(OUTPUTS)
        nn.init.normal_(self.norm.weight, generator=generator)
        nn.init.normal_(self.norm.bias, generator=generator)

    def filters(self, share):
        return share.reshape(-1, REGIONS, BASES) @ self.banks

    def share(self, x):
        return self.routing(x.mean((2, 3))).sigmoid()

    def forward(self, x):
        filters = self.filters(self.share(x)).reshape(-1, REGIONS * OUTPUTS, CHANNELS * TAPS)
        y = dynamic_region_aware_conv2d(x, filters, self.guide(x), kernel_size=3, padding=1, regions=REGIONS)
        return self.norm(y)


class Rows(Port):
    """(sample, region) in one dim."""

    def filters(self, share):
        return share.reshape(-1, BASES) @ self.banks


class Official(Port):
    """Banks as columns, a product by F.linear, and more shapes than it takes, as in the official code."""

    def __init__(self):
        super().__init__(transposed=True)

    def filters(self, share):
        mixed = F.linear(share.reshape(-1, BASES), self.banks)
        return mixed.reshape(-1, REGIONS, OUTPUTS, CHANNELS, 3, 3)


class Branches(Port):
    """Four dims."""

    def filters(self, share):
        return share.reshape(-1, 1, REGIONS, BASES) @ self.banks


class Computed(Port):
    """Banks that the image decides about, too."""

    def filters(self, share):
        return share.reshape(-1, REGIONS, BASES) @ (self.banks * share.mean())


class Shared(Port):
    """Filters that are read once more."""

    def forward(self, x):
        filters = self.filters(self.share(x)).reshape(-1, REGIONS * OUTPUTS, CHANNELS * TAPS)
        y = dynamic_region_aware_conv2d(x, filters, self.guide(x), kernel_size=3, padding=1, regions=REGIONS)
        return y + filters.mean()


X = torch.randn(2, CHANNELS, 7, 6, generator=torch.Generator().manual_seed(1))


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("kind", [Port, Rows, Official, Branches])
def test_every_spelling_becomes_one_node(kind, lowered, run):
    model = lowered(kind().eval(), X)
    feeds = {"x": torch.randn(3, CHANNELS, 7, 6).numpy()}
    before = run(model, feeds)[0]
    apply(model, [FoldConstants()])
    ((old, _),) = custom_nodes(model)
    name, noted, output = old.name, dict(old.metadata_props), old.outputs[0].name
    apply(model, [FuseMixture()])
    ((node, spec),) = custom_nodes(model)
    assert (node.op_type, spec.key) == ("MixedRegionAwareConv2d", "drconv_mix")
    assert (node.name, dict(node.metadata_props), node.outputs[0].name) == (name, noted, output)
    assert set(noted) == {REFERENCE, SOURCE}
    assert dict(node.attributes) == dict(old.attributes)
    share, banks = node.inputs[1], node.inputs[2]
    assert (tuple(banks.shape), len(share.shape)) == ((BASES * OUTPUTS, CHANNELS * TAPS), 3)
    assert ops(model).count("MatMul") + ops(model).count("Gemm") == 1  # the routing's
    np.testing.assert_allclose(run(model, feeds)[0], before, rtol=1e-4, atol=1e-5 * np.abs(before).max())

    apply(model, [FoldBatchNorm()])
    assert "BatchNormalization" not in ops(model)
    np.testing.assert_allclose(run(model, feeds)[0], before, rtol=2e-4, atol=2e-5 * np.abs(before).max())


@pytest.mark.parametrize("kind", [Computed, Shared])
def test_other_products_stay(kind, lowered):
    model = lowered(kind().eval(), X)
    apply(model, [FoldConstants()])
    before = ops(model)
    assert not FuseMixture()(model).modified
    assert ops(model) == before


def test_what_is_to_stay_in_float32_stays_apart(lowered):
    model = lowered(Port().eval(), X)
    apply(model, [FoldConstants()])
    product = next(node for node in model.graph if node.op_type == "MatMul")
    for keep in ("MatMul", str(product.name)):
        assert not FuseMixture([keep])(model).modified
    assert FuseMixture(["Conv"])(model).modified
