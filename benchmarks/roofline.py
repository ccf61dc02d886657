"""The least time that a GPU can need for a problem: its memory, its arithmetic and its L1 caches, each at its best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from problems import Problem

#: Multiply-accumulates of CUDA cores per multiprocessor and cycle, where it is not 128.
_FP32_LANES = {(8, 0): 64}
_L1_BYTES_PER_CYCLE = 128  # per multiprocessor
_CORNERS = 4  # that a bilinear sample reads


@dataclass(frozen=True)
class Peaks:
    """What a GPU does in a second at most; None where it is not known.

    Attributes:
        memory: bytes.
        half: operations of tensor cores on float16 and bfloat16, sums in float32.
        single: float32 operations of CUDA cores.
        cache: bytes read from L1.
    """

    memory: float | None
    half: float | None
    single: float | None
    cache: float | None


#: From the data sheets; the L1 by 132 multiprocessors at 1.755 GHz.
KNOWN = {"H200": Peaks(4.8e12, 790e12, 67e12, 29.6e12)}


def peaks(properties: Any) -> Peaks:
    """Of the GPU that torch.cuda.get_device_properties describes: known by its name, or derived from its clocks."""
    for name, known in KNOWN.items():
        if name in properties.name:
            return known
    clock = 1e3 * getattr(properties, "clock_rate", 0)
    memory = 2e3 * getattr(properties, "memory_clock_rate", 0) * getattr(properties, "memory_bus_width", 0) / 8
    cycles = properties.multi_processor_count * clock
    lanes = _FP32_LANES.get((properties.major, properties.minor), 128)
    return Peaks(memory or None, None, 2 * lanes * cycles or None, _L1_BYTES_PER_CYCLE * cycles or None)


def least_us(problem: Problem, peaks: Peaks) -> float | None:
    """Microseconds below which no kernel of the operator can be; None where a limit is not known."""
    macs, moved = problem.work("operator")
    products = problem.operator != "ddf" and problem.dtype != "float32"
    limits = [(moved, peaks.memory), (2 * macs, peaks.half if products else peaks.single)]
    if problem.operator == "dcnv2":
        n, c, h, w = problem.shape
        pixels = n * -(-h // problem.stride) * -(-w // problem.stride)
        size = 4 if problem.dtype == "float32" else 2
        limits.append((_CORNERS * 9 * pixels * c * size, peaks.cache))
    if any(peak is None for _, peak in limits):
        return None
    return max(1e6 * amount / peak for amount, peak in limits if peak)
