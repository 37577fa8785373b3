"""The Prometheus metrics at /metrics."""

from __future__ import annotations

import functools
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from facexp.server.models import NAMES

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one server, in its own registry; of Python and the machine only this process."""

    def __init__(self, under_way: Callable[[str], int], version: Callable[[], int]) -> None:
        """Both functions are called at each scrape.

        `under_way` returns how many requests to a model are under way, `version` the version that answers, 0 for none.
        """
        self._registry = CollectorRegistry()
        label_names = ("protocol", "model", "code")
        self._requests = Counter("facexp_requests", "Requests answered", label_names, registry=self._registry)
        self._seconds = Histogram(
            "facexp_request_seconds",
            "Time from a request's first byte to its answer",
            label_names[:2],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rows = Histogram(
            "facexp_batch_rows", "Rows in a batch", ["model"], buckets=_ROWS, registry=self._registry
        )
        gauge = Gauge(
            "facexp_requests_under_way", "Requests accepted but not answered yet", ["model"], registry=self._registry
        )
        for name in NAMES:
            gauge.labels(name).set_function(functools.partial(under_way, name))
        Gauge("facexp_version", "Version that answers", registry=self._registry).set_function(version)
        ProcessCollector(registry=self._registry)

    def request(self, protocol: str, model: str, code: str, seconds: float) -> None:
        """Record a request that was answered or refused."""
        # or clients could fill the memory with invented model names, each a time series
        model = model if model in NAMES else "other"
        self._requests.labels(protocol, model, code).inc()
        self._seconds.labels(protocol, model).observe(seconds)

    def batch(self, model: str, rows: int) -> None:
        """Record a batch that is about to run."""
        self._rows.labels(model).observe(rows)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
