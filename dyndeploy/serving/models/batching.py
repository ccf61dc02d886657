"""Which requests may run together."""

from __future__ import annotations

from dataclasses import dataclass

from dyndeploy.bundle import Manifest
from dyndeploy.errors import DynError
from dyndeploy.tensors import split_multiple


@dataclass(frozen=True)
class Batching:
    """How requests of one model are put together.

    Attributes:
        dim: the dim that counts samples; None where there is none, and then every request runs alone.
        rows: samples that may run together; 1 is no batching. A single request may have more.
        delay_us: how long the oldest request waits for others while an instance is idle, in microseconds.
    """

    dim: str | None
    rows: int
    delay_us: int

    @classmethod
    def of(cls, manifest: Manifest, max_batch: int | None, delay_us: int) -> Batching:
        """From a manifest and the settings.

        Args:
            manifest: of the bundle.
            max_batch: at most so many samples together; as many as the dim allows when None.
            delay_us: see `delay_us`.

        Raises:
            DynError: max_batch asks for what the bundle does not allow.
        """
        dim = batch_dim(manifest)
        largest = manifest.dims[dim].max if dim else 1
        if max_batch is not None and max_batch > largest:
            raise DynError(
                f"max_batch={max_batch} is more than the bundle takes.",
                why=f"dims.{dim} ends at {largest}." if dim else "It has no dim that counts samples.",
                fix=f"max_batch of at most {largest}, or export again with a larger dim.",
            )
        return cls(dim, largest if max_batch is None else max_batch, delay_us)


def batch_dim(manifest: Manifest) -> str | None:
    """The named dim that is the first axis of every input and output and occurs nowhere else; None without one.

    One that has a single size is none: two requests of it never fit together.
    """
    tensors = [*manifest.inputs, *manifest.outputs]
    first = {spec.shape[0] if spec.shape else None for spec in tensors}
    dim = first.pop() if len(first) == 1 else None
    if not isinstance(dim, str) or dim not in manifest.dims or manifest.dims[dim].min == manifest.dims[dim].max:
        return None
    elsewhere = (d for spec in tensors for d in spec.shape[1:] if isinstance(d, str))
    return None if any(split_multiple(d)[1] == dim for d in elsewhere) else dim
