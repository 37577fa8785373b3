"""Live sources end to end: web and RTSP cameras on the loopback interface, clips behind an address, devices."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facexp.errors import SourceError
from facexp.reading import ReadOptions
from facexp.sources import live, open_sources
from facexp.sources.shots import Shot

PATIENCE_S = 60.0
"""Longer than anything takes on a busy machine, in seconds."""

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler], **options: Any) -> Iterator[str]:
    """Serve HTTP on the loopback interface, without a log; yields HOST:PORT."""
    silent = type("Silent", (handler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(silent, **options)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def shots_of(address: str, **options: Any) -> Iterator[Shot]:
    (source,) = open_sources([address])
    return source.shots(ReadOptions(**options))


def test_a_web_camera_that_is_too_fast_does_not_lag(web_camera: Any) -> None:
    """Guards against growing delays: the analysed frame is never more than a moment behind the one just sent."""
    shots = shots_of(web_camera.address)
    behind = []
    for _ in range(12):
        shot = next(shots)
        behind.append(web_camera.sent - shot.index)
        # an analysis that takes as long as six frames
        time.sleep(0.1)
    assert shot.image.shape == (48, 64, 3)
    assert shot.dropped is not None
    assert shot.index >= 12 + 11
    # reading every frame would be more than 50 behind by now
    assert np.median(behind[6:]) < 20
    assert shot.fps is not None
    shots.close()  # type: ignore[attr-defined]


def test_ffmpeg_does_not_print_a_password_either(capfd: pytest.CaptureFixture[str]) -> None:
    """Guards users of Python, whose stderr is not the command's: FFmpeg names what a playlist leads to."""

    class Playlist(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.endswith("m3u8")
            self.send_response(200 if found else 404)
            self.end_headers()
            if found:
                lines = (
                    "#EXTM3U",
                    "#EXT-X-TARGETDURATION:2",
                    "#EXTINF:2.0,",
                    "0.ts?token=s3cret",
                    "#EXT-X-ENDLIST",
                    "",
                )
                self.wfile.write("\n".join(lines).encode())

    cannot_open = r"http://\*\*\*@127\.0\.0\.1:\d+/a\.m3u8: cannot be opened"
    with serving(Playlist) as place, pytest.raises(SourceError, match=cannot_open):
        next(shots_of(f"http://admin:s3cret@{place}/a.m3u8", timeout_s=5))
    assert "s3cret" not in capfd.readouterr().err


def test_a_web_camera_that_is_rotated_is_not_squeezed(web_camera: Any) -> None:
    """Guards the pictures of a phone that is rotated: OpenCV would squeeze them into the size of the first."""
    web_camera.images = [np.full(shape, 80, np.uint8) for shape in ((48, 64, 3),) * 20 + ((64, 36, 3),) * 200]
    shapes = []
    for shot in itertools.islice(shots_of(web_camera.address, policy="all"), 60):
        shapes.append(shot.image.shape)
        if shapes[-1] != (48, 64, 3):
            break
    assert shapes[0] == (48, 64, 3)
    assert shapes[-1] == (64, 36, 3)


def test_an_empty_frame_of_a_web_camera_is_skipped(web_camera: Any) -> None:
    """Guards cheap cameras, which send a frame without content now and then: it ended the run in a traceback."""
    web_camera.images = [*[np.full((48, 64, 3), 80, np.uint8)] * 19, np.empty((0, 0, 3), np.uint8)]
    found = [shot.index for shot in itertools.islice(shots_of(web_camera.address, policy="all"), 50)]
    assert found == [index for index in range(found[-1] + 1) if index % 20 != 19]


def test_a_web_camera_that_stalls_dies_and_comes_back(
    web_camera: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the complete path through FFmpeg: the password is used but never shown, each loss logged and survived."""
    monkeypatch.setattr(live, "PAUSES_S", (0.05,))
    web_camera.plan = [(10, "stalls"), (10, "ends"), (0, "refused"), (0, "refused")]
    shots = shots_of(web_camera.address, timeout_s=4, duration_s=PATIENCE_S)
    indices = []
    with caplog.at_level(logging.WARNING, "facexp"):
        for shot in shots:
            indices.append(shot.index)
            if len(caplog.messages) >= 4:
                break
    assert [message.split("; ")[0].split(": ")[1] for message in caplog.messages] == [
        "gave no picture for 4 s",
        "has stopped",
        "cannot be opened",
        "cannot be opened",
    ]
    assert indices == sorted(set(indices))
    assert indices[-1] >= 20
    assert shot.source.startswith("http://***@127.0.0.1:")
    for text in (*caplog.messages, shot.source, str(shot.save_as)):
        assert not re.search("admin|s3cret", text)
    shots.close()  # type: ignore[attr-defined]


def test_an_rtsp_camera_is_read_and_reopened(
    rtsp_camera: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the protocol of network cameras: a password, every frame of --policy all, a reconnection."""
    monkeypatch.setattr(live, "PAUSES_S", (0.05,))
    with caplog.at_level(logging.WARNING, "facexp"):
        shots = shots_of(rtsp_camera.address, policy="all", timeout_s=PATIENCE_S)
        found = list(itertools.islice(shots, 30))
        shots.close()  # type: ignore[attr-defined]
    assert [shot.index for shot in found] == list(range(30))
    # the gray of a frame is the camera's own frame number
    grays = [round(float(shot.image.mean())) - 20 for shot in found]
    assert grays == pytest.approx([*range(20), *range(10)], abs=1)
    (message,) = caplog.messages
    assert re.fullmatch(r"rtsp://\*\*\*@127\.0\.0\.1:\d+/live: has stopped; opening it again in .*", message)


def write_clip(folder: Path) -> Path:
    """Write a clip of 60 frames at 25 a second."""
    path = folder / "x.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    for i in range(60):
        writer.write(np.full((48, 64, 3), 4 * i, np.uint8))
    writer.release()
    return path


def test_a_clip_behind_an_address_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guards http://host/clip.avi: every frame with the clip's own time, and its end is not a lost connection.

    The first picture, too, has to come within the duration: long enough for a busy machine to open the address.
    """
    write_clip(tmp_path)

    with serving(SimpleHTTPRequestHandler, directory=str(tmp_path)) as place:
        shots = list(shots_of(f"http://{place}/x.avi", duration_s=2.0))
    assert [(shot.index, round(shot.time_ms), shot.dropped) for shot in shots] == [(i, 40 * i, 0) for i in range(50)]
    assert caplog.messages == []


def test_a_clip_whose_connection_breaks_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guards http://host/clip.avi against half a clip that looks complete."""
    data = write_clip(tmp_path).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])

    with serving(Handler) as place, caplog.at_level(logging.WARNING, "facexp"):
        count = len(list(shots_of(f"http://user:s3cret@{place}/x.avi")))
    assert 10 < count < 40
    (message,) = caplog.messages
    assert (
        message
        == f"http://***@{place}/x.avi: ends after {count} of 60 frames: unless it was trimmed, its connection was lost"
    )


def test_an_interlaced_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards 1080i: FFmpeg converts none of it, and each record would describe what was in OpenCV's memory."""
    frame = b"FRAME\n" + bytes(range(48)) * 64 + bytes([128]) * (64 * 24)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(b"YUV4MPEG2 W64 H48 F25:1 It A1:1 C420jpeg\n" + frame * 50)

    commands, run = [], subprocess.run

    def spy(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", spy)
    refused = r"^http://\*\*\*@127.*/x: is interlaced, which OpenCV cannot"
    with serving(Handler) as place, pytest.raises(SourceError, match=refused):
        next(shots_of(f"http://admin:s3cret@{place}/x", timeout_s=PATIENCE_S))
    # other users of the machine can see command lines
    assert "s3cret" not in str(commands)
    assert len(commands) == 1


def test_a_wrong_password_is_a_one_line_error(web_camera: Any) -> None:
    """Guards the error of an address that cannot be opened: it says what to check, and shows nothing secret."""
    with pytest.raises(SourceError) as caught:
        next(shots_of(web_camera.address.replace("admin:s3cret", "admin:wr0ng")))
    message = str(caught.value)
    assert message.endswith("cannot be opened: check the address, its user name and password, and that the stream runs")
    assert not re.search("admin|wr0ng|s3cret", message)


def test_a_missing_camera_is_an_error() -> None:
    """Guards the error of a camera's number, which may have been meant as the name of a file."""
    if Path("/dev/video97").exists():
        pytest.skip("there is a /dev/video97")
    with pytest.raises(SourceError, match=r"^97: .*(no such camera|cannot be opened)"):
        next(shots_of("97"))


def test_a_video_device_is_read() -> None:
    """Guards a camera that V4L2 drives, where there is one."""
    devices = sorted(Path("/dev").glob("video*"))
    if not devices:
        pytest.skip("NO CAMERA TESTED: this machine has no /dev/video*")
    try:
        shots = list(shots_of(str(devices[0]), duration_s=2))
    except SourceError as error:
        pytest.skip(f"NO CAMERA TESTED: {error}")
    assert shots
    assert all(shot.image.shape[2] == 3 for shot in shots)
