"""The page at /: it loads only its own files; in a real browser: a photo, the camera, the token and errors."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from browser import Browser
from facexp.analyzer import AnalyzerOptions
from facexp.labels import SEVEN
from facexp.server.access import Access

PHONE = (390, 844)
TOKEN = "correct-horse-battery"


def test_the_page_needs_nothing_from_elsewhere(server: Any) -> None:
    """Guards devices without internet access, and against a page that reveals its visitors to third parties."""
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        answer = server.ask(path)
        text = answer.body.decode()
        assert (answer.status, answer.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert not re.search(r"https?:/|@import|url\(|//[a-z]", re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
        assert "innerHTML" not in text
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; connect-src 'self'; img-src 'self' blob: data:;")
        assert "unsafe" not in policy
        assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert "--happy: rgb(250 210 40);" in server.ask("/page.css").body.decode()
    assert 'name="viewport" content="width=device-width' in server.ask("/").body.decode()


@pytest.fixture
def browser(tmp_path: Path, astronaut: NDArray[np.uint8]) -> Iterator[Any]:
    """A browser whose camera shows the astronaut."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("NO BROWSER TESTED: there is no chromium on this machine")
    jpeg = cv2.imencode(".jpg", astronaut)[1].tobytes()
    (tmp_path / "camera.mjpeg").write_bytes(jpeg * 3)
    camera = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={tmp_path / 'camera.mjpeg'}",
    ]
    with Browser(program, tmp_path / "profile", camera) as opened:
        yield opened


@pytest.fixture
def shipped(start: Callable[..., Any]) -> Any:
    """A server with the shipped models, which recognise a smile."""
    return start(base=None, analyzer=AnalyzerOptions("cpu", 1))


def happy_pixels(browser: Any) -> int:
    """The number of canvas pixels in the colour of a happy face."""
    return int(
        browser.run(
            """(() => {
                const canvas = document.getElementById("picture");
                const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                let count = 0;
                for (let i = 0; i < data.length; i += 4)
                  count += data[i] === 250 && data[i + 1] === 210 && data[i + 2] === 40;
                return count;
            })()"""
        )
    )


def save_screenshot(browser: Any, name: str) -> None:
    """Save a screenshot in the folder FACEXP_SCREENSHOTS, if it is set, for a person to look at."""
    folder = os.environ.get("FACEXP_SCREENSHOTS")
    if folder:
        (Path(folder) / f"{name}.png").write_bytes(browser.screenshot())


@pytest.mark.slow
def test_the_page_shows_a_photo_and_the_camera(
    shipped: Any, browser: Any, astronaut_file: Path, tmp_path: Path
) -> None:
    """Guards the page on a phone's screen: face, points and emotion of a photo and of the camera, and a bad file."""
    browser.open(shipped.ports.rest + "/", *PHONE)
    browser.choose("#file", astronaut_file)
    browser.wait("!document.getElementById('panel').hidden")
    save_screenshot(browser, "photo")
    assert browser.run("document.getElementById('count').textContent") == "1 face"
    assert browser.run("document.querySelector('#faces h3').firstChild.textContent") == "1 happy"
    labels = browser.run(
        "[...document.querySelectorAll('#faces .bar span:first-child')].map((each) => each.textContent)"
    )
    assert (labels[0], sorted(labels)) == ("happy", sorted(SEVEN))
    assert happy_pixels(browser) > 500
    # nothing is wider than the screen, and buttons are large enough for a finger
    assert browser.run("document.documentElement.scrollWidth") == PHONE[0]
    heights = browser.run("[...document.querySelectorAll('#buttons > :not(input)')].map((each) => each.offsetHeight)")
    assert min(heights) >= 44
    # the camera runs until it is stopped; pressing twice opens it once
    browser.run(
        """{
            const media = navigator.mediaDevices, open = media.getUserMedia.bind(media);
            window.streams = [];
            media.getUserMedia = (how) => { const opening = open(how); streams.push(opening); return opening; };
        }"""
    )
    press = "document.getElementById('camera').click();"
    browser.run("document.getElementById('faces').replaceChildren();" + 2 * press)
    browser.wait("document.querySelectorAll('#faces h3').length === 1")
    browser.run("document.getElementById('faces').replaceChildren()")
    browser.wait("document.querySelectorAll('#faces h3').length === 1")
    save_screenshot(browser, "camera")
    assert browser.run("document.getElementById('camera').getAttribute('aria-pressed')") == "true"
    browser.run(press)
    assert browser.run("document.getElementById('camera').textContent") == "Camera"
    tracks = "(await Promise.all(streams)).flatMap((each) => each.getTracks().map((track) => track.readyState))"
    assert browser.run(f"(async () => {tracks})()") == ["ended"]
    # a photo chosen while the camera opens stays
    browser.run(
        """{
            const video = HTMLMediaElement.prototype, {play} = video;
            video.play = () => { video.play = play; return new Promise((go) => { window.go = go; }); };
        }"""
        + press
    )
    browser.wait("window.go !== undefined")
    browser.run("document.getElementById('faces').replaceChildren()")
    browser.choose("#file", astronaut_file)
    browser.wait("document.querySelectorAll('#faces h3').length === 1")
    browser.run("go()")
    browser.run("new Promise(requestAnimationFrame)")
    assert browser.run("document.getElementById('camera').textContent") == "Camera"
    bad = tmp_path / "<b>bad.png"
    bad.write_bytes(b"no picture")
    browser.choose("#file", bad)
    browser.wait("document.getElementById('state').className === 'alarm'")
    assert (
        browser.run("document.getElementById('state').textContent") == "this browser cannot read that file as a picture"
    )
    assert browser.errors() == []


@pytest.mark.slow
def test_the_page_asks_for_the_token(start: Callable[..., Any], browser: Any, astronaut_file: Path) -> None:
    """Guards the page of a server with a token, and the message when the server has stopped."""
    server = start(access=Access(TOKEN))
    browser.open(server.ports.rest + "/", *PHONE)
    browser.choose("#file", astronaut_file)
    browser.wait("!document.getElementById('login').hidden")
    save_screenshot(browser, "token")
    browser.run(f"document.getElementById('token').value = '{TOKEN}'; document.querySelector('#login button').click()")
    browser.wait("!document.getElementById('panel').hidden")
    assert browser.run("document.getElementById('login').hidden")
    server.ask_to_stop()
    server.join()
    browser.choose("#file", astronaut_file)
    browser.wait("document.getElementById('state').textContent === 'the server has ended or cannot be reached'")


@pytest.mark.slow
def test_labels_lie_in_the_picture_and_off_each_other(shipped: Any, browser: Any) -> None:
    """Guards the labels of faces at the borders, of a face that fills the picture, and of a crowd."""
    browser.open(shipped.ports.rest + "/", *PHONE)
    borders = [[-20, -10, 60, 80], [590, 5, 60, 80], [600, 420, 60, 80]]
    crowd = [[64 * column + 16, 80 * row + 24, 32, 40] for column in range(10) for row in range(6)]
    for boxes, least in ((borders, 3), ([[0, 0, 640, 480]], 1), (crowd, 50)):
        faces = [{"box": box, "emotion": {"label": "surprise"}, "keypoints": {}} for box in boxes]
        labels = browser.run(
            f"""(() => {{
                const pen = CanvasRenderingContext2D.prototype, {{fillRect}} = pen, found = [];
                [frame.width, frame.height] = [640, 480];
                pen.fillRect = (...place) => found.push(place);
                draw({json.dumps(faces)});
                pen.fillRect = fillRect;
                return found;
            }})()"""
        )
        assert len(labels) >= least
        for x, y, width, height in labels:
            assert min(x, y) >= 0
            assert x + width <= 640
            assert y + height <= 480
        for (x, y, width, height), (left, top, across, down) in itertools.combinations(labels, 2):
            assert x + width <= left or left + across <= x or y + height <= top or top + down <= y
