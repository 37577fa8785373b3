"""The three models that are served: each network as its SavedModel has it, and the whole analysis of a photo."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from facexp.analyzer import Analyzer, AnalyzerOptions, open_networks
from facexp.bundle import Bundle, ModelSpec, TensorSpec
from facexp.errors import SourceError
from facexp.photo import TooLargeError
from facexp.pipeline import analyze_shot
from facexp.server.batching import Batcher, Batching
from facexp.server.errors import BadRequest, TooLarge
from facexp.server.limits import Gate, Limits
from facexp.server.pictures import crop_of, read_picture
from facexp.server.tensors import BYTES, Array
from facexp.session import Session
from facexp.shots import Shot
from facexp.sinks import frame_record
from facexp.types import Frame

FACES = "faces"
NAMES = ("keypoints", "emotion", FACES)
"""The models' names."""
DEFAULT_SIGNATURE = "serving_default"
ENCODED_SIGNATURE = "serving_encoded"
SOURCE = "-"
"""What a record calls a photo that came in a request: as facexp-infer calls standard input."""

Arrays = dict[str, Array]

_ENCODED = TensorSpec("encoded", BYTES, ())
_RECORD = TensorSpec("record", BYTES, ())
# decoding is bounded here, or every request under way could hold a decoded picture; by both networks and all versions
# together, which share one memory
_DECODERS = 2
_DECODING = threading.BoundedSemaphore(_DECODERS)


@dataclass(frozen=True, slots=True)
class Signature:
    """What one way of asking a model takes and gives; one input, as all signatures here have."""

    input: TensorSpec
    outputs: tuple[TensorSpec, ...]


class Model(Protocol):
    """Something that answers requests. Belongs to one asyncio loop."""

    signatures: Mapping[str, Signature]
    gate: Gate
    """Counts the requests under way."""

    async def predict(self, signature: str, value: Array) -> Arrays:
        """The outputs for the input of one of the signatures, checked against it. Raises RequestError."""
        ...

    async def close(self) -> None:
        """End its threads, after what was taken is answered."""
        ...


class Network:
    """The keypoint or the emotion network; the crops of several requests go through it together."""

    def __init__(
        self, session: Session, spec: ModelSpec, limits: Limits, batching: Batching, on_batch: Callable[[int], object]
    ) -> None:
        self.signatures: Mapping[str, Signature] = {
            DEFAULT_SIGNATURE: Signature(spec.input, spec.outputs),
            ENCODED_SIGNATURE: Signature(_ENCODED, spec.outputs),
        }
        self.gate = _gate(spec.name, limits)
        self._session, self._size, self._pixels = session, spec.size, limits.pixels
        self._decoders = ThreadPoolExecutor(_DECODERS, f"facexp-{spec.name}-decode")
        self._batcher = Batcher(spec.name, self._run, batching, on_batch)

    async def predict(self, signature: str, value: Array) -> Arrays:
        """Outputs as float32 arrays with a row per row of the input."""
        crops = value if signature == DEFAULT_SIGNATURE else await self._decoded(value)
        return await self._batcher.submit(crops, len(crops))

    async def close(self) -> None:
        """End its threads, after what was taken is answered."""
        await self._batcher.close()
        self._decoders.shutdown(wait=False)

    async def _decoded(self, files: Array) -> NDArray[np.uint8]:
        loop = asyncio.get_running_loop()
        # one after the other: a request that is given up stops here
        crops = [await loop.run_in_executor(self._decoders, self._crop, *each) for each in enumerate(files)]
        return np.stack(crops)

    def _crop(self, number: int, file: bytes) -> NDArray[np.uint8]:
        try:
            with _DECODING:
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
    """Photos in, facexp-infer's records out, one photo at a time: one has the cores to itself, and is done sooner."""

    def __init__(self, analyzer: Analyzer, limits: Limits, on_batch: Callable[[int], object]) -> None:
        self.signatures: Mapping[str, Signature] = {DEFAULT_SIGNATURE: Signature(_ENCODED, (_RECORD,))}
        self.gate = _gate(FACES, limits)
        self._analyzer, self._pixels = analyzer, limits.pixels
        self._batcher = Batcher(FACES, self._run, Batching(size=1), on_batch)

    async def predict(self, signature: str, value: Array) -> Arrays:
        """A record for each file, each the bytes of a JSON object."""
        # one after the other, so that a request of many photos does not make the others wait for all of them
        records = [await self._batcher.submit((number, file)) for number, file in enumerate(value)]
        return {_RECORD.name: np.array(records, dtype=object)}

    async def close(self) -> None:
        """End its thread, after what was taken is answered."""
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


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """What is read from a bundle; each model has sessions of its own, so that all may run at once."""

    bundle: Bundle
    keypoints: Session
    emotion: Session
    analyzer: Analyzer


def load(directory: Path | None, options: AnalyzerOptions) -> Loaded:
    """Load a bundle's networks and the detector; takes seconds and may run in any thread. Raises FacexpError."""
    analyzer = replace(options, bundle=directory).open()
    networks = open_networks(analyzer.bundle, options.device, options.backend, options.precision, options.threads)
    return Loaded(analyzer.bundle, *networks, analyzer)


def make_models(
    loaded: Loaded, limits: Limits, batching: Batching, on_batch: Callable[[str, int], object]
) -> dict[str, Model]:
    """The models by name, in the running loop; `on_batch` is told the model and the rows of each batch."""
    networks = ((loaded.keypoints, loaded.bundle.keypoints), (loaded.emotion, loaded.bundle.emotion))
    models: dict[str, Model] = {
        spec.name: Network(session, spec, limits, batching, partial(on_batch, spec.name)) for session, spec in networks
    }
    models[FACES] = Faces(loaded.analyzer, limits, partial(on_batch, FACES))
    return models


def _gate(name: str, limits: Limits) -> Gate:
    return Gate(limits.queue, f"model {name}: {limits.queue} requests are under way already; try again later")
