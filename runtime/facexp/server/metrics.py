"""What Prometheus reads at /metrics."""

from __future__ import annotations

import functools
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from facexp.server.models import NAMES

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of one server, in a registry of its own: nothing of Python or of the machine but this process."""

    def __init__(self, under_way: Callable[[str], int], version: Callable[[], int]) -> None:
        """`under_way` is asked how many requests a model works on, `version` which one answers, 0 for none."""
        self._registry = CollectorRegistry()
        about = ("protocol", "model", "code")
        self._requests = Counter("facexp_requests", "Requests answered", about, registry=self._registry)
        self._seconds = Histogram(
            "facexp_request_seconds",
            "Time from a request's first byte to its answer",
            about[:2],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rows = Histogram(
            "facexp_batch_rows", "Rows in a batch", ["model"], buckets=_ROWS, registry=self._registry
        )
        gauge = Gauge("facexp_requests_under_way", "Requests taken, not answered", ["model"], registry=self._registry)
        for name in NAMES:
            gauge.labels(name).set_function(functools.partial(under_way, name))
        Gauge("facexp_version", "Version that answers", registry=self._registry).set_function(version)
        ProcessCollector(registry=self._registry)

    def request(self, protocol: str, model: str, code: str, seconds: float) -> None:
        """One request was answered."""
        # a client must not be able to fill the memory with names
        model = model if model in NAMES else "other"
        self._requests.labels(protocol, model, code).inc()
        self._seconds.labels(protocol, model).observe(seconds)

    def batch(self, model: str, rows: int) -> None:
        """One batch runs."""
        self._rows.labels(model).observe(rows)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
