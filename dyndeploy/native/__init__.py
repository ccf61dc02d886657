"""The project's compiled libraries: where they lie, and how Python calls the kernels in them.

`library.py` finds and loads them, `abi.py` has the C structs, `kernels.py` calls the kernels with torch tensors, and
`devices.py` knows which library computes on which device, and with what.
This package imports no torch until a kernel is called.
"""

from __future__ import annotations

from dyndeploy.native.library import disabled, instructions, library_path, using

__all__ = ["disabled", "instructions", "library_path", "using"]
