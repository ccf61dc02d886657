"""The project's compiled libraries: where they lie, and how Python calls the kernels in them.

`library.py` finds and loads them, `abi.py` has the C structs, `kernels.py` calls the CPU kernels with torch tensors.
This package imports no torch until a kernel is called.
"""

from __future__ import annotations

from dyndeploy.native.library import disabled, instructions, library_path, using

__all__ = ["disabled", "instructions", "library_path", "using"]
