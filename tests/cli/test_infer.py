"""`facexp-infer` as users and programs call it: standard output and error, exit status, and every option."""

from __future__ import annotations

import csv
import gc
import importlib.util
import io
import os
import re
import shutil
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

import tiny_bundle as tiny
from facexp.labels import FIVE, SEVEN
from facexp.sinks.clip_file import SinkError
from facexp.sinks.pictures import save_picture
from facexp_cli.infer import infer
from infer_command import records, write_clip

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, tiny_bundle: Path, astronaut: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs the command in a directory with photo.png, one face, and blank.png, no face."""
    monkeypatch.chdir(tmp_path)
    save_picture(Path("photo.png"), astronaut)
    save_picture(Path("blank.png"), np.full((48, 64, 3), 90, np.uint8))

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(infer, [*arguments, "--bundle", str(tiny_bundle)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def test_piped_output_is_json_lines_and_nothing_else(run: Run) -> None:
    """Guards against anything that would break a program which reads standard output."""
    result = run("photo.png", "blank.png")
    assert result.exit_code == 0
    assert result.stderr == ""
    photo, blank = records(result.stdout)
    assert (photo["source"], photo["width"], photo["height"], photo["device"]) == ("photo.png", 512, 512, "cpu")
    assert len(photo["faces"]) == 1
    assert list(photo["faces"][0]["emotion"]["probabilities"]) == list(SEVEN)
    assert (blank["source"], blank["faces"]) == ("blank.png", [])


def test_a_source_that_cannot_be_read_does_not_stop_the_others(run: Run) -> None:
    """Guards against a missing error record or message, status 0, and lost records of the sources after an error."""
    Path("bad.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(20))
    Path("empty").mkdir()
    result = run("bad.jpg", "gone.png", "*.nope", "empty", "blank.png")
    assert result.exit_code == 1
    *errors, last = records(result.stdout)
    assert [list(error) for error in errors] == [["schema", "source", "frame", "error"]] * 4
    assert [error["source"] for error in errors] == ["bad.jpg", "gone.png", "*.nope", "empty"]
    assert result.stderr.splitlines() == [f"Error: {error['error']}" for error in errors]
    assert last["faces"] == []
    assert "Error: gone.png: no such file or folder" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["photo.png", "--mistyped"],
        ["--fromat", "csv", "photo.png"],
        ["-x", "photo.png"],
        ["photo.png", "--format", "xml"],
        ["photo.png", "--emotions", "six"],
        ["photo.png", "--labels", "mine"],
        ["photo.png", "--device", "tpu"],
        ["photo.png", "--backend", "tensorrt"],
        ["photo.png", "--every", "0"],
        ["photo.png", "--detect-every", "0"],
        ["photo.png", "--smooth", "-1"],
        ["photo.png", "--threads", "0"],
        ["photo.png", "--max-faces", "0"],
        ["photo.png", "--min-score", "1.5"],
        ["photo.png", "--detector", "gone.onnx"],
        ["photo.png", "-q", "-v"],
        ["photo.png", "--save"],
        ["photo.png", "--max-fps", "0"],
        ["photo.png", "--duration", "0"],
        ["photo.png", "--start", "-1"],
        ["photo.png", "--timeout", "0"],
        ["photo.png", "--policy", "newest"],
        ["photo.png", "--raw", "64x48"],
        ["-", "--raw", "64"],
        ["-", "--raw", "0x48"],
        ["photo.png", "--preview", "web"],
        ["photo.png", "--preview", ":8000"],
        ["photo.png", "--preview", "127.0.0.1:65536"],
        [".", "--save", "."],
        ["photo.png", "--threads", "99999999999"],
        ["photo.png", "--min-face", "inf"],
        *(["photo.png", option, "nan"] for option in ("--start", "--duration", "--max-fps", "--timeout", "--smooth")),
        ["photo.png", "--save", "."],
    ],
)
def test_wrong_usage_is_status_2(run: Run, arguments: list[str]) -> None:
    """Guards against a mistyped flag taken for a file, values out of range, and files written despite the error."""
    before = sorted(os.listdir())  # noqa: PTH208
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr
    assert sorted(os.listdir()) == before  # noqa: PTH208


def test_an_invalid_bundle_or_detector_is_reported_in_one_line(run: Run, tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards against a traceback for errors of the runtime, and a status other than 1."""
    Path("x.onnx").write_bytes(b"no model")
    Path("none").mkdir()
    for result in (
        run("photo.png", "--detector", "x.onnx"),
        CliRunner().invoke(infer, ["photo.png", "--bundle", "none"]),
    ):
        assert (result.exit_code, result.stdout) == (1, "")
        assert re.fullmatch(r"Error: .+\n", result.stderr)


def test_raw_applies_to_standard_input_named_in_a_list(run: Run) -> None:
    """Guards against --raw being refused if only a list names standard input, or accepted if nothing does."""
    Path("list.txt").write_text("blank.png\n-\n")
    result = run("@list.txt", "--raw", "64x48")
    assert [record["source"] for record in records(result.stdout)] == ["blank.png", "-"]
    Path("list.txt").write_text("blank.png\n")
    assert run("@list.txt", "--raw", "64x48").exit_code == 2


def test_csv_and_text_output(run: Run) -> None:
    """Guards against wrong rows or lines, and --emotions having no effect on the columns."""
    result = run("photo.png", "blank.png", "--format", "csv", "--emotions", "five")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["face"] for row in rows] == ["0", ""]
    assert [name[5:] for name in rows[0] if name.startswith("prob_")] == list(FIVE)
    result = run("photo.png", "blank.png", "--format", "text")
    assert re.fullmatch(
        r"photo\.png  512x512  1 face\n  0  \w+ +\d+%  \(\w+ \d+%\) +box .+\nblank\.png  64x48  no face\n",
        result.stdout,
    )


def test_a_bundle_with_its_own_labels(run: Run, tmp_path: Path) -> None:
    """Guards against columns other than the bundle's labels, and a traceback for --emotions that it does not know."""
    bundle = str(tiny.build(tmp_path / "own", labels=("calm", "tired")))
    result = CliRunner().invoke(infer, ["photo.png", "--format", "csv", "--bundle", bundle])
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert [name for name in row if name.startswith("prob_")] == ["prob_calm", "prob_tired"]
    assert row["emotion"] in ("calm", "tired")
    result = CliRunner().invoke(infer, ["photo.png", "--emotions", "five", "--bundle", bundle])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "its labels are calm, tired" in result.stderr


def test_options_reach_the_analyzer(run: Run, astronaut: Any) -> None:
    """Guards against --emotions, --min-score, --min-face, --max-faces, --face-crops or --backend having no effect."""

    def faces(*arguments: str) -> list[dict[str, Any]]:
        (record,) = records(run(*arguments).stdout)
        return list(record["faces"])

    save_picture(Path("two.png"), np.concatenate([astronaut, astronaut[::2, ::2].repeat(2, axis=0)], axis=1))
    assert len(faces("two.png")) == 2
    assert len(faces("two.png", "--max-faces", "1")) == 1
    assert faces("photo.png", "--min-score", "1") == []
    assert len(faces("two.png", "--min-face", "80")) == 2
    assert faces("two.png", "--min-face", "300") == []
    (face,) = faces("photo.png", "--emotions", "five", "--threads", "1", "--device", "cpu")
    assert list(face["emotion"]["probabilities"]) == list(FIVE)
    assert "model keypoints has no int8.tflite file" in run("photo.png", "--backend", "litert").stderr
    (crop,) = faces("blank.png", "--face-crops")
    assert (crop["box"], crop["score"]) == ([0.0, 0.0, 64.0, 48.0], 1.0)


def test_options_select_the_frames_of_a_clip(run: Run) -> None:
    """Guards against wrong frames, and records that lack the clip's own frame numbers and times."""
    write_clip("x.mp4")
    assert [record["frame"] for record in records(run("x.mp4").stdout)] == list(range(20))
    found = records(run("x.mp4", "--every", "7").stdout)
    assert [(record["frame"], record["time_ms"]) for record in found] == [(0, 0.0), (7, 700.0), (14, 1400.0)]
    found = records(run("x.mp4", "--start", "0.5", "--duration", "1", "--max-fps", "5").stdout)
    assert [record["frame"] for record in found] == [5, 7, 9, 11, 13]
    assert not any("age_ms" in record for record in found)


def test_sources_after_an_endless_one_give_a_note(run: Run) -> None:
    """Guards against `facexp-infer 0 1` without a note that the second camera is not reached; here with a list."""
    Path("list.txt").write_text("blank.png\n98\nblank.png\n")
    result = run("@list.txt")
    assert [record["source"] for record in records(result.stdout)] == ["blank.png", "98", "blank.png"]
    assert result.stderr.startswith("Note: 98 is read until it ends, and only then the sources after it")
    assert "is read until" not in run("@list.txt", "--duration", "1").stderr
    assert "is read until" not in run("blank.png", "98").stderr


def test_a_preview_on_a_port_in_use_is_wrong_usage(run: Run) -> None:
    """Guards against a traceback for a port that another program uses."""
    pytest.importorskip("uvicorn", reason="the preview comes with the extra `serve`")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("blank.png", "--preview", str(taken.getsockname()[1]))
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.search(r"Error: --preview cannot listen on 127\.0\.0\.1, port \d+: ", result.stderr)


def test_a_preview_open_to_the_network_gives_a_warning(run: Run) -> None:
    """Guards the privacy of the people in the picture: the warning appears even with -q."""
    pytest.importorskip("uvicorn", reason="the preview comes with the extra `serve`")
    result = run("blank.png", "--preview", "0.0.0.0:0", "-q")
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: the preview is open to the network")
    assert "Warning" not in run("blank.png", "--preview", "0").stderr


def test_a_missing_serve_extra_is_reported_in_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a message without the install command."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find_spec(name))
    result = run("blank.png", "--preview", "0")
    assert (result.exit_code, result.stderr) == (1, 'Error: uvicorn is not installed: pip install "facexp[serve]"\n')


def test_save_writes_annotated_photos_and_clips(run: Run) -> None:
    """Guards against wrong file names, pictures without annotation, and a clip that --every makes shorter."""
    Path("album/sub").mkdir(parents=True)
    for name in ("album/a.png", "album/sub/a.png"):
        shutil.copy("photo.png", name)
    write_clip("album/x.mov")
    result = run("album", "album/a.png", "--save", "out", "--every", "5")
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(records(result.stdout)) == 2 + 4 + 1
    files = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file())
    assert files == ["a.png", "album/a.png", "album/sub/a.png", "album/x.mp4"]
    drawn, photo = cv2.imread("out/a.png"), cv2.imread("photo.png")
    assert drawn is not None
    assert photo is not None
    assert (drawn != photo).any()
    capture = cv2.VideoCapture("out/album/x.mp4", cv2.CAP_FFMPEG)
    seconds = capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS)
    assert seconds == pytest.approx(2.0)
    # a second run inside the folder neither reads its own results nor writes over a source
    run("album", "--save", "album/out")
    assert len(records(run("album", "--save", "album/out").stdout)) == 2 + 20


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="pipes have no names here")
def test_a_list_from_a_pipe_is_read_once(run: Run) -> None:
    """Guards against a second, empty reading for --save in `find | facexp-infer @/dev/stdin --save out`."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"blank.png\nphoto.png\n")
    os.close(write_end)
    result = run(f"@/dev/fd/{read_end}", "--save", "out")
    os.close(read_end)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [record["source"] for record in records(result.stdout)] == ["blank.png", "photo.png"]
    assert sorted(path.name for path in Path("out").iterdir()) == ["blank.png", "photo.png"]


def test_a_picture_that_cannot_be_saved_does_not_stop_the_others(run: Run) -> None:
    """Guards against lost records, status 0, or more than one line if an annotated picture cannot be written."""
    Path("out").mkdir()
    Path("out/album").write_text("in the way")
    Path("album").mkdir()
    Path("photo.png").rename("album/a.png")
    result = run("album", "blank.png", "--save", "out")
    assert result.exit_code == 1
    assert len(records(result.stdout)) == 2
    assert result.stderr == "Error: out/album: this folder cannot be made: File exists\n"
    assert Path("out/blank.png").is_file()


def test_faces_of_a_clip_are_tracked(run: Run, astronaut: Any) -> None:
    """Guards against records without ids or smoothed values, and --detect-every or --smooth 0 having no effect."""
    writer = cv2.VideoWriter("face.mp4", cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 10, (512, 512))
    for _ in range(4):
        writer.write(astronaut)
    writer.release()
    for arguments, detector_runs, smoothed in (((), 1, True), (("--detect-every", "2", "--smooth", "0"), 2, False)):
        found = records(run("face.mp4", *arguments).stdout)
        assert [[face["id"] for face in record["faces"]] for record in found] == [[1]] * 4
        assert all(("smoothed" in face) is smoothed for record in found for face in record["faces"])
        assert sum(record["ms"]["detect"] > 0 for record in found) == detector_runs


def test_the_garbage_collector_is_on_again_after_loading(run: Run) -> None:
    """Guards against memory that grows over a stream since the collector stays off, also after a failed loading."""
    before = gc.get_freeze_count()
    assert run("photo.png").exit_code == 0
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    assert run("photo.png", "--detector", "blank.png").exit_code == 1
    assert gc.isenabled()


def test_quiet_and_verbose(run: Run) -> None:
    """Guards against other text on standard error: notes by default, nothing with -q, also models and speed with -v."""
    assert cv2.imwritemulti("x.tif", [np.full((8, 10), 90, np.uint8)] * 2)
    note = "Note: x.tif: has 2 pages, only the first is read\n"
    assert run("x.tif").stderr == note
    assert run("x.tif", "-q").stderr == ""
    assert re.fullmatch(
        rf"Note: models tiny 0\.0\.1 on cpu\n{re.escape(note)}Note: 1 pictures?, 0 faces in \d+\.\d s\n",
        run("x.tif", "-v").stderr,
    )


def test_help_documents_every_option() -> None:
    """Guards against an option that is missing in the table of options or has no help text."""
    text = CliRunner().invoke(infer, ["--help"], env={"COLUMNS": "200"}).output
    for flag in (
        *("--format [text|jsonl|csv]", "--save DIR", "--emotions [five|seven]", "--face-crops"),
        *(
            "--device [auto|cpu|cuda]",
            "--backend [onnxruntime|litert]",
            "--threads N",
            "--min-score",
            "--min-face PIXELS",
            "--max-faces N",
            "--every N",
            "--detector FILE",
        ),
        *("--detect-every N", "--smooth SECONDS", "--labels [ferplus|fer2013]"),
        *("--max-fps N", "--start SECONDS", "--duration SECONDS", "--policy [latest|all]", "--timeout SECONDS"),
        *("--raw WxH", "--preview [HOST:]PORT", "--bundle DIR", "-q, --quiet", "-v, --verbose", "--version"),
        "-h, --help",
    ):
        assert re.search(rf"^  .*{re.escape(flag)}.* {{2,}}\S", text, re.MULTILINE), flag
    assert all(getattr(parameter, "help", "") for parameter in infer.params[1:])


def test_pictures_that_are_drawn_on_are_read_in_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against faces drawn at the wrong place: their pixels are those of the photo, not of a reduced copy."""
    jobs: list[Any] = []
    monkeypatch.setattr("facexp_cli.infer.run", lambda job: jobs.append(job) or 0)
    for more in ([], ["--save", "out"], ["--preview", "8000"]):
        assert CliRunner().invoke(infer, ["photo.jpg", *more]).exit_code == 0
    assert [job.read_options().reduced for job in jobs] == [True, False, False]


def test_a_last_clip_that_cannot_be_finished_is_reported_in_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a traceback or status 0 if the disk is full at the very end."""

    def fail(_: object) -> None:
        raise SinkError("out/a.mp4: only 3 of 20 frames could be written: is the disk full?")

    write_clip("a.mp4")
    monkeypatch.setattr("facexp.sinks.clip_file.ClipFile.finish", fail)
    result = run("a.mp4", "--save", "out")
    assert result.exit_code == 1
    assert len(records(result.stdout)) == 20
    assert result.stderr == "Error: out/a.mp4: only 3 of 20 frames could be written: is the disk full?\n"
