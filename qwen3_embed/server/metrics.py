"""class Metrics: what a server counts, for Prometheus. No label holds a client's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from ..model import Model

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


_ENGINE = (
    ("batches", CounterMetricFamily, "batches", "Forward passes."),
    ("texts", CounterMetricFamily, "texts", "Texts in them."),
    ("tokens", CounterMetricFamily, "tokens", "Computed: what texts share counts once."),
    ("busy_seconds", CounterMetricFamily, "forward_s", "Spent in forward passes."),
    ("pending_tokens", GaugeMetricFamily, "pending_tokens", "Waiting or being computed."),
)


class _EngineCounts(Collector):
    """Asks the engines whenever the page is asked for."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        counts = {
            name: model.counts() for name, model in self._models.items() if not model.info["closed"]
        }
        for name, family, key, text in _ENGINE:
            metric = family(f"qwen3_embed_engine_{name}", text, labels=["model"])
            for model, found in counts.items():
                metric.add_metric([model], found[key])
            yield metric


class Metrics:
    """Counters of one server, in a registry of its own.

    Parameters
    ----------
    models : mapping of str to Model
        The models by the names of their labels.
    """

    def __init__(self, models: Mapping[str, Model]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCounts(models))
        self.requests = Counter(
            "qwen3_embed_requests",
            "Requests answered.",
            ["route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "qwen3_embed_request_seconds",
            "From header to answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.texts = Histogram(
            "qwen3_embed_request_texts",
            "Texts, or pairs, of a request.",
            ["model"],
            buckets=_TEXTS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "qwen3_embed_tokens",
            "Tokens of the texts answered.",
            ["model"],
            registry=self.registry,
        )
        self.truncated = Counter(
            "qwen3_embed_truncated_texts",
            "Texts that were cut.",
            ["model"],
            registry=self.registry,
        )
        self.cached = Counter(
            "qwen3_embed_cached_texts",
            "Texts whose vectors were in the cache.",
            ["model"],
            registry=self.registry,
        )
        self.dropped = Counter(
            "qwen3_embed_dropped_requests",
            "Requests whose client left before the answer.",
            registry=self.registry,
        )
        self.waiting = Gauge(
            "qwen3_embed_queue_requests",
            "Requests being read or worked on.",
            registry=self.registry,
        )
        self.held_bytes = Gauge("qwen3_embed_queue_bytes", "Their bodies.", registry=self.registry)

    def page(self) -> bytes:
        """The text of /metrics."""
        return generate_latest(self.registry)
