"""What REST and gRPC share: a request's way from the door to the model and back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from facexp.analyzer import AnalyzerOptions
from facexp.server.batching import Batching
from facexp.server.errors import Code, Failure, NotFound, RequestError, Stopping, TooLate
from facexp.server.limits import Gate, Limits
from facexp.server.metrics import Metrics
from facexp.server.models import DEFAULT_SIGNATURE, Arrays, Model, Signature, load, make_models
from facexp.server.tensors import Array
from facexp.server.versions import Versions

_logger = logging.getLogger("facexp")


@dataclass(frozen=True, slots=True)
class Target:
    """What a request names."""

    model: str
    version: int | None = None
    """None is the newest."""
    signature: str = DEFAULT_SIGNATURE


class Running:
    """A request under way."""

    def __init__(self, patience_s: float) -> None:
        self.deadline = asyncio.timeout(patience_s)
        self.reason: RequestError = TooLate("the answer was not ready in time")
        """Why it is given up, where it is."""

    def give_up(self, reason: RequestError) -> None:
        """End it before its time."""
        if not self.deadline.expired():
            self.reason = reason
            self.deadline.reschedule(0.0)


class Service:
    """The models, behind their limits. Belongs to one asyncio loop."""

    def __init__(self, base: Path | None, options: AnalyzerOptions, limits: Limits, batching: Batching) -> None:
        self.limits = limits
        self.memory = Gate(limits.memory_bytes, "the requests under way fill the memory set aside; try again later")
        """Counts the bytes of the requests under way."""
        self.versions = Versions(
            base,
            lambda directory: load(directory, options),
            lambda loaded: make_models(loaded, limits, batching, self.metrics.batch),
        )
        self.metrics = Metrics(self._under_way, self._version)
        self._stopping = False
        self._running: set[Running] = set()

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.versions.current is not None and not self._stopping

    def stop(self) -> None:
        """Take no more requests; those that were taken are answered."""
        self._stopping = True

    def give_up(self) -> int:
        """Refuse what was taken and is not answered yet; how many requests that were."""
        for running in self._running:
            running.give_up(Stopping("the server is stopping"))
        return len(self._running)

    @contextlib.asynccontextmanager
    async def request(self, protocol: str, model: str, patience_s: float | None = None) -> AsyncIterator[Running]:
        """One request from its first byte on: its deadline, its figures, and every fault of ours as a Failure.

        `patience_s` is what the client allows, where it says so. Raises RequestError.
        """
        start = time.perf_counter()
        code = Code.CANCELLED.name
        limit_s = self.limits.timeout_s
        running = Running(limit_s if patience_s is None else min(limit_s, patience_s))
        self._running.add(running)
        try:
            async with running.deadline:
                yield running
            code = Code.OK.name
        except TimeoutError:
            code = running.reason.code.name
            raise running.reason from None
        except RequestError as refusal:
            code = refusal.code.name
            raise
        except Exception:
            code = Failure.code.name
            # what it was is for the log alone
            _logger.exception("a request to model %r failed", model)
            raise Failure("the server failed at this request") from None
        finally:
            self._running.discard(running)
            self.metrics.request(protocol, model, code, time.perf_counter() - start)

    def _model(self, target: Target) -> tuple[int, Model, Signature]:
        """The version that answers, with the model and the signature that are named. Raises RequestError."""
        if self._stopping:
            raise Stopping("the server is stopping")
        number, model = self.versions.find(target.model, target.version)
        signature = model.signatures.get(target.signature)
        if signature is None:
            known = ", ".join(model.signatures)
            raise NotFound(f"model {target.model} has no signature of this name; it has {known}")
        return number, model, signature

    async def predict(self, target: Target, read: Callable[[Signature], Array]) -> tuple[int, Signature, Arrays]:
        """The version that answers, the signature and its outputs; `read` makes the request's input.

        Raises RequestError.
        """
        number, model, signature = self._model(target)
        with model.gate.holding(1):
            return number, signature, await model.predict(target.signature, read(signature))

    def _under_way(self, name: str) -> int:
        current = self.versions.current
        return 0 if current is None else current.models[name].gate.held

    def _version(self) -> int:
        current = self.versions.current
        return 0 if current is None else current.number
