"""From names to pictures: what is found, in which order, under which name it is saved, and what is refused."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path, PurePath
from unittest.mock import patch

import cv2
import numpy as np
import pytest

from facexp.address import printable
from facexp.errors import SourceError
from facexp.reading import ReadOptions
from facexp.sinks.clip_file import SinkError
from facexp.sinks.pictures import PictureSink
from facexp.sources import MEDIA, listed, open_sources
from facexp.sources.globs import folders, real_path
from facexp.sources.shots import Source


def write_picture(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(path.suffix, np.full((8, 10, 3), value, np.uint8))
    assert ok
    path.write_bytes(data.tobytes())
    return path


def problem(path: Path | str | Source) -> str:
    """Return the one-line error of reading this name."""
    (source,) = (path,) if isinstance(path, Source) else open_sources([str(path)])
    with pytest.raises(SourceError) as caught:
        list(source.shots())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a folder `album` of pictures and other files."""
    monkeypatch.chdir(tmp_path)
    for name in ("p10.jpg", "p2.JPG", "P1.png", "sub/p3.bmp", "sub/deep/p4.png", ".hidden.jpg", ".cache/p5.jpg"):
        path = write_picture((tmp_path / "album" / name).with_suffix(Path(name).suffix.lower()))
        path.rename(tmp_path / "album" / name)
    for name in ("notes.txt", "labels.csv", "sub/code.py", "jpg"):
        (tmp_path / "album" / name).write_text("no picture")
    return tmp_path


def test_folders_are_searched_recursively_in_natural_order(tree: Path) -> None:
    """Guards which files of a folder are read: media by suffix, none hidden, 2 before 10, files before folders."""
    found = list(open_sources(["album"]))
    names = ["P1.png", "p2.JPG", "p10.jpg", "sub/p3.bmp", "sub/deep/p4.png"]
    assert [source.name for source in found] == [str(PurePath("album", name)) for name in names]
    assert [source.save_as for source in found] == [PurePath("album", name) for name in names]
    assert all(next(source.shots()).image.shape == (8, 10, 3) for source in found)


def test_results_keep_the_folder_name_however_it_is_given(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards --save's names for `.`, `..` and a trailing slash."""
    monkeypatch.chdir("album/sub")
    assert next(open_sources(["."])).save_as == PurePath("sub/p3.bmp")
    assert next(open_sources([".."])).save_as == PurePath("album/P1.png")
    assert next(open_sources(["../sub/"])).save_as == PurePath("sub/p3.bmp")
    assert next(open_sources([str(tree / "album" / "sub" / "p3.bmp")])).save_as == PurePath("p3.bmp")


def test_globs_find_what_they_match(tree: Path) -> None:
    """Guards quoted globs: one level, recursive, folders, and the structure after the fixed part."""

    def found(pattern: str) -> list[tuple[str, str]]:
        return [(source.name, str(source.save_as)) for source in open_sources([pattern])]

    assert found("album/*.jpg") == [("album/p10.jpg", "p10.jpg")]
    assert found("album/**/*.png") == [("album/P1.png", "P1.png"), ("album/sub/deep/p4.png", "sub/deep/p4.png")]
    assert found("alb*") == [(f"album/{name}", f"album/{name}") for name in _ALL]
    assert [name for name, _ in found("./album/*/")] == [f"album/{name}" for name in _ALL[3:]]
    assert sorted(found("album/*")) == sorted((f"album/{name}", name) for name in _ALL)
    assert found(str(tree / "album" / "*.jpg")) == [(str(tree / "album" / "p10.jpg"), "p10.jpg")]
    # an ending that a pattern spells out is accepted, as in a plain name
    Path("album/p5.ts").touch()
    assert found("album/*.ts") == [("album/p5.ts", "p5.ts")]
    assert "album/p5.ts" not in [name for name, _ in found("album/*")]
    Path("album/p5.ts").unlink()
    # a name that exists is never a pattern
    write_picture(Path("a[1].png"))
    assert found("a[1].png") == [("a[1].png", "a[1].png")]
    # ** stands for any number of folders, including none, and may be repeated
    write_picture(Path("album/sub/deep/more/p6.png"))
    assert [name for name, _ in found("alb*/**/deep/*.png")] == ["album/sub/deep/p4.png"]
    assert [name for name, _ in found("**/deep/**/*.png")] == ["album/sub/deep/p4.png", "album/sub/deep/more/p6.png"]
    assert [name for name, _ in found("album/sub/**")] == [name for name, _ in found("album/sub")]


_ALL = ["P1.png", "p2.JPG", "p10.jpg", "sub/p3.bmp", "sub/deep/p4.png"]


def test_a_path_object_that_exists_is_a_file(tree: Path) -> None:
    """Guards Path("./0"), whose ./ pathlib drops: a folder of class 0, not the first camera."""
    assert [source.address for source in open_sources([Path("0"), Path("/dev/video0")])] == ["0", "/dev/video0"]
    write_picture(Path("0/a.png"))
    for name in ("@b.png", "7", "-"):
        write_picture(Path("b.png")).rename(name)
    found = list(open_sources([Path("./0"), Path("@b.png"), Path("7"), Path("-")]))
    assert [source.name for source in found] == ["0/a.png", "./@b.png", "./7", "./-"]
    assert all(next(source.shots()).image.shape == (8, 10, 3) for source in found)


def test_a_list_is_read_as_if_typed(tree: Path) -> None:
    """Guards @list.txt: each line as if typed, with blanks, comments, Windows line ends and odd names."""
    lines = ["# some", "", "album/p2.JPG", "  album/sub ", "album/*.jpg", "rtsp://u:p@cam/1", "0", "./0", "@more.txt"]
    Path("lists").mkdir()
    Path("lists/x.txt").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8", newline="")
    write_picture(Path("0.png")).rename("0")
    found = list(open_sources(["@lists/x.txt", "album/P1.png"]))
    names = ["album/p2.JPG", "album/sub/p3.bmp", "album/sub/deep/p4.png", "album/p10.jpg", "rtsp://***@cam/1", "0"]
    assert [source.name for source in found] == [*names, "./0", "@more.txt", "album/P1.png"]
    assert [source.address for source in found[3:7]] == [None, "rtsp://u:p@cam/1", "0", None]
    assert "u:p" not in repr(found)
    assert found[7].problem == "a list inside a list is not read"
    assert next(found[6].shots()).image.shape == (8, 10, 3)
    # what a list names is as safe from being overwritten as what is named directly
    with pytest.raises(SinkError, match="results would mix"):
        PictureSink(Path("album/sub"), ["@lists/x.txt"])
    assert PictureSink(Path("lists"), ["@lists/x.txt"])._is_source(Path("album/p2.JPG"))
    write_picture(Path("@x.png"))
    Path("empty.txt").write_text("# nothing\n")
    hint = "(a file of this name is written ./@{})"
    assert problem("@@x.png") == f"@@x.png: is not a list: it is not a text file {hint.format('@x.png')}"
    assert problem("@gone") == f"@gone: this list cannot be read: No such file or directory {hint.format('gone')}"
    assert problem("@empty.txt") == "@empty.txt: this list contains no names"
    assert next(next(open_sources(["./@x.png"])).shots()).image.shape == (8, 10, 3)


def test_blanks_around_the_names_of_a_list_are_removed_unless_they_belong_to_a_file(tree: Path) -> None:
    """Guards photos whose own names begin or end with a blank, and lists that were indented by hand."""
    own = [" own.png", "own.png ", "\u3000own.png", " 0", "\t*.jpg"]
    for name in own:
        write_picture(Path("x.png")).rename(name)
    typed = [" rtsp://cam/1 ", " 7", " - ", "\talbum/sub/*.bmp ", " @more.txt", "album/P1.png ", " # none", " gone.jpg"]
    Path("x.txt").write_bytes("\r\n".join([*own, *typed]).encode())
    found = list(open_sources(["@x.txt"]))
    names = ["rtsp://cam/1", "7", "-", "album/sub/p3.bmp", "@more.txt", "album/P1.png", " gone.jpg"]
    assert [source.name for source in found] == [*own, *names]
    assert [source.address for source in found if source.address] == names[:3]
    assert all(next(source.shots()).image.shape == (8, 10, 3) for source in found[: len(own)])


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="pipes have no names here")
def test_a_list_from_a_pipe_is_read_once(tree: Path) -> None:
    """Guards `find | facexp-infer @/dev/stdin`: nothing is read twice, and names are passed on as they were listed."""
    names = [f"album/{'x' * 300}{number}.jpg" for number in range(9)]
    end, start = os.pipe()
    os.write(start, "\n".join([*names, "@more.txt"]).encode())
    os.close(start)
    found = list(listed([f"@/dev/fd/{end}", "album"]))
    os.close(end)
    assert [name for name, _ in found] == [*names, "@more.txt", "album"]
    assert [source.problem for source in open_sources(found)][9] == "a list inside a list is not read"


def test_the_results_folder_is_left_out(tree: Path) -> None:
    """Guards a second run of `facexp-infer . --save out`, which must not analyse its own pictures."""
    write_picture(Path("album/out/p1.jpg"))
    for name in ("album", "album/**/*.jpg", "alb*"):
        assert not any("out" in source.name for source in open_sources([name], Path("album/out")))
        assert any("out" in source.name for source in open_sources([name]))
    # a file that is named directly is always read
    assert [source.name for source in open_sources(["album/out/p1.jpg"], Path("album/out"))] == ["album/out/p1.jpg"]
    # also if it is reached by another path
    Path("album/way").symlink_to(tree / "album" / "out")
    Path("album/back.jpg").symlink_to(tree / "album" / "out" / "p1.jpg")
    for name in ("out/*", "o*/*", "*/../out/p1.jpg", "way/*", "w*/*", "**/p1.jpg", "bac*"):
        (source,) = open_sources([f"album/{name}"], Path("album/out"))
        assert source.problem == "no photo or clip in what this pattern matches", name


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links")
def test_links_are_followed_but_not_in_circles(tree: Path) -> None:
    """Guards against a folder that is linked into itself."""
    Path("album/sub/loop").symlink_to(tree / "album")
    Path("album/linked").symlink_to(write_picture(tree / "other" / "p9.png").parent)
    for name in ("album", "album/**", "alb*/**/*.*"):
        assert [source.name for source in open_sources([name])] == [
            f"album/{name}" for name in ["P1.png", "p2.JPG", "p10.jpg", "linked/p9.png", *_ALL[3:]]
        ]
    # hidden names are found if the pattern spells them out
    assert [source.name for source in open_sources(["alb*/**/.cache/*"])] == ["album/.cache/p5.jpg"]
    assert [source.name for source in open_sources(["**/.*.jpg"])] == ["album/.hidden.jpg"]


def test_folders_deeper_than_the_recursion_limit_are_searched(tree: Path) -> None:
    """Guards a run's other photos where folders are nested very deeply, in the end too deeply to be opened."""
    names, limit = [*"d" * 300, *["n" * 250] * 15], sys.getrecursionlimit()
    os.chdir("album/sub/deep")
    for name in names:
        os.mkdir(name)  # noqa: PTH102
        os.chdir(name)
    os.chdir(tree)
    sys.setrecursionlimit(280)
    try:
        for pattern in ("album", "alb*/**"):
            *found, last = open_sources([pattern])
            assert [source.name for source in found] == [f"album/{name}" for name in _ALL]
            assert last.problem == "cannot be read: File name too long"
            assert last.name.startswith(f"album/sub/deep{'/d' * 300}/nnn")
    finally:
        sys.setrecursionlimit(limit)
        # pytest removes folders recursively, which would fail here
        for name in ("album/sub/deep", *names):
            os.chdir(name)
        for name in reversed(names):
            os.chdir("..")
            os.rmdir(name)  # noqa: PTH106


def test_a_deep_path_is_resolved_once(tree: Path) -> None:
    """Guards the time that a deep tree takes: only links are resolved from the root, not each folder."""
    Path("album/linked").symlink_to(write_picture(tree / "other" / "p9.png").parent)
    with patch("facexp.sources.globs.real_path", wraps=real_path) as follow:
        assert len(list(folders(Path("album")))) == 4
    assert [str(call.args[0]) for call in follow.call_args_list] == ["album", "album/linked"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links")
def test_a_broken_link_leaves_the_other_photos(tree: Path) -> None:
    """Guards the good photos of a folder, and the reason given for the bad one."""
    for name in ("loop.jpg", "loop"):
        Path("album", name).symlink_to(name)
    bad = {f"album/{name}: cannot be read: Too many levels of symbolic links" for name in ("loop.jpg", "loop")}
    found = list(open_sources(["album"], Path("album/loop/out")))
    assert {name for name in (source.name for source in found) if "loop" not in name} == {f"album/{x}" for x in _ALL}
    assert {problem(source) for source in found if "loop" in source.name} == bad
    assert problem("album/loop") in bad
    assert len(list(open_sources(["album/*"], Path("album/loop/out")))) == len(_ALL) + 1


def test_names_that_match_nothing_are_errors(tree: Path) -> None:
    """Guards against an empty result that looks like success."""
    Path("empty").mkdir()
    write_picture(Path("hidden/.p1.jpg"))
    assert problem("nowhere.jpg") == "nowhere.jpg: no such file or folder"
    assert problem("nothing/*.jpg") == "nothing/*.jpg: no photo or clip in what this pattern matches"
    assert problem("album/*.xyz") == "album/*.xyz: no photo or clip in what this pattern matches"
    assert problem("album/*.csv") == "album/labels.csv: is not a photo or clip in a format that facexp reads"
    assert problem("empty") == "empty: no photo or clip in this folder"
    assert problem("hidden") == "hidden: no photo or clip in this folder"
    assert problem("") == ": no such file or folder"
    Path("dangling.jpg").symlink_to("gone.jpg")
    assert problem("dangling.jpg") == "dangling.jpg: no such file or folder"


def test_content_decides_not_the_suffix(tree: Path) -> None:
    """Guards renamed files: a JPEG called .png, a PNG called .mp4, a clip called .jpg, and texts called anything."""
    for name, real in (("a.png", ".jpg"), ("b.mp4", ".png"), ("c.dat", ".bmp"), ("d.mjpeg", ".png")):
        write_picture(tree / f"x{real}").rename(name)
        assert next(open_sources([name])).shots().__next__().fps is None
    writer = cv2.VideoWriter("x.mp4", cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(3):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    shutil.move("x.mp4", "x.jpg")
    shots = list(next(open_sources(["x.jpg"])).shots())
    assert [(shot.index, shot.time_ms, shot.fps, shot.total) for shot in shots] == [
        (0, 0.0, 10.0, 3),
        (1, 100.0, 10.0, 3),
        (2, 200.0, 10.0, 3),
    ]
    for name in ("t.jpg", "t.mp4", "t.txt"):
        Path(name).write_text("hello world\n" * 50)
        assert problem(name) == f"{name}: is not a photo or clip in a format that facexp reads"


def test_odd_files_are_refused_in_one_line(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards empty files, named pipes (which would block forever), too large files and unreadable ones."""
    Path("empty.jpg").touch()
    assert problem("empty.jpg") == "empty.jpg: is empty (0 bytes)"
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe.jpg")
        assert problem("pipe.jpg") == "pipe.jpg: is neither a file nor a folder"
    with write_picture(Path("huge.jpg")).open("r+b") as file:
        file.truncate((1 << 30) + 1)
    assert problem("huge.jpg") == "huge.jpg: is too large: photo files of at most 1024 MB are read"
    long = "x" * 300
    assert problem(long) == f"{long}: cannot be read: File name too long"
    assert problem(f"{long}*") == f"{long}*: no photo or clip in what this pattern matches"
    assert problem("empty.jpg/x.jpg") == "empty.jpg/x.jpg: no such file or folder"

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    write_picture(Path("secret.jpg"))
    monkeypatch.setattr(Path, "open", refuse)
    assert problem("secret.jpg") == "secret.jpg: no permission to read it"
    monkeypatch.setattr(os, "scandir", refuse)
    assert problem("album") == problem("album/**/*.jpg") == "album: no permission to read it"
    monkeypatch.setattr(Path, "stat", refuse)
    assert problem("album/secret.jpg") == "album/secret.jpg: no permission to read it"


def test_files_with_unusual_names_are_read(tree: Path) -> None:
    """Guards names beyond ASCII, with a colon (FFmpeg's protocol sign), percent, line break, invalid UTF-8."""
    writer = cv2.VideoWriter("x.mp4", cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    files = [Path("x.mp4"), *(write_picture(tree / f"x{suffix}") for suffix in (".jpg", ".png", ".tif"))]
    broken = os.fsdecode(b"n\xff")
    Path(broken).mkdir()
    for stem in ("Grüße 😀", "http:x", "p%03d", "line\nbreak", broken, f"{broken}/x"):
        for file in files:
            name = f"{stem}{file.suffix}"
            Path(name).write_bytes(file.read_bytes())
            (shot,) = Source(name, PurePath("x")).shots()
            assert shot.source == name
    assert problem(f"{broken}.webp") == r"'n\udcff.webp': no such file or folder"
    # a pattern finds those that it matches, too
    assert len(list(open_sources(["./*n*.jpg"]))) == 2
    assert printable("line\nbreak") == r"'line\nbreak'"
    assert printable("Grüße 😀.png") == "Grüße 😀.png"


def test_pages_and_animations(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guards the choice made: a TIFF's first page with a warning, all frames of a GIF with their times."""
    pages = [np.full((8, 10), 40 * i, np.uint8) for i in range(1, 4)]
    assert cv2.imwritemulti("pages.tif", pages)
    with caplog.at_level(logging.WARNING, "facexp"):
        (shot,) = Source("pages.tif", PurePath("x")).shots()
    assert (shot.image == 40).all()
    assert caplog.messages == ["pages.tif: has 3 pages, only the first is read"]
    animation = cv2.Animation()
    animation.frames = [np.full((8, 10, 4), (40 * i, 0, 0, 255), np.uint8) for i in range(1, 6)]
    animation.durations = np.array([70, 10, 200, 40, 40], np.int32)  # type: ignore[assignment]
    assert cv2.imwriteanimation("x.gif", animation)
    shots = list(Source("x.gif", PurePath("x")).shots(ReadOptions(every=2)))
    # a frame that claims 10 ms is shown for 100
    assert [(shot.index, shot.time_ms, shot.total) for shot in shots] == [(0, 0, 5), (2, 170, 5), (4, 410, 5)]
    assert [round(float(shot.image[..., 0].mean()) / 40) for shot in shots] == [1, 3, 5]
    part = Source("x.gif", PurePath("x")).shots(ReadOptions(start_s=0.1, duration_s=0.3))
    assert [shot.index for shot in part] == [2, 3]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "facexp"):
        assert list(Source("x.gif", PurePath("x")).shots(ReadOptions(start_s=5))) == []
    assert caplog.messages == ["x.gif: no frame to read: reading starts at 5 s"]
    with pytest.raises(ValueError, match="every must be a whole number of at least 1, got 0"):
        ReadOptions(every=0)
    with pytest.raises(ValueError, match=r"every must be a whole number of at least 1, got 1.5"):
        ReadOptions(every=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="raw must be a width and a height"):
        ReadOptions(raw=(4,))  # type: ignore[arg-type]


def test_one_name_instead_of_a_list_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a string instead of a list, whose letters would be the current folder and cameras; a path is one name."""
    monkeypatch.chdir(tmp_path)
    Path("clip0.mp4").touch()
    for one in ("clip0.mp4", Path("clip0.mp4")):
        with pytest.raises(ValueError, match="names must be several names, got one"):
            list(open_sources(one))  # type: ignore[arg-type]
    assert [(source.name, source.problem) for source in open_sources([Path("clip0.mp4")])] == [("clip0.mp4", None)]


def test_media_are_recognised_by_their_suffix() -> None:
    """Guards the list of suffixes that folders are searched for."""
    pictures = ("jpg", "JPEG", "png", "gif", "tif", "tiff", "webp", "avif", "heic")
    for suffix in (*pictures, "mp4", "MOV", "mkv", "avi", "h264", "264"):
        assert MEDIA.fullmatch(f"a.{suffix}"), suffix
    for name in ("a.txt", "a.jpg.txt", "jpg", ".jpg", "a.mp3", "a.ts", "a.pdf", "a.jpgx"):
        assert not MEDIA.fullmatch(name), name


@pytest.mark.data
def test_the_odd_samples_are_read_or_refused(data_dir: Path) -> None:
    """Guards every odd sample: each is read as a person sees it, or refused for its real reason."""
    odd = data_dir / "samples" / "odd"
    intact = [path for path in odd.iterdir() if path.name != "truncated.jpg"]
    frames = {path.name: list(Source(str(path), PurePath(path.name)).shots()) for path in intact}
    assert {name: (len(shots), shots[0].image.shape[:2]) for name, shots in frames.items()} == {
        "_blobs_3d_fiji_skeleton.tif": (1, (32, 32)),
        "bw_text.png": (1, (333, 516)),
        "chessboard_GRAY_U16.tif": (1, (200, 200)),
        "color.png": (1, (370, 371)),
        "green_palette.png": (1, (240, 320)),
        "multipage.tif": (1, (15, 10)),
        "no_time_for_that_tiny.gif": (24, (25, 14)),
        "palette_color.png": (1, (10, 10)),
    }
    # 8-bit values in a 16-bit file: divided by 257 they would be black
    chessboard = frames["chessboard_GRAY_U16.tif"][0].image
    assert (chessboard.min(), chessboard.max()) == (0, 255)
    assert problem(odd / "truncated.jpg").endswith("truncated.jpg: is cut short: the JPEG data end early")
