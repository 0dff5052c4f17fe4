"""class Metrics: a server's counters, for Prometheus. No label contains a client's words.

Requests add to plain numbers, and prometheus-client formats them: its own counters take a lock per
value and a lookup by label, 25 us for each request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from ..model import Model

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)

_ENGINE = (
    ("batches", CounterMetricFamily, "batches", "Forward passes."),
    ("texts", CounterMetricFamily, "texts", "Texts in forward passes."),
    ("tokens", CounterMetricFamily, "tokens", "Computed tokens; a shared prefix counts once."),
    ("busy_seconds", CounterMetricFamily, "forward_s", "Time in forward passes."),
    ("pending_tokens", GaugeMetricFamily, "pending_tokens", "Tokens waiting or being computed."),
)


class _EngineCounts(Collector):
    """Reads the engines' counters when the page is requested."""

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


class _Histogram:
    """Counts of values up to each bound, as Prometheus defines buckets."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> list[tuple[str, float]]:
        bounds = [*map(str, map(float, self._bounds)), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True))

    @property
    def sum(self) -> float:
        return self._sum


class Metrics(Collector):
    """Counters of one server, in a registry of its own.

    Parameters
    ----------
    models : mapping of str to Model
        The models by the names of their labels.

    Attributes
    ----------
    n_dropped : int
        Requests whose client left before the answer.
    """

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCounts(models))
        self._registry.register(self)
        self._requests: Counter[tuple[str, ...]] = Counter()  # by route and status
        self._seconds: defaultdict[str, _Histogram] = defaultdict(lambda: _Histogram(_SECONDS))
        self._texts: defaultdict[str, _Histogram] = defaultdict(lambda: _Histogram(_TEXTS))
        self._tokens: Counter[tuple[str, ...]] = Counter()
        self._cut: Counter[tuple[str, ...]] = Counter()
        self._cached: Counter[tuple[str, ...]] = Counter()
        self._n_requests = 0
        self._held_bytes = 0
        self.n_dropped = 0

    def record(self, route: str, status: int, taken_s: float) -> None:
        """Adds a request that has ended."""
        self._requests[route, str(status)] += 1
        self._seconds[route].add(taken_s)

    def count(self, model: str, n_texts: int, n_tokens: int, n_cut: int, n_cached: int) -> None:
        """Adds the texts, or pairs, of a request."""
        self._texts[model].add(n_texts)
        self._tokens[model,] += n_tokens
        self._cut[model,] += n_cut
        self._cached[model,] += n_cached

    def page(self, n_requests: int, held_bytes: int) -> bytes:
        """The text of /metrics.

        Parameters
        ----------
        n_requests, held_bytes : int
            Requests being read or worked on, and the size of their bodies.
        """
        self._n_requests = n_requests
        self._held_bytes = held_bytes
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The metrics, as prometheus-client asks for them."""
        yield _counter("requests", "Requests answered.", ("route", "status"), self._requests)
        yield _histogram("request_seconds", "From header to answer.", "route", self._seconds)
        yield _histogram("request_texts", "Texts, or pairs, of a request.", "model", self._texts)
        yield _counter("tokens", "Tokens of the texts answered.", ("model",), self._tokens)
        yield _counter("truncated_texts", "Texts that were truncated.", ("model",), self._cut)
        yield _counter(
            "cached_texts", "Texts whose vectors were in the cache.", ("model",), self._cached
        )
        yield CounterMetricFamily(
            "qwen3_embed_dropped_requests",
            "Requests whose client left before the answer.",
            value=self.n_dropped,
        )
        yield GaugeMetricFamily(
            "qwen3_embed_queue_requests",
            "Requests being read or worked on.",
            value=self._n_requests,
        )
        yield GaugeMetricFamily(
            "qwen3_embed_queue_bytes", "Size of their bodies.", value=self._held_bytes
        )


def _counter(
    name: str, text: str, labels: tuple[str, ...], counts: Mapping[tuple[str, ...], int]
) -> Metric:
    family = CounterMetricFamily(f"qwen3_embed_{name}", text, labels=labels)
    for values, n in counts.items():
        family.add_metric(values, n)
    return family


def _histogram(name: str, text: str, label: str, found: Mapping[str, _Histogram]) -> Metric:
    family = HistogramMetricFamily(f"qwen3_embed_{name}", text, labels=[label])
    for value, histogram in found.items():
        family.add_metric([value], histogram.buckets(), histogram.sum)
    return family
