"""The C structs of plugins/common/api.h and of every operator's attributes, in ctypes."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

from dyndeploy.ops._spec import OpSpec

#: ONNX's numbers of the element types that the kernels have.
FLOAT32, FLOAT16, BFLOAT16 = 1, 10, 16
MOST_DIMS = 4


class Tensor(ctypes.Structure):
    """dyndeploy_tensor."""

    _fields_: ClassVar = [
        ("data", ctypes.c_void_p),
        ("extents", ctypes.c_int64 * MOST_DIMS),
        ("strides", ctypes.c_int64 * MOST_DIMS),
        ("rank", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    ]


class Threads(ctypes.Structure):
    """dyndeploy_threads."""

    _fields_: ClassVar = [
        ("size", ctypes.c_uint64),
        ("lanes", ctypes.c_int32),
        ("pool", ctypes.c_void_p),
        ("run", ctypes.c_void_p),
    ]


class Resources(ctypes.Structure):
    """dyndeploy_resources."""

    _fields_: ClassVar = [
        ("size", ctypes.c_uint64),
        ("threads", ctypes.POINTER(Threads)),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_uint64),
        ("packed", ctypes.c_void_p),
        ("packed_bytes", ctypes.c_uint64),
    ]


class CudaResources(ctypes.Structure):
    """dyndeploy_cuda_resources."""

    _fields_: ClassVar = [
        ("size", ctypes.c_uint64),
        ("stream", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_uint64),
        ("packed", ctypes.c_void_p),
        ("packed_bytes", ctypes.c_uint64),
        ("tf32", ctypes.c_int32),
    ]


@functools.cache
def attributes_type(spec: OpSpec) -> type[ctypes.Structure]:
    """The operator's attribute struct: its size, then the attributes of the spec in their order."""
    fields: list[tuple[str, Any]] = [("size", ctypes.c_uint64)]
    for attribute in spec.attributes:
        number: Any = ctypes.c_float if attribute.type == "float" else ctypes.c_int64
        fields.append((attribute.name, number * attribute.length if attribute.type == "ints" else number))
    return type(f"dyndeploy_{spec.folder}", (ctypes.Structure,), {"_fields_": fields})


def attributes(spec: OpSpec, values: Sequence[Any]) -> ctypes.Structure:
    """The filled struct, from values in the order of the spec."""
    struct = attributes_type(spec)()
    struct.size = ctypes.sizeof(struct)
    for attribute, value in zip(spec.attributes, values, strict=True):
        field = getattr(struct, attribute.name)
        setattr(struct, attribute.name, type(field)(*value) if attribute.type == "ints" else value)
    return struct
