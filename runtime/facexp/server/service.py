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

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.versions.current is not None and not self._stopping

    def stop(self) -> None:
        """Take no more requests; those that were taken are answered."""
        self._stopping = True

    @contextlib.asynccontextmanager
    async def request(self, protocol: str, model: str, patience_s: float | None = None) -> AsyncIterator[None]:
        """One request from its first byte on: its deadline, its figures, and every fault of ours as a Failure.

        `patience_s` is what the client allows, where it says so. Raises RequestError.
        """
        start = time.perf_counter()
        code = "CANCELLED"
        try:
            async with asyncio.timeout(min(self.limits.timeout_s, patience_s or self.limits.timeout_s)):
                yield
            code = Code.OK.name
        except TimeoutError:
            code = TooLate.code.name
            raise TooLate("the answer was not ready in time") from None
        except RequestError as refusal:
            code = refusal.code.name
            raise
        except Exception:
            code = Failure.code.name
            # what it was is for the log alone
            _logger.exception("a request to model %r failed", model)
            raise Failure("the server failed at this request") from None
        finally:
            self.metrics.request(protocol, model, code, time.perf_counter() - start)

    def model(self, target: Target) -> tuple[int, Model, Signature]:
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
        number, model, signature = self.model(target)
        with model.gate.holding(1):
            return number, signature, await model.predict(target.signature, read(signature))

    def _under_way(self, name: str) -> int:
        current = self.versions.current
        return 0 if current is None else current.models[name].gate.held

    def _version(self) -> int:
        current = self.versions.current
        return 0 if current is None else current.number
