"""The three models that are served: both networks with their SavedModels' signatures, and the analysis of a photo."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from facexp.analyzer import Analyzer
from facexp.bundle import ModelSpec, TensorSpec
from facexp.errors import SourceError
from facexp.pipeline import analyze_shot
from facexp.server.batching import Batcher, Batching
from facexp.server.errors import BadRequest, TooLarge
from facexp.server.limits import Gate, Limits
from facexp.server.pictures import crop_of, read_picture
from facexp.server.tensors import BYTES, Array
from facexp.session import Session
from facexp.sinks.records import frame_record
from facexp.sources.photo import TooLargeError
from facexp.sources.shots import Shot
from facexp.types import Frame

FACES = "faces"
NAMES = ("keypoints", "emotion", FACES)
"""The models' names."""
DEFAULT_SIGNATURE = "serving_default"
ENCODED_SIGNATURE = "serving_encoded"
SOURCE = "-"
"""The source name in the record of a photo in a request; facexp-infer uses the same for standard input."""

Arrays = dict[str, Array]

_ENCODED = TensorSpec("encoded", BYTES, ())
_RECORD = TensorSpec("record", BYTES, ())
# bounds the decoding, or every request under way could hold a decoded picture; one limit for both networks and all
# versions, since they share the memory of the process
_MAX_DECODERS = 2
_DECODE_SLOTS = threading.BoundedSemaphore(_MAX_DECODERS)


@dataclass(frozen=True, slots=True)
class Signature:
    """The input and the outputs of one way to call a model; all signatures here have a single input."""

    input: TensorSpec
    outputs: tuple[TensorSpec, ...]


class Model(Protocol):
    """A model that answers requests. Belongs to one asyncio loop."""

    signatures: Mapping[str, Signature]
    gate: Gate
    """Bounds the number of requests under way."""

    async def predict(self, signature: str, value: Array) -> Arrays:
        """Return the outputs for an input, which must match the signature. Raises RequestError."""
        ...

    async def close(self) -> None:
        """End the model's threads after all submitted requests are answered."""
        ...


class Network:
    """The keypoint or the emotion network; it runs the crops of several requests as one batch."""

    def __init__(
        self, session: Session, spec: ModelSpec, limits: Limits, batching: Batching, on_batch: Callable[[int], object]
    ) -> None:
        self.signatures: Mapping[str, Signature] = {
            DEFAULT_SIGNATURE: Signature(spec.input, spec.outputs),
            ENCODED_SIGNATURE: Signature(_ENCODED, spec.outputs),
        }
        self.gate = _gate(spec.name, limits)
        self._session, self._size, self._pixels = session, spec.size, limits.pixels
        self._decoders = ThreadPoolExecutor(_MAX_DECODERS, f"facexp-{spec.name}-decode")
        self._batcher = Batcher(spec.name, self._run, batching, on_batch)

    async def predict(self, signature: str, value: Array) -> Arrays:
        """Return the outputs: float32 arrays with one row per row of the input. Raises RequestError."""
        crops = value if signature == DEFAULT_SIGNATURE else await self._decode_crops(value)
        return await self._batcher.submit(crops, len(crops))

    async def close(self) -> None:
        """End the threads after all submitted requests are answered."""
        await self._batcher.close()
        self._decoders.shutdown(wait=False)

    async def _decode_crops(self, files: Array) -> NDArray[np.uint8]:
        loop = asyncio.get_running_loop()
        # one after the other, so that a request that is aborted stops between two pictures
        crops = [await loop.run_in_executor(self._decoders, self._decode_crop, *each) for each in enumerate(files)]
        return np.stack(crops)

    def _decode_crop(self, number: int, file: bytes) -> NDArray[np.uint8]:
        try:
            with _DECODE_SLOTS:
                return crop_of(read_picture(file, self._pixels), self._size)
        except TooLargeError as error:
            raise TooLarge(f"picture {number} {error}") from None
        except SourceError as error:
            raise BadRequest(f"picture {number} {error}") from None

    def _run(self, requests: list[NDArray[np.uint8]]) -> Sequence[Arrays]:
        outputs = self._session.run(requests[0] if len(requests) == 1 else np.concatenate(requests))
        ends = np.cumsum([len(crops) for crops in requests])[:-1]
        parts = {name: np.split(rows, ends) for name, rows in outputs.items()}
        return [{name: rows[index] for name, rows in parts.items()} for index in range(len(requests))]


class Faces:
    """The full analysis: photos in, facexp-infer's records out.

    Photos are analysed one at a time: a photo that has all cores to itself is finished sooner.
    """

    def __init__(self, analyzer: Analyzer, limits: Limits, on_batch: Callable[[int], object]) -> None:
        self.signatures: Mapping[str, Signature] = {DEFAULT_SIGNATURE: Signature(_ENCODED, (_RECORD,))}
        self.gate = _gate(FACES, limits)
        self._analyzer, self._pixels = analyzer, limits.pixels
        self._batcher = Batcher(FACES, self._run, Batching(size=1), on_batch)

    async def predict(self, signature: str, value: Array) -> Arrays:
        """Return one record per file: an object array with the bytes of a JSON object each. Raises RequestError."""
        # one after the other, so that other requests do not wait for all photos of a large one
        records = [await self._batcher.submit((number, file)) for number, file in enumerate(value)]
        return {_RECORD.name: np.array(records, dtype=object)}

    async def close(self) -> None:
        """End the thread after all submitted photos are answered."""
        await self._batcher.close()

    def _run(self, photos: list[tuple[int, bytes]]) -> Sequence[bytes]:
        ((number, file),) = photos
        try:
            shot = Shot(SOURCE, PurePath(SOURCE), 0, 0.0, read_picture(file, self._pixels))
            frame = analyze_shot(self._analyzer, shot)
        except TooLargeError as error:
            raise TooLarge(f"picture {number} {error}") from None
        except SourceError as error:
            frame = Frame.unread(SOURCE, 0, f"{SOURCE}: {error}")
        return [json.dumps(frame_record(frame)).encode()]


def make_models(
    analyzer: Analyzer, limits: Limits, batching: Batching, on_batch: Callable[[str, int], object]
) -> dict[str, Model]:
    """Return the models by name, bound to the running loop. All use the analyzer's sessions, and can run at once.

    `on_batch` is called with the model's name and the number of rows of each batch.
    """
    networks = zip(analyzer.sessions, (analyzer.bundle.keypoints, analyzer.bundle.emotion), strict=True)
    models: dict[str, Model] = {
        spec.name: Network(session, spec, limits, batching, partial(on_batch, spec.name)) for session, spec in networks
    }
    models[FACES] = Faces(analyzer, limits, partial(on_batch, FACES))
    return models


def _gate(name: str, limits: Limits) -> Gate:
    return Gate(limits.queue, f"model {name}: {limits.queue} requests are under way already; try again later")
