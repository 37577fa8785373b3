"""How cameras and streams are opened."""

from __future__ import annotations

from typing import Any

import cv2
import pytest

from facexp.sources import capture
from facexp.sources.capture import VideoCapture


class FakeCapture:
    """A cv2.VideoCapture whose openings report these widths in turn, and from then on the last one."""

    def __init__(self, widths: list[float]) -> None:
        self.widths, self.now, self.openings, self.released = widths, 0.0, 0, 0

    def open(self, *_: Any) -> FakeCapture:
        self.now = self.widths[min(self.openings, len(self.widths) - 1)]
        self.openings += 1
        return self

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, what: int) -> float:
        return self.now if what == cv2.CAP_PROP_FRAME_WIDTH else 0.0

    def release(self) -> None:
        self.released += 1


def test_a_stream_that_is_joined_before_its_key_frame_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards UDP: if FFmpeg ends its analysis without a picture, that opening never gives one."""
    late = FakeCapture([0, 0, 320])
    monkeypatch.setattr(capture, "_RETRY_INTERVAL_S", 0.01)
    monkeypatch.setattr(cv2, "VideoCapture", late.open)
    VideoCapture("udp://127.0.0.1:9", 10.0)
    assert (late.openings, late.released) == (3, 2)


def test_a_stream_that_never_reports_its_size_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards that the wait ends, and against hundreds of requests to a server that answers at once without a size."""
    never = FakeCapture([0])
    monkeypatch.setattr(capture, "_RETRY_INTERVAL_S", 0.1)
    monkeypatch.setattr(cv2, "VideoCapture", never.open)
    VideoCapture("udp://127.0.0.1:9", 0.35)
    assert 1 < never.openings <= 5
    assert never.released == never.openings - 1
