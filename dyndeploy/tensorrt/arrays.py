"""Arrays on the GPU: those that a caller brings, and those that a session gives."""

from __future__ import annotations

from typing import Any

import numpy as np

from dyndeploy.cuda import Memory, View
from dyndeploy.errors import DynError
from dyndeploy.tensorrt.engine import ALIGNMENT, Shape

_CUDA = 2  # kDLCUDA


class DeviceArray:
    """An array on the GPU, in C order, for `torch.from_dlpack`, `cupy.asarray`, `numba.cuda.as_cuda_array` and so on.

    Its memory lives as long as this object, or what was made of it.

    Attributes:
        shape, dtype: as NumPy has them.
        device: index of the GPU.
    """

    def __init__(self, memory: Memory, shape: Shape, dtype: np.dtype[Any], device: int) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self._memory = memory

    @property
    def address(self) -> int:
        """Of the first element."""
        return self._memory.address

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype.kind == "V" or self.dtype.name == "bfloat16":
            raise AttributeError("__cuda_array_interface__ has no bfloat16; use DLPack")  # hasattr() is False then
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def __dlpack__(self, **options: Any) -> Any:
        return self._memory.exported(self.shape, self.dtype).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self.device

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype.name} {list(self.shape)} on GPU {self.device})"


def check_view(name: str, view: View, device: int) -> None:
    """Refuse an array that an engine cannot read or write where it lies.

    Raises:
        DynError: it is on another GPU, is not in C order, or begins at an odd address.
    """
    if view.device != device:
        raise DynError(
            f"{name} is on GPU {view.device}, the session on GPU {device}.",
            fix=f"open_session(…, device={view.device})",
        )
    if view.strides is not None and not _in_c_order(view.shape, view.strides):
        raise DynError(
            f"{name} is not in C order: its strides are {list(view.strides)}.", fix=f"{name}.contiguous(), or its like"
        )
    if view.address % ALIGNMENT:
        raise DynError(
            f"{name} begins at an address that is no multiple of {ALIGNMENT}.",
            why="TensorRT asks for it; a slice of an array may begin anywhere.",
            fix=f"{name}.clone(), or its like",
        )


def _in_c_order(shape: Shape, strides: Shape) -> bool:
    expected = 1
    for extent, stride in zip(reversed(shape), reversed(strides)):
        if extent == 0:
            return True
        if extent > 1 and stride != expected:
            return False
        expected *= extent
    return True
