"""The layers that people put in a network."""

from __future__ import annotations

from dyndeploy.ops.dcnv2.module import ModulatedDeformConv2d
from dyndeploy.ops.dcnv2.roi_pool import ModulatedDeformRoIPool
from dyndeploy.ops.ddf.module import DDF, DDFUp
from dyndeploy.ops.dgc.module import DGConv2d
from dyndeploy.ops.drconv.module import DRConv2d
from dyndeploy.ops.scconv.module import SCConv2d

__all__ = ["DDF", "DDFUp", "DGConv2d", "DRConv2d", "ModulatedDeformConv2d", "ModulatedDeformRoIPool", "SCConv2d"]
