"""Deferred handling of Ctrl-C, so that no library swallows it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_interrupts() -> Iterator[Callable[[], None]]:
    """Defer Ctrl-C inside the block until the next call of the yielded function, or until the end of the block.

    A second Ctrl-C raises KeyboardInterrupt immediately. By default Python raises it at whatever point the code has
    reached: in one of TensorFlow's destructors, where a training run often is, it is only printed and then lost.
    Nothing changes if the program has its own SIGINT handler, ignores the signal, or trains outside the main thread.
    SIGTERM still ends the process at once: every file is complete at all times.
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
    previous = signal.getsignal(signal.SIGINT)
    if not main or previous is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, previous)
    check()
