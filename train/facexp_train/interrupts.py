"""Ctrl-C that no library swallows."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_interrupts() -> Iterator[Callable[[], None]]:
    """Ctrl-C inside waits for the next call of what this gives, or for the end; a second one does not wait.

    Python raises KeyboardInterrupt wherever it happens to be. In one of TensorFlow's destructors, where a training
    often is, it is printed and lost. Who has a handler of their own, ignores the signal or trains in a thread is left
    alone. SIGTERM ends the process at once, as it always does: each file is whole at any moment.
    """
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not main or before is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
    check()
