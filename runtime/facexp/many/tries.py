"""A picture that ends its worker must not end the next one, too: how often a part was begun, and what it ended at."""

from __future__ import annotations

import json

from facexp.many.stores import Store

CAREFUL = 3
"""The attempt from which on each source is noted before it is read: two workers may end for other reasons."""


class Tries:
    """The attempts at one part, in a small file beside the results, which outlives the worker."""

    def __init__(self, store: Store, path: str) -> None:
        """Begin another attempt. Raises OSError where that cannot be written."""
        self._store, self._path = store, path
        try:
            before = json.loads(store.read(path))
        # a worker may have died while it wrote the file
        except (FileNotFoundError, ValueError):
            before = {"tries": 0, "ended": [], "at": None}
        self._tries: int = before["tries"] + 1
        self.ended: list[int] = before["ended"] + ([] if before["at"] is None else [before["at"]])
        """Numbers of the sources, in the part, at which workers ended."""
        self._note(None)

    @property
    def careful(self) -> bool:
        """Whether each source is noted."""
        return self._tries >= CAREFUL

    def begin(self, number: int | None) -> None:
        """The source of this number is read next; None: no other, and whatever ends the worker now was none of them."""
        if self.careful:
            self._note(number)

    def done(self) -> None:
        """The part is written: forget all."""
        self._store.filesystem.delete_file(self._path)

    def _note(self, at: int | None) -> None:
        state = {"tries": self._tries, "ended": self.ended, "at": at}
        with self._store.filesystem.open_output_stream(self._path) as file:
            file.write(json.dumps(state).encode())
