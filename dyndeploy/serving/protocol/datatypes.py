"""The protocol's names of dtypes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from dyndeploy.serving.errors import RequestError

_NAMES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
}
_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype) for dtype, name in _NAMES.items()
}


def datatype_of(dtype: str) -> str:
    """The protocol's name of one of NumPy's dtypes.

    Example:
        >>> datatype_of("float32"), datatype_of("uint8"), datatype_of("bfloat16")
        ('FP32', 'UINT8', 'BF16')
    """
    return _NAMES[dtype]


def dtype_of(datatype: object) -> np.dtype[Any]:
    """NumPy's dtype of one of the protocol's names.

    Raises:
        RequestError: there is no such datatype, or it is BYTES, which no model here takes.
    """
    found = _DTYPES.get(datatype) if isinstance(datatype, str) else None
    if found is not None:
        return found
    if datatype == "BYTES":
        raise RequestError("The datatype BYTES is not supported.", why="No model of this server takes strings.")
    raise RequestError(f"There is no datatype {str(datatype)[:40]!r}.", fix=f"one of {', '.join(_DTYPES)}")
