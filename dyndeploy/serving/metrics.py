"""Statistics as the protocol tells them, and metrics as Prometheus reads them.

The names are Triton's where they mean the same, so that dashboards stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector

from dyndeploy.serving.budget import Budget
from dyndeploy.serving.models.registry import Entry, Registry
from dyndeploy.serving.models.statistics import LATENCY_EDGES_NS, BatchSize, Duration, Statistics
from dyndeploy.serving.protocol.metadata import MODEL_VERSION

_COUNTERS: tuple[tuple[str, str, Callable[[Statistics], int]], ...] = (
    ("nv_inference_request_success", "Requests answered", lambda s: s.success.count),
    ("nv_inference_count", "Samples", lambda s: s.inferences),
    ("nv_inference_exec_count", "Runs of a session", lambda s: s.executions),
    (
        "nv_inference_request_duration_us",
        "Time of requests from head to answer, in microseconds",
        lambda s: (s.success.ns + s.fail.ns) // 1000,
    ),
    ("nv_inference_queue_duration_us", "Time in the queue, in microseconds", lambda s: s.queue.ns // 1000),
    (
        "nv_inference_compute_input_duration_us",
        "Time in which inputs were put together, per request, in microseconds",
        lambda s: s.compute_input.ns // 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Time in the session, per request, in microseconds",
        lambda s: s.compute_infer.ns // 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Time in which outputs were taken apart, per request, in microseconds",
        lambda s: s.compute_output.ns // 1000,
    ),
    ("dyndeploy_reloads", "Bundles that replaced another one", lambda s: s.reloads),
    ("dyndeploy_reload_failures", "Bundles that could not replace another one", lambda s: s.failed_reloads),
)
_GAUGES: tuple[tuple[str, str, Callable[[Entry], int]], ...] = (
    ("nv_inference_pending_request_count", "Requests in the queue", lambda e: e.model.waiting if e.model else 0),
    ("dyndeploy_busy_instances", "Sessions at work", lambda e: e.model.running if e.model else 0),
    ("dyndeploy_instances", "Sessions", lambda e: e.model.instances if e.model else 0),
    ("dyndeploy_model_ready", "1 where the model takes requests", lambda e: int(e.model is not None)),
)
_LABELS = ("model", "version")


class Metrics:
    """The text at /metrics.

    Args:
        registry: the models.
        budget: memory for requests.
    """

    def __init__(self, registry: Registry, budget: Budget) -> None:
        self._registry, self._budget = registry, budget
        self._prometheus = CollectorRegistry()
        self._prometheus.register(self)
        ProcessCollector(registry=self._prometheus)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._prometheus)

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        entries = list(self._registry.entries.values())
        for name, text, value in _COUNTERS:
            metric = _counter(name, text)
            for entry in entries:
                metric.add_sample(name, _labels(entry), value(entry.statistics))
            yield metric
        failures = _counter("nv_inference_request_failure", "Requests refused or failed, by reason")
        for entry in entries:
            for reason, count in sorted(entry.statistics.rejected.items()):
                failures.add_sample(failures.name, {**_labels(entry), "reason": reason}, count)
        yield failures
        for name, text, gauge in _GAUGES:
            family = GaugeMetricFamily(name, text, labels=_LABELS)
            for entry in entries:
                family.add_metric([entry.name, MODEL_VERSION], gauge(entry))
            yield family
        yield GaugeMetricFamily("dyndeploy_request_bytes", "Bytes of requests in the server", self._budget.used)
        histogram = HistogramMetricFamily(
            "dyndeploy_request_duration_seconds", "Time of answered requests, in seconds", labels=_LABELS
        )
        for entry in entries:
            histogram.add_metric([entry.name, MODEL_VERSION], *_buckets(entry.statistics))
        yield histogram


def _counter(name: str, text: str) -> Metric:
    """A counter of exactly this name: the library's own kind would append _total, which Triton's have not."""
    return Metric(name, text, "unknown")


def _labels(entry: Entry) -> dict[str, str]:
    return {"model": entry.name, "version": MODEL_VERSION}


def _buckets(statistics: Statistics) -> tuple[list[tuple[str, float]], float]:
    cumulated, buckets = 0, []
    for edge, count in zip((*LATENCY_EDGES_NS, None), statistics.buckets):
        cumulated += count
        buckets.append(("+Inf" if edge is None else repr(edge / 1e9), float(cumulated)))
    return buckets, statistics.success.ns / 1e9


def model_statistics(entry: Entry) -> dict[str, Any]:
    """One element of `model_stats` of the statistics extension; times in nanoseconds."""
    statistics = entry.statistics
    return {
        "name": entry.name,
        "version": MODEL_VERSION,
        "last_inference": statistics.last_inference_ms,
        "inference_count": statistics.inferences,
        "execution_count": statistics.executions,
        "inference_stats": {
            name: _duration(getattr(statistics, name))
            for name in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
        },
        "batch_stats": [
            {"batch_size": size, **{name: _duration(getattr(batch, name)) for name in _PHASES}}
            for size, batch in sorted(statistics.batches.items())
        ],
    }


_PHASES = tuple(BatchSize.__dataclass_fields__)


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}
