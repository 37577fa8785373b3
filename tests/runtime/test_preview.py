"""The preview page: what it serves, to whom, and that viewers do not slow the analysis."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
import pytest

from facexp.labels import SEVEN
from facexp.sources.shots import Shot
from facexp.types import Emotion, Face, Frame, Timings

pytest.importorskip("starlette", reason="NO PREVIEW TESTED: it comes with the extra `serve`")
pytest.importorskip("uvicorn", reason="NO PREVIEW TESTED: it comes with the extra `serve`")

from facexp.sinks.preview import MAX_SIDE, Preview, PreviewError

PATIENCE_S = 60.0
NASTY = "<img src=x onerror=alert(1)>.mp4"


@pytest.fixture
def preview() -> Iterator[Preview]:
    with Preview("127.0.0.1", 0) as served:
        yield served


def face(label: str = "happy") -> Face:
    probabilities = {name: 0.94 if name == label else 0.01 for name in SEVEN}
    return Face((8.0, 8.0, 40.0, 40.0), 0.93, np.full((15, 2), 20, np.float32), Emotion(label, probabilities))


def show(
    preview: Preview, index: int = 0, width: int = 96, height: int = 64, value: int = 120, source: str = "x"
) -> None:
    image = np.full((height, width, 3), value, np.uint8)
    frame = Frame(source, index, 40.0 * index, width, height, "cpu", (face(),), Timings(5, 1, 1), None, 12.0, 3)
    preview.write(frame, Shot(source, PurePath("x"), index, 40.0 * index, image, 25.0))


def get(preview: Preview, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    host, port = re.fullmatch(r"http://(.+):(\d+)/", preview.url).groups()  # type: ignore[union-attr]
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def newest(preview: Preview, after: int = 0) -> dict[str, Any]:
    status, _, body = get(preview, f"/frame?after={after}")
    assert status == 200
    return dict(json.loads(body))


def test_the_page_needs_nothing_from_elsewhere(preview: Preview) -> None:
    """Guards devices without internet, and against a page that discloses to third parties who is watching."""
    status, headers, body = get(preview, "/")
    text = body.decode()
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert not re.search(r"https?:|src=\"|@import|url\(|//[a-z]", re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert headers["content-security-policy"].startswith("default-src 'none'; connect-src 'self'; img-src data:")
    assert 'name="viewport" content="width=device-width' in text
    # nothing that comes from a name or a message may become markup
    assert "innerHTML" not in text
    assert get(preview, "/preview.py")[0] == 404


def test_the_newest_frame_with_its_record(preview: Preview) -> None:
    """Guards what the page shows: the annotated picture, small enough, the record, and the speed of the run."""
    for index in range(5):
        show(preview, index, 3000, 1500)
    reply = newest(preview)
    assert reply["number"] == 5
    assert (reply["record"]["frame"], reply["record"]["age_ms"], reply["record"]["dropped"]) == (4, 12.0, 3)
    assert reply["record"]["faces"][0]["emotion"]["label"] == "happy"
    assert reply["colours"]["happy"] == "rgb(250 210 40)"
    assert reply["fps"] > 0
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(reply["jpeg"]), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (MAX_SIDE // 2, MAX_SIDE, 3)
    assert (np.abs(picture.astype(int) - 120) > 30).any()
    preview.write(Frame.unread("gone.jpg", 0, "gone.jpg: is empty"), None)
    reply = newest(preview, 5)
    assert reply["record"]["error"] == "gone.jpg: is empty"
    assert "jpeg" not in reply


def test_a_viewer_waits_for_the_next_frame(preview: Preview) -> None:
    """Guards long polling: a request is answered when a frame comes, not before, and not only at its timeout."""
    show(preview)
    replies: list[dict[str, Any]] = []
    viewers = [threading.Thread(target=lambda: replies.append(newest(preview, 1))) for _ in range(3)]
    for viewer in viewers:
        viewer.start()
    time.sleep(0.3)
    assert replies == []
    show(preview, 7)
    for viewer in viewers:
        viewer.join(PATIENCE_S)
    assert [reply["record"]["frame"] for reply in replies] == [7, 7, 7]


def test_a_poll_without_a_new_frame_times_out(preview: Preview, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the page against a request that is never answered while a camera is away."""
    monkeypatch.setattr("facexp.sinks.preview._POLL_TIMEOUT_S", 0.05)
    assert get(preview, "/frame?after=0")[0] == 204


def test_a_viewer_that_does_not_read_delays_nothing(preview: Preview) -> None:
    """Guards the run against a phone with a bad connection: it neither waits nor accumulates pictures."""
    host, port = re.fullmatch(r"http://(.+):(\d+)/", preview.url).groups()  # type: ignore[union-attr]
    noise = np.random.default_rng(0).integers(0, 255, (1280, 1280, 3), np.uint8)
    frame = Frame("x", 0, 0.0, 1280, 1280, "cpu", (), Timings(), None)
    shot = Shot("x", PurePath("x"), 0, 0.0, noise, 25.0)
    preview.write(frame, shot)
    viewers = []
    for _ in range(4):
        viewer = socket.create_connection((host, int(port)))
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        viewer.sendall(20 * b"GET /frame?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        viewers.append(viewer)
    threads = threading.active_count()
    slowest = 0.0
    for _ in range(300):
        begun = time.perf_counter()
        preview.write(frame, shot)
        slowest = max(slowest, time.perf_counter() - begun)
        time.sleep(0.002)
    # drawing and encoding this picture takes longer than handing it over may take
    assert slowest < 1.0
    assert threading.active_count() <= threads + 4
    assert newest(preview)["number"] == 301
    for viewer in viewers:
        viewer.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of open files")
def test_viewers_use_at_most_half_of_the_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards cameras and results, which need files too, and the log, which asyncio fills when there are none left."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (16, 16))
    with Preview("127.0.0.1", 0) as preview, contextlib.ExitStack() as opened:
        viewers = [opened.enter_context(connect(preview)) for _ in range(40)]
        deadline, cut = time.monotonic() + PATIENCE_S, []
        while len(cut) < 32 and time.monotonic() < deadline:
            cut = select.select(viewers, [], [], 0.1)[0]
        assert len(cut) == 32
        next(viewer for viewer in viewers if viewer not in cut).close()
        show(preview)
        while not (answer := first_bytes(preview)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert answer.startswith(b"HTTP/1.1 200")


def test_a_viewer_that_sends_no_request_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a run of months: phones that lose their network leave their connections behind."""
    monkeypatch.setattr("facexp.sinks.preview._TIMEOUT_S", 0.2)
    with Preview("127.0.0.1", 0) as preview, connect(preview) as viewer:
        assert viewer.recv(1) == b""


def connect(preview: Preview) -> socket.socket:
    host, port = re.fullmatch(r"http://(.+):(\d+)/", preview.url).groups()  # type: ignore[union-attr]
    return socket.create_connection((host, int(port)), PATIENCE_S)


def first_bytes(preview: Preview) -> bytes:
    """Return the beginning of the newest frame's answer; nothing if the connection is closed."""
    with contextlib.suppress(ConnectionError), connect(preview) as viewer:
        viewer.sendall(b"GET /frame HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return viewer.recv(100)
    return b""


def test_closing_ends_at_once_despite_viewers(capfd: pytest.CaptureFixture[str]) -> None:
    """Guards the end of the program: no thread, port or message is left."""
    preview = Preview("127.0.0.1", 0)
    waiting = threading.Thread(target=poll_until_closed, args=(preview,), daemon=True)
    waiting.start()
    time.sleep(0.2)
    url = preview.url
    preview.close()
    preview._thread.join(PATIENCE_S)
    assert not preview._thread.is_alive()
    host, port = re.fullmatch(r"http://(.+):(\d+)/", url).groups()  # type: ignore[union-attr]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), timeout=PATIENCE_S)
    # a run that continues for a moment is no error
    show(preview)
    assert capfd.readouterr().err == ""


def poll_until_closed(preview: Preview) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        get(preview, "/frame?after=0")


def test_viewers_reach_it_only_under_its_own_names(preview: Preview) -> None:
    """Guards the loopback default, and against a web page that points its own name at this machine."""
    assert not preview.public
    assert preview.url.startswith("http://127.0.0.1:")
    assert get(preview, "/", Host="localhost:8000")[0] == 200
    assert get(preview, "/", Host="camera.example")[0] == 400
    # an address that the host's name resolves to is accepted like the name, as Debian's 127.0.1.1 is
    if sys.platform == "linux":
        with Preview("127.2", 0) as numeric:
            assert numeric.url.startswith("http://127.0.0.2:")
            assert get(numeric, "/", Host=numeric.url.removeprefix("http://").rstrip("/"))[0] == 200
            assert get(numeric, "/", Host="camera.example")[0] == 400
    with Preview("0.0.0.0", 0) as opened:
        assert opened.public
        assert opened.url.startswith(f"http://{socket.gethostname()}:")


def test_an_address_that_cannot_be_served_is_a_one_line_error(
    preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the error for a port in use, a host that is not this machine, and a missing extra."""
    port = int(preview.url.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(PreviewError, match=rf"^cannot listen on 127\.0\.0\.1, port {port}: "):
        Preview("127.0.0.1", port)
    with pytest.raises(PreviewError, match=r"^cannot listen on 192\.0\.2\.1, port 0: "):
        Preview("192.0.2.1", 0)
    for host in ("*", "foo..bar", "x" * 70, "\udcff"):
        with pytest.raises(PreviewError, match=r"^cannot listen on "):
            Preview(host, 0)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(PreviewError, match=r'^uvicorn is not installed: pip install "facexp\[serve\]"$'):
        Preview("127.0.0.1", 0)


@pytest.mark.slow
def test_a_browser_shows_the_page(preview: Preview, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the page's script in a real browser: table, bars and figures appear, and a name is never markup."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("NO BROWSER TESTED: there is no chromium on this machine")
    # the browser's virtual clock stops while a request is open
    monkeypatch.setattr("facexp.sinks.preview._POLL_TIMEOUT_S", 0.05)
    show(preview, 7, source=NASTY)
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--no-first-run"]
    done = subprocess.run(
        [browser, *options, "--virtual-time-budget=500", "--dump-dom", preview.url],
        capture_output=True,
        text=True,
        timeout=240,
    )
    page = done.stdout
    assert "&lt;img src=x onerror=alert(1)&gt;.mp4<" in page, done.stderr
    assert "<img src=x" not in page
    assert re.search(r'<img id="picture" [^>]*src="data:image/jpeg;base64,', page)
    (row,) = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    assert row.count('class="bar"') == len(SEVEN)
    assert "--share: 94" in row
    assert re.search(r'<td class="emotion"[^>]*>happy</td>', row)
    assert row.endswith("<td>0.93</td></tr>")
    for figure in ("frame", "7", "detect", "5.0 ms", "age", "12 ms", "dropped"):
        assert f">{figure}<" in page, figure
