"""The part of request handling that REST and gRPC share: deadlines, limits, metrics and the call of the model."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from facexp.analyzer import AnalyzerOptions
from facexp.server.batching import Batching
from facexp.server.errors import Code, DeadlineExceeded, Failure, NotFound, RequestError, Stopping
from facexp.server.limits import Gate, Limits
from facexp.server.metrics import Metrics
from facexp.server.models import DEFAULT_SIGNATURE, Arrays, Model, Signature, make_models
from facexp.server.tensors import Array
from facexp.server.versions import Versions

_logger = logging.getLogger("facexp")


@dataclass(frozen=True, slots=True)
class Target:
    """The model, version and signature that a request names."""

    model: str
    version: int | None = None
    """None is the current version."""
    signature: str = DEFAULT_SIGNATURE


class ActiveRequest:
    """A request under way, with its model and its deadline."""

    def __init__(self, model: str, timeout_s: float) -> None:
        self.model = model
        """The name of the model for log and metrics, which a gRPC request says only once it has arrived."""
        self.deadline = asyncio.timeout(timeout_s)
        self.reason: RequestError = DeadlineExceeded("the answer was not ready in time")
        """The error for the client if the request times out or is aborted."""

    def give_up(self, reason: RequestError) -> None:
        """End the request now, with this error, unless its deadline has expired."""
        if not self.deadline.expired():
            self.reason = reason
            self.deadline.reschedule(0.0)


class Service:
    """The models behind the limits. Belongs to one asyncio loop."""

    def __init__(self, base: Path | None, options: AnalyzerOptions, limits: Limits, batching: Batching) -> None:
        self.limits = limits
        self.memory = Gate(limits.memory_bytes, "the requests under way have reached the memory limit; try again later")
        """Bounds the bytes of the requests under way."""
        self.versions = Versions(
            base,
            lambda directory: replace(options, bundle=directory).open(),
            lambda analyzer: make_models(analyzer, limits, batching, self.metrics.batch),
        )
        self.metrics = Metrics(self.versions.under_way, self._version)
        self._stopping = False
        self._active: set[ActiveRequest] = set()

    @property
    def ready(self) -> bool:
        """Whether the server accepts requests."""
        return self.versions.current is not None and not self._stopping

    def stop(self) -> None:
        """Accept no more requests; accepted ones are still answered."""
        self._stopping = True

    def give_up(self) -> int:
        """Refuse the requests that were accepted but not answered yet, and return their number."""
        for active in self._active:
            active.give_up(Stopping("the server is stopping"))
        return len(self._active)

    @contextlib.asynccontextmanager
    async def request(
        self, protocol: str, model: str = "", timeout_s: float | None = None
    ) -> AsyncIterator[ActiveRequest]:
        """Handle one request in the `with` block: set its deadline, record its metrics, turn errors into RequestError.

        `timeout_s` is the client's own time limit in seconds, None without one; the shorter of it and the server's
        timeout counts. An unexpected exception is logged and raised as Failure.
        """
        start = time.perf_counter()
        code = Code.CANCELLED.name
        limit_s = self.limits.timeout_s
        active = ActiveRequest(model, limit_s if timeout_s is None else min(limit_s, timeout_s))
        self._active.add(active)
        try:
            async with active.deadline:
                yield active
            code = Code.OK.name
        except TimeoutError:
            code = active.reason.code.name
            raise active.reason from None
        except RequestError as refusal:
            code = refusal.code.name
            raise
        except Exception:
            code = Failure.code.name
            # the details go only to the log
            _logger.exception("a request to model %r failed", active.model)
            raise Failure("the server failed to process this request") from None
        finally:
            self._active.discard(active)
            self.metrics.request(protocol, active.model, code, time.perf_counter() - start)

    def _model(self, target: Target) -> tuple[int, Model, Signature]:
        """Return the version's number, the model and the signature that the target names. Raises RequestError."""
        if self._stopping:
            raise Stopping("the server is stopping")
        number, model = self.versions.find(target.model, target.version)
        signature = model.signatures.get(target.signature)
        if signature is None:
            known = ", ".join(model.signatures)
            raise NotFound(f"model {target.model} has no such signature; it has {known}")
        return number, model, signature

    async def predict(self, target: Target, read: Callable[[Signature], Array]) -> tuple[int, Signature, Arrays]:
        """Run a model; return the version's number, the signature and the outputs.

        `read` builds the input array; it is called once the request is accepted. Raises RequestError.
        """
        number, model, signature = self._model(target)
        with model.gate.holding(1):
            return number, signature, await model.predict(target.signature, read(signature))

    def _version(self) -> int:
        current = self.versions.current
        return 0 if current is None else current.number
