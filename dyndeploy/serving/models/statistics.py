"""What a model did, counted: the numbers behind the statistics extension and the metrics."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

#: Upper edges of the histogram of request durations, in nanoseconds.
LATENCY_EDGES_NS = tuple(int(ms * 1e6) for ms in (0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 10_000))


@dataclass
class Duration:
    """How often, and how long altogether."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Count `count` times `ns` nanoseconds each."""
        self.count += count
        self.ns += ns * count


@dataclass
class BatchSize:
    """Executions with one number of samples."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass
class Statistics:
    """Counters of one model; they survive its reloads. Changed on the event loop only.

    Attributes:
        success, fail: requests, from when their head is read until they are answered.
        queue: requests, from when they are decoded until they run.
        compute_input, compute_infer, compute_output: what their execution took, per request: putting the inputs
            together, the session, taking the outputs apart.
        inferences: samples.
        executions: runs of a session.
        batches: samples in a run -> its durations.
        rejected: reason -> refused requests: "overloaded", "deadline", "cancelled", "invalid", "failed",
            "unavailable".
        buckets: successful requests up to each of LATENCY_EDGES_NS, and the slower ones.
        reloads, failed_reloads: of the bundle.
        last_inference_ms: when one was last answered, in milliseconds since the epoch; 0 if never.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    inferences: int = 0
    executions: int = 0
    batches: dict[int, BatchSize] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_EDGES_NS) + 1))
    reloads: int = 0
    failed_reloads: int = 0
    last_inference_ms: int = 0

    def executed(self, requests: int, rows: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """Count one run of a session.

        Args:
            requests, rows: how many requests and samples were in it.
            input_ns, infer_ns, output_ns: what it took, in nanoseconds.
        """
        self.executions += 1
        self.inferences += rows
        batch = self.batches.get(rows)
        if batch is None:
            batch = self.batches[rows] = BatchSize()
        for own, of_batch, ns in (
            (self.compute_input, batch.compute_input, input_ns),
            (self.compute_infer, batch.compute_infer, infer_ns),
            (self.compute_output, batch.compute_output, output_ns),
        ):
            own.add(ns, requests)
            of_batch.add(ns)

    def succeeded(self, ns: int) -> None:
        """Count a request that was answered after `ns` nanoseconds."""
        self.success.add(ns)
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.buckets[bisect_left(LATENCY_EDGES_NS, ns)] += 1

    def failed(self, reason: str, ns: int) -> None:
        """Count a request that was refused, or that failed, after `ns` nanoseconds."""
        self.fail.add(ns)
        self.rejected[reason] += 1
