"""The sizes that an engine is built for: a profile, from the bundle's named dims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dyndeploy.bundle import Bundle
from dyndeploy.errors import DynError, nearest
from dyndeploy.tensorrt.worker import Shapes
from dyndeploy.tensors import POINTS, Dim, sizes_at

DimValue = Dim | int | Sequence[int] | str


def narrowed(dims: Mapping[str, Dim], given: Mapping[str, DimValue]) -> dict[str, Dim]:
    """A bundle's dims with other sizes for some of them.

    Raises:
        DynError: the bundle has no such dim, or the sizes are outside those that it was exported for.

    Example:
        >>> narrowed({"batch": Dim.parse("batch", (1, 8, 32))}, {"batch": "1:1:4"})
        {'batch': Dim(min=1, opt=1, max=4, multiple=1)}
    """
    result = dict(dims)
    for name, value in given.items():
        if name not in dims:
            raise DynError(f"The bundle has no dim {name!r}.", fix=nearest(name, dims))
        allowed = dims[name]
        parsed = Dim.parse(name, value)
        if parsed.multiple == 1 < allowed.multiple:
            parsed = Dim.parse(name, (parsed.min, parsed.opt, parsed.max, allowed.multiple))
        for size in (parsed.min, parsed.opt, parsed.max):
            allowed.check(name, size)
        result[name] = parsed
    return result


def profile_of(bundle: Bundle, dims: Mapping[str, Dim]) -> dict[str, Shapes]:
    """Input -> (min, opt, max) shapes, of the inputs with named dims."""
    points = [sizes_at(dims, point) for point in POINTS]
    profile = {}
    for spec in bundle.manifest.inputs:
        if any(isinstance(dim, str) for dim in spec.shape):
            low, opt, high = (spec.size_at(sizes) for sizes in points)
            profile[spec.name] = (low, opt, high)
    return profile
