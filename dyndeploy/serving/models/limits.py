"""The largest request that a model takes, from the dims of its bundle: known before a byte of one is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dyndeploy.bundle import Manifest
from dyndeploy.tensors import sizes_at

#: Names, shapes and parameters around the data.
_ENVELOPE = 64 << 10
#: Characters of one number as JSON, with sign, exponent and comma; float64 has up to 24 and they may be indented.
_NUMBER = 32


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes.

    Attributes:
        binary: of the raw data of all inputs together.
        json: of the JSON part of a body.
        message: of a whole gRPC message.
    """

    binary: int
    json: int
    message: int

    @classmethod
    def of(cls, manifest: Manifest, max_json: int) -> Limits:
        """From the largest size of every dim.

        Args:
            manifest: of the bundle.
            max_json: no JSON is larger, whatever the dims allow: a number takes up to 60 bytes while it is read.
        """
        sizes = sizes_at(manifest.dims, "max")
        counts = [(math.prod(spec.size_at(sizes)), spec.numpy_dtype.itemsize) for spec in manifest.inputs]
        binary = sum(count * itemsize for count, itemsize in counts)
        json = _ENVELOPE + _NUMBER * sum(count for count, _ in counts)
        # Typed contents take up to ten bytes an element.
        message = _ENVELOPE + max(binary, 10 * sum(count for count, _ in counts))
        return cls(binary, min(json, max_json), message)
