"""Annotated files: their names and frame rates, never over a source, never half written."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facexp.reading import ReadOptions
from facexp.sinks.clip_file import SinkError
from facexp.sinks.pictures import PictureSink, save_picture
from facexp.sources.shots import Shot, Source
from facexp.types import Frame
from sink_files import files, frame, read_clip

GRAY = np.full((360, 480, 3), 90, np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(sink: PictureSink, name: str, image: NDArray[np.uint8] = GRAY, save_as: str | None = None) -> None:
    shot = Shot(name, PurePath(save_as or Path(name).name), 0, 0.0, image)
    sink.write(frame(shot), shot)


def write_clip(
    sink: PictureSink, name: str, times_ms: list[float], fps: float, size: tuple[int, int] = (480, 360)
) -> None:
    for index, time_ms in enumerate(times_ms):
        value = 20 + 20 * (index % 11)
        shot = Shot(name, PurePath(name), index, time_ms, np.full((size[1], size[0], 3), value, np.uint8), fps)
        sink.write(frame(shot), shot)


def test_pictures_keep_their_names_and_formats() -> None:
    """Guards the names: the folders stay, and a format that cannot be written gets .png after its name."""
    with PictureSink(Path("out")) as sink:
        for name in ("a.jpg", "b.PNG", "c.tiff", "d.avif", "e", "f.jpg.part"):
            write(sink, name, save_as=f"album/{name}")
    assert files("out") == [
        f"album/{name}" for name in ("a.jpg", "b.PNG", "c.tiff", "d.avif.png", "e.png", "f.jpg.part.png")
    ]
    for name in files("out"):
        image = cv2.imread(f"out/{name}")
        assert image is not None
        assert np.abs(image.astype(int) - 90).max() <= 1


def test_sources_with_the_same_name_get_separate_files() -> None:
    """Guards against silent loss, also if names differ by case or extension alone, or look like a numbered one."""
    with PictureSink(Path("out")) as sink:
        for folder in "abc":
            write(sink, f"{folder}/x.png")
        write(sink, "d/X.png")
        write(sink, "d/x-2.png")
        write_clip(sink, "x.mov", [0, 40], 25)
        write_clip(sink, "x.mkv", [0, 40], 25)
    assert files("out") == ["X-4.png", "x-2-2.png", "x-2.mp4", "x-2.png", "x-3.png", "x.mp4", "x.png"]


def test_a_second_run_replaces_the_results_of_the_first() -> None:
    """Guards against stale pictures next to new ones."""
    for value in (50, 200):
        with PictureSink(Path("out"), ["album"]) as sink:
            write(sink, "x.png", np.full((360, 480, 3), value, np.uint8))
    assert files("out") == ["x.png"]
    assert (cv2.imread("out/x.png") == 200).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("source", ["album/x.png", "./album/x.png", "other/../album/x.png", "link.png"])
def test_a_source_is_never_overwritten(source: str) -> None:
    """Guards the user's own photo, however its path is written."""
    Path("other").mkdir()
    save_picture(Path("out/album/x.png"), np.full((9, 9, 3), 7, np.uint8))
    Path("album").symlink_to("out/album")
    Path("link.png").symlink_to("album/x.png")
    before = Path("album/x.png").read_bytes()
    with PictureSink(Path("out"), [source]) as sink:
        write(sink, source, save_as="album/x.png")
    assert Path("album/x.png").read_bytes() == before
    assert Path("album/x-2.png").exists()


def test_pictures_inside_a_source_folder_are_never_overwritten() -> None:
    """Guards a folder that is a source of the same run and has not been read yet."""
    save_picture(Path("out/deep/x/x.png"), GRAY)
    before = Path("out/deep/x/x.png").read_bytes()
    with PictureSink(Path("out"), ["other", "out/deep/x"]) as sink:
        write(sink, "other/x.png", np.full((360, 480, 3), 7, np.uint8), save_as="deep/x/x.png")
    assert Path("out/deep/x/x.png").read_bytes() == before
    assert Path("out/deep/x/x-2.png").exists()


def test_results_do_not_mix_with_the_sources() -> None:
    """Guards `facexp-infer album --save album`, and `--save .`, where album's results would lie in album itself.

    Likewise `facexp-infer photo.jpg --save .`: files next to the photo are the user's own, not an earlier run's.
    """
    Path("album").mkdir()
    Path("photo.jpg").touch()
    Path("album/linked.jpg").symlink_to("../photo.jpg")
    folders = [(".", "album"), ("album", "album"), ("album", "album/*.jpg"), ("album", "./album/")]
    photos = [(".", "photo.jpg"), (".", "album/../photo.jpg"), ("album", "album/linked.jpg"), (".", "album/linked.jpg")]
    for folder, source in folders + photos:
        with pytest.raises(SinkError, match="results would mix with the pictures in"):
            PictureSink(Path(folder), [source])
    apart = [("album/out", "album"), ("out", "album"), ("out", "."), (".", "album/*.jpg"), ("out", "photo.jpg")]
    for folder, source in apart:
        with PictureSink(Path(folder), [source]):
            assert Path(folder).is_dir()
    os.chdir("album")
    PictureSink(Path(), [".."])


def test_circular_links_do_no_harm() -> None:
    """Guards against a traceback where a source's path cannot be resolved."""
    Path("loop").symlink_to("loop")
    with PictureSink(Path("out"), ["loop", "loop/x.png", "x" * 300, "x" * 300 + "*"]) as sink:
        write(sink, "x.png")
    assert files("out") == ["x.png"]
    with pytest.raises(SinkError, match="loop: this folder cannot be made"):
        PictureSink(Path("loop"))


def test_a_clip_keeps_its_rate_and_its_frames() -> None:
    """Guards the length of a saved clip and the order of its frames."""
    times = [40.0 * i for i in range(50)]
    with PictureSink(Path("out")) as sink:
        write_clip(sink, "x.mov", times, 25)
        assert files("out") != ["x.mp4"]
    assert files("out") == ["x.mp4"]
    fps, frames, size = read_clip("out/x.mp4")
    assert (fps, len(frames), size) == (25, 50, (480, 360))
    assert frames == pytest.approx([20 + 20 * (i % 11) for i in range(50)], abs=8)


def test_a_clip_of_a_variable_rate_keeps_its_timing() -> None:
    """Guards phone and screen recordings: each frame is shown until the time of the next."""
    with PictureSink(Path("out")) as sink:
        write_clip(sink, "x.mp4", [1000, 1040, 1240, 1250, 1280, 1400], 25)
    _, frames, _ = read_clip("out/x.mp4")
    shown = [round((value - 20) / 20) for value in frames]
    assert len(frames) == 11
    assert shown == [0, 1, 1, 1, 1, 1, 2, 4, 4, 4, 5]


def test_an_animation_keeps_the_time_of_its_last_frame() -> None:
    """Guards the pause at the end of most animations, which is cut only where reading ends."""
    animation = cv2.Animation()
    animation.frames = [np.full((24, 32, 4), (80 * i, 80 * i, 80 * i, 255), np.uint8) for i in range(1, 4)]
    animation.durations = np.array([100, 100, 600], np.int32)  # type: ignore[assignment]
    assert cv2.imwriteanimation("x.gif", animation)
    for options, count in ((ReadOptions(), 40), (ReadOptions(duration_s=0.5), 25), (ReadOptions(duration_s=0.2), 10)):
        with PictureSink(Path("out")) as sink:
            for shot in Source("x.gif", PurePath("x.gif")).shots(options):
                sink.write(frame(shot), shot)
        fps, frames, _ = read_clip("out/x.mp4")
        assert (fps, len(frames)) == (50, count)
        assert [round(value / 80) for value in frames] == ([1] * 5 + [2] * 5 + [3] * 30)[:count]


@pytest.mark.parametrize("fps", [237.634, 99.857, 24000 / 1001, 0.0001])
def test_a_clip_of_any_rate_can_be_saved(fps: float) -> None:
    """Guards rates that MPEG-4 cannot store exactly: frames are counted at the rate that is written."""
    with PictureSink(Path("out")) as sink:
        write_clip(sink, "x.mp4", [1000 * i / fps for i in range(12)], fps)
        assert sink._clip is not None
        rate = sink._clip._fps
    written, frames, _ = read_clip("out/x.mp4")
    assert written == pytest.approx(rate, rel=1e-9)
    assert len(frames) == 12


def test_a_broken_time_stamp_does_not_fill_the_disk() -> None:
    """Guards against a jump of an hour: a pause is shown for ten seconds, and the timing continues after it."""
    with PictureSink(Path("out")) as sink:
        write_clip(sink, "x.mp4", [0, 40, 3_600_000, 3_600_040, 3_600_080], 25)
    assert len(read_clip("out/x.mp4")[1]) == 2 + 250 + 2


@pytest.mark.parametrize(("size", "saved"), [((481, 361), (482, 362)), ((14, 25), (182, 326)), ((1, 1), (320, 320))])
def test_clips_of_odd_sizes_are_not_cropped(size: tuple[int, int], saved: tuple[int, int]) -> None:
    """Guards odd widths and heights, which the codec would crop, and clips too small for it."""
    with PictureSink(Path("out")) as sink:
        write_clip(sink, "x.mp4", [0, 40], 25, size)
    assert read_clip("out/x.mp4")[2] == saved


def test_a_stream_that_changes_its_size_is_kept_whole() -> None:
    """Guards against frames that the writer drops silently."""
    with PictureSink(Path("out")) as sink:
        for index, width in enumerate((480, 640, 480)):
            shot = Shot("x.mp4", PurePath("x.mp4"), index, 40.0 * index, np.full((360, width, 3), 90, np.uint8), 25.0)
            sink.write(frame(shot), shot)
    assert len(read_clip("out/x.mp4")[1]) == 3


def test_a_broken_clip_keeps_its_frames_and_the_next_follows() -> None:
    """Guards the end of a clip: by an error, by another source, by the same source again."""
    with PictureSink(Path("out")) as sink:
        write_clip(sink, "a.mp4", [0, 40, 80], 25)
        sink.write(Frame.unread("a.mp4", 3, "a.mp4: breaks off"))
        assert files("out") == ["a.mp4"]
        write_clip(sink, "b.mp4", [0, 40], 25)
        write_clip(sink, "b.mp4", [0], 25)
        write(sink, "p.png")
    assert files("out") == ["a.mp4", "b-2.mp4", "b.mp4", "p.png"]
    assert [len(read_clip(f"out/{name}.mp4")[1]) for name in ("a", "b", "b-2")] == [3, 2, 1]


def test_nothing_half_written_is_left() -> None:
    """Guards Ctrl-C: neither the unfinished clip nor its temporary file is left."""

    def interrupted() -> None:
        with PictureSink(Path("out")) as sink:
            write(sink, "p.png")
            write_clip(sink, "x.mp4", [0, 40], 25)
            assert len(files("out")) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files("out") == ["p.png"]


def test_two_sinks_in_one_folder_do_not_mix() -> None:
    """Guards two cameras' recordings: containers share process numbers, and so do threads of a program."""
    with PictureSink(Path("out")) as first, PictureSink(Path("out")) as second:
        for index in range(4):
            for sink, value in ((first, 40), (second, 200)):
                image = np.full((360, 480, 3), value, np.uint8)
                shot = Shot(f"{value}.mp4", PurePath(str(value)), index, 40.0 * index, image, 25.0)
                sink.write(frame(shot), shot)
    assert files("out") == ["200.mp4", "40.mp4"]
    for value in (40, 200):
        assert read_clip(f"out/{value}.mp4")[1] == pytest.approx([value] * 4, abs=3)


def test_names_that_become_too_long_are_refused() -> None:
    """Guards the error for a name at the file system's limit to which ".png" or "-2" is added."""
    with PictureSink(Path("out")) as sink:
        with pytest.raises(SinkError, match="cannot be written: File name too long"):
            write(sink, "x.jfif", save_as="x" * 250 + ".jfif")
        write(sink, "a", save_as="x" * 251 + ".png")
        with pytest.raises(SinkError, match="cannot be written: File name too long"):
            write(sink, "b", save_as="x" * 251 + ".png")
        with pytest.raises(SinkError, match="cannot be written: File name too long"):
            write_clip(sink, "x" * 255, [0, 40], 25)
    assert files("out") == ["x" * 251 + ".png"]


def test_what_cannot_be_written_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the reasons given: a folder that is a file, a clip that the codec refuses (once), a full disk."""
    Path("file").write_text("")
    with pytest.raises(SinkError, match="file: this folder cannot be made"):
        PictureSink(Path("file"))
    with (
        PictureSink(Path(os.fsdecode(b"n\xff"))) as sink,
        pytest.raises(SinkError, match="name that is not valid UTF-8"),
    ):
        write_clip(sink, "x.mp4", [0, 40], 25)
    with PictureSink(Path("out")) as sink:
        # root may write everywhere, but not through a dangling link
        part = Path("out/.facexp-2a2a2a2a2a2a.mp4")
        part.symlink_to("gone/x.mp4")
        with monkeypatch.context() as patch:
            patch.setattr(os, "urandom", lambda count: b"*" * count)
            with pytest.raises(SinkError, match=r"x\.mp4: cannot be written: No such file or directory"):
                write_clip(sink, "x.mp4", [0, 40], 25)
        part.unlink()
        Path("out/album").write_text("")
        with pytest.raises(SinkError, match="album: this folder cannot be made"):
            write(sink, "x.png", save_as="album/x.png")
        huge = Shot("h.mp4", PurePath("h.mp4"), 0, 0.0, np.zeros((16, 20000, 3), np.uint8), 25.0)
        with pytest.raises(SinkError, match=r"h\.mp4: OpenCV cannot write a clip of 20000x16"):
            sink.write(frame(huge), huge)
        again = Shot("h.mp4", PurePath("h.mp4"), 1, 40.0, huge.image, 25.0)
        sink.write(frame(again), again)
        write_clip(sink, "x.mp4", [0, 40, 80], 25)
        assert sink._clip is not None
        sink._clip._written = 4
        with pytest.raises(SinkError, match="only 3 of 4 frames could be written: is the disk full"):
            sink.finish()
    assert files("out") == ["album"]


def test_a_clip_that_cannot_be_closed_costs_no_other_picture() -> None:
    """Guards what comes after a clip that filled the disk, which is free again once the clip is removed."""
    message = r"^out/%s\.mp4: only 3 of 4 frames could be written: is the disk full\?$"

    def write_too_large(name: str) -> None:
        write_clip(sink, name, [0, 40, 80], 25)
        assert sink._clip is not None
        sink._clip._written = 4

    with PictureSink(Path("out")) as sink:
        write_too_large("a.mp4")
        with pytest.raises(SinkError, match=message % "a"):
            write(sink, "p.png")
        write_too_large("b.mp4")
        first, second = (Shot("c", PurePath("c"), index, 40.0 * index, GRAY, 25.0) for index in range(2))
        with pytest.raises(SinkError, match=message % "b"):
            sink.write(frame(first), first)
        sink.write(frame(second), second)
    assert files("out") == ["c.mp4", "p.png"]
    assert len(read_clip("out/c.mp4")[1]) == 2


def test_a_picture_that_cannot_be_encoded_is_refused() -> None:
    """Guards the message, which must be printable, and that no temporary file stays."""
    with pytest.raises(SinkError, match="a picture of 9x0 cannot be encoded"):
        save_picture(Path("x.png"), np.zeros((0, 9, 3), np.uint8))
    with pytest.raises(SinkError, match=r"'x\\x1b\[2J\.webp': a picture of 20000x1 cannot be encoded: \.webp does not"):
        save_picture(Path("x\x1b[2J.webp"), np.zeros((1, 20000, 3), np.uint8))
    assert files() == []
