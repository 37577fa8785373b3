"""Ctrl-C comes when it can be heard."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from facexp_train.fitting.interrupts import held_interrupts


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    # a test run in the background would hand down a SIGINT that is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def press() -> None:
    signal.raise_signal(signal.SIGINT)


class Dying:
    def __del__(self) -> None:
        press()


def checked() -> None:
    """Stands for the check among steps."""


def run(*steps: Callable[[], object]) -> list[str]:
    """Which of some steps were reached, and whether that was all."""
    reached = []
    try:
        with held_interrupts() as check:
            for number, step in enumerate(steps, 1):
                (check if step is checked else step)()
                reached.append(f"step {number}")
    except KeyboardInterrupt:
        reached.append("interrupted")
    return reached


def test_ctrl_c_waits_for_a_check() -> None:
    """Guards one that comes in a destructor, where Python would print and forget it, and the end, if nobody checks."""
    assert run(checked, lambda: None) == ["step 1", "step 2"]
    assert run(checked, press, checked, press) == ["step 1", "step 2", "interrupted"]
    assert run(Dying, checked) == ["step 1", "interrupted"]
    assert run(press) == ["step 1", "interrupted"]


def test_a_second_ctrl_c_waits_for_nothing() -> None:
    """Guards the way out of something that hangs."""
    assert run(press, press, checked) == ["step 1", "interrupted"]


def test_an_error_stays_what_it_is() -> None:
    """Guards the reason of an end from the Ctrl-C that came before it."""
    with pytest.raises(ZeroDivisionError):
        run(press, lambda: 1 // 0)


def test_handlers_of_others_and_threads_are_left_alone() -> None:
    """Guards a program with a handler of its own, and training in a thread, where none can be set."""
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    with held_interrupts() as check:
        press()
        check()
    assert seen == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def inside() -> None:
        with held_interrupts() as check:
            check()
        seen.append(0)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [signal.SIGINT, 0]
