"""Ctrl-C is held back and raised at the next check."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from facexp_train.fitting.interrupts import held_interrupts


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    # a test run in the background inherits an ignored SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


class InterruptedDestructor:
    def __del__(self) -> None:
        press_ctrl_c()


def check_here() -> None:
    """Placeholder among the steps of `run`, which calls the check in its place."""


def run(*steps: Callable[[], object]) -> list[str]:
    """Run the steps, and return those that were finished, followed by `interrupted` if Ctrl-C was raised."""
    finished = []
    try:
        with held_interrupts() as check:
            for number, step in enumerate(steps, 1):
                (check if step is check_here else step)()
                finished.append(f"step {number}")
    except KeyboardInterrupt:
        finished.append("interrupted")
    return finished


def test_ctrl_c_waits_for_a_check() -> None:
    """Guards a Ctrl-C in a destructor, where Python would print and drop it, and the end of a block without checks."""
    assert run(check_here, lambda: None) == ["step 1", "step 2"]
    assert run(check_here, press_ctrl_c, check_here, press_ctrl_c) == ["step 1", "step 2", "interrupted"]
    assert run(InterruptedDestructor, check_here) == ["step 1", "interrupted"]
    assert run(press_ctrl_c) == ["step 1", "interrupted"]


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    """Guards the way out of a step that hangs."""
    assert run(press_ctrl_c, press_ctrl_c, check_here) == ["step 1", "interrupted"]


def test_an_error_is_not_replaced_by_an_earlier_ctrl_c() -> None:
    """Guards the reason why the run really ended."""
    with pytest.raises(ZeroDivisionError):
        run(press_ctrl_c, lambda: 1 // 0)


def test_other_handlers_and_threads_are_left_alone() -> None:
    """Guards a program with its own handler, and training in a thread, where no handler can be set."""
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    with held_interrupts() as check:
        press_ctrl_c()
        check()
    assert seen == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def in_thread() -> None:
        with held_interrupts() as check:
            check()
        seen.append(0)

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert seen == [signal.SIGINT, 0]
