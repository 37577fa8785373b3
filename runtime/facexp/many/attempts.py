"""Counts the attempts at a part and records the sources at which workers crashed, so that a retry can skip them."""

from __future__ import annotations

import json

from facexp.many.stores import Store

CAREFUL_FROM_ATTEMPT = 3
"""From this attempt on, each source is recorded before it is read. Two workers may have died for other reasons."""


class Attempts:
    """The attempts at one part, recorded in a small file next to the results, so that it survives the worker."""

    def __init__(self, store: Store, path: str) -> None:
        """Begin another attempt. Raises OSError if the file `path` cannot be written."""
        self._store, self._path = store, path
        try:
            before = json.loads(store.read(path))
        # a worker may have died while writing the file
        except (FileNotFoundError, ValueError):
            before = {"tries": 0, "ended": [], "at": None}
        self._attempt: int = before["tries"] + 1
        self.crashes: list[int] = before["ended"] + ([] if before["at"] is None else [before["at"]])
        """Indices, within the part, of the sources at which workers died."""
        self._save(None)

    @property
    def careful(self) -> bool:
        """Whether each source is recorded before it is read."""
        return self._attempt >= CAREFUL_FROM_ATTEMPT

    def begin(self, number: int | None) -> None:
        """Record that this source, by its index in the part, is read next.

        None means that all sources have been read, so that no source is to blame if the worker dies now.
        """
        if self.careful:
            self._save(number)

    def done(self) -> None:
        """Delete the file, because the part is written."""
        self._store.filesystem.delete_file(self._path)

    def _save(self, at: int | None) -> None:
        state = {"tries": self._attempt, "ended": self.crashes, "at": at}
        with self._store.filesystem.open_output_stream(self._path) as file:
            file.write(json.dumps(state).encode())
