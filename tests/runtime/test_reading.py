"""Which frames are taken, and which parts of a name may be shown."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import pytest

from facexp.address import address_problem, file_name, is_live, redacted, redacted_unknown
from facexp.reading import Pace, ReadOptions
from facexp.sources import open_sources


def taken(options: ReadOptions, times_ms: list[float]) -> list[int]:
    pace = Pace(options)
    return [index for index, time_ms in enumerate(times_ms) if pace.wants(index, time_ms)]


def test_max_fps_limits_the_frames_a_second() -> None:
    """Guards --max-fps: even steps, no frame lost to a camera's jitter, and no burst after a pause."""
    even = [1000 * i / 30 for i in range(300)]
    assert len(taken(ReadOptions(max_fps=20), even)) == 200
    assert len(taken(ReadOptions(max_fps=7), even)) in (70, 71)
    assert taken(ReadOptions(max_fps=15), even)[:4] == [0, 2, 4, 6]
    assert taken(ReadOptions(max_fps=10), even)[:4] == [0, 3, 6, 9]
    uneven = [time_ms + (0, 8, 16)[i % 3] for i, time_ms in enumerate(even)]
    for rate in (30, 60):
        assert taken(ReadOptions(max_fps=rate), uneven) == list(range(300))
    # seconds count from the first frame
    clip = [40.0 * i for i in range(125)]
    assert taken(ReadOptions(max_fps=1), clip) == [0, 25, 50, 75, 100]
    assert taken(ReadOptions(max_fps=2), clip)[:4] == [0, 12, 25, 37]
    late = [*even[:30], *(5000 + time_ms for time_ms in even)]
    assert len(taken(ReadOptions(max_fps=10), late)) in range(108, 113)
    assert ReadOptions(max_fps=10, every=2).taken_fps(30) == 10
    assert ReadOptions(max_fps=20, every=2).taken_fps(30) == 15


def test_every_counts_from_the_first_frame_of_the_source() -> None:
    """Guards the numbers that --every counts, which are the source's own even after --start."""
    assert taken(ReadOptions(every=4, start_s=0.2), [40.0 * i for i in range(15)]) == [8, 12]
    assert ReadOptions(start_s=2, duration_s=3).end_s == 5
    assert ReadOptions(start_s=2).end_s == math.inf


@pytest.mark.parametrize(
    "wrong",
    [
        {"every": 0},
        {"max_fps": 0},
        {"duration_s": -1},
        {"timeout_s": math.inf},
        {"start_s": -1},
        {"start_s": math.nan},
        {"policy": "some"},
        {"raw": (0, 480)},
    ],
)
def test_invalid_options_are_refused(wrong: dict[str, Any]) -> None:
    """Guards Python users against options that would read nothing, or read forever."""
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be"):
        ReadOptions(**wrong)


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("rtsp://admin:s3cret@10.0.0.5:554/live", "rtsp://***@10.0.0.5:554/live"),
        ("rtsp://admin@10.0.0.5/live", "rtsp://***@10.0.0.5/live"),
        ("http://cam/v.mjpg?user=admin&pwd=s3cret&channel=1", "http://cam/v.mjpg?user=***&pwd=***&channel=1"),
        ("http://cam/v?token=s3/cret&channel=1", "http://cam/v?token=***&channel=1"),
        ("http://cam/v?loginuse=admin&loginpas=s3cret", "http://cam/v?loginuse=***&loginpas=***"),
        ("rtsp://cam/user=admin&password=s3cret&channel=1.sdp", "rtsp://cam/user=***&password=***&channel=1.sdp"),
        ("rtsp://cam/user=admin_password=s3cret_channel=1.sdp", "rtsp://cam/user=***"),
        ("https://cam/v?access_token=x;s3cret#cret&c=1", "https://cam/v?access_token=***&c=1"),
        ("http://cam/v?u=admin&P=s3cret&sid=s3&codec=h264&cup=2", "http://cam/v?u=***&P=***&sid=***&codec=h264&cup=2"),
        ("srt://cam:8890?streamid=read:cam:admin:s3cret", "srt://cam:8890?streamid=***"),
        ("http://nas/api?cameraId=1&_sid=s3cret", "http://nas/api?cameraId=1&_sid=***"),
        ("http://cam/a.m3u8?hdnts=exp=1~hmac=s3cret&psw=s3&pas=cret", "http://cam/a.m3u8?hdnts=***&psw=***&pas=***"),
        # characters that should have been escaped are handled, too
        ("rtsp://admin:s3cret@home@cam/live", "rtsp://***@cam/live"),
        ("rtsp://admin:s3/cret@cam/live", "rtsp://***@cam/live"),
        ("RTSP://admin:s3cret@[fe80::1]/live", "RTSP://***@[fe80::1]/live"),
        ("http://cam:81/videostream.cgi", "http://cam:81/videostream.cgi"),
    ],
)
def test_nothing_secret_is_shown(name: str, public: str) -> None:
    """Guards user names and passwords: in the address itself, in its query, and where they are not escaped."""
    assert is_live(name)
    assert redacted(name) == public
    for secret in ("s3", "cret", "admin"):
        assert secret not in public
        assert secret not in file_name(name)


@pytest.mark.parametrize(
    ("typed", "public"),
    [
        (" http://admin:s3cret@cam/v", "***@cam/v"),
        ('"rtsp://admin:s3cret@cam/v"', '***@cam/v"'),
        ("http:/admin:s3cret@cam/v?token=s3", "***@cam/v?token=***"),
        ("'http://cam/v?pwd=s3cret'", "'http://cam/v?pwd=***"),
        ("admin:s3cret@cam/v", "***@cam/v"),
        # names of files that do not exist
        ("C:\\photos\\x@2.jpg", "C:\\photos\\x@2.jpg"),
        ("a@b?pwd=x.jpg", "a@b?pwd=x.jpg"),
        ("photos/user=5.jpg", "photos/user=5.jpg"),
    ],
)
def test_a_mistyped_address_shows_nothing_secret_either(typed: str, public: str) -> None:
    """Guards the message for a file that does not exist, which would quote the password."""
    assert not is_live(typed)
    assert redacted_unknown(typed) == public
    (source,) = open_sources([typed])
    assert source.name == public
    assert source.problem in ("no such file or folder", "no photo or clip in what this pattern matches")
    assert not re.search("admin|s3|cret", str(source.save_as))


def test_cameras_and_addresses_are_live_sources() -> None:
    """Guards what is not taken for a file: one or two digits, /dev/videoN and addresses, nothing else."""
    for name in ("0", "12", "/dev/video0", "rtsp://x", "udp://h:9", "foo://x"):
        assert is_live(name), name
    for name in ("./0", "2024", "0.jpg", "-", "/dev/video", "C:\\x", "C://x", "a:b.jpg", "video0", "photos/0", ""):
        assert not is_live(name), name
    assert redacted("a@b?pwd=x.jpg") == "a@b?pwd=x.jpg"
    assert address_problem("foo://x") == (
        "is an address with an unknown scheme: facexp reads http, https, rtsp, rtsps, rtmp, rtmps, rtp, tcp, udp"
    )
    assert address_problem("RTSP://x") is address_problem("0") is address_problem("http://ümlaut/x y") is None
    # OpenCV ends the process where an address is not valid UTF-8
    assert "write them as %XX" in str(address_problem(os.fsdecode(b"http://x/\xe9")))
    assert file_name("0") == "camera-0"
    assert file_name("/dev/video2") == "dev-video2"
    assert file_name("rtsp://u:p@10.0.0.5:554/live.sdp?x=1") == "rtsp-10-0-0-5-554-live-sdp-x-1"
    assert file_name("-") == "stdin"
    assert file_name("http://x/" + "写" * 100) == "http-x-" + "写" * 31
