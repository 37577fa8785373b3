"""The figures of steps 2 and 3 for made-up answers, where the right result is known."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import drawn
from facexp.bundle import KEYS, shipped
from facexp.errors import BundleError
from facexp.proof.report import page, summary, verdict
from facexp.proof.verdict import Check, Report, Step, with_verdict
from facexp_cli.verify import verify_command
from facexp_export import proof_numbers, proof_task
from facexp_export.manifest import write_reference
from facexp_export.proof_numbers import Reference
from facexp_export.proof_task import Labelled
from facexp_export.recipe import MIN_PARITY_CROPS, Margins, read_recipe
from facexp_export.tasks import TASKS
from facexp_export.verify import Data, as_exported, examine, losses, verify
from facexp_export.verify import numbers as numbers_of

TOLERANCES = read_recipe().tolerances
MARGINS = Margins(accuracy_points=0.5, rmse_px=0.03)
LABELS = TASKS["emotion"].labels


def judged(checks: list[Check]) -> Check:
    (check,) = (check for check in checks if check.passed is not None)
    return check


def numbers(key: str, answers: np.ndarray, wanted: np.ndarray) -> Check:
    precision = key.partition(".")[0]
    found = proof_numbers.compare(TASKS["keypoints"], key, precision, {"k": answers}, {"k": wanted}, TOLERANCES)
    return judged(list(found))


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).normal(48, 10, (600, 15, 2)).astype(np.float32)


def test_equal_numbers_pass_and_one_wrong_coordinate_fails(points: np.ndarray) -> None:
    """Guards the worst case, which a mean would hide, and NaN and infinity."""
    assert numbers("float32.onnx", points.copy(), points).passed
    for wrong in (0.5, np.nan, np.inf):
        answers = points.copy()
        answers[7, 3, 1] += wrong
        assert numbers("float32.onnx", answers, points).passed is False


def test_a_rounded_file_is_judged_by_its_mean(points: np.ndarray) -> None:
    """Guards int8: one coordinate may be off, all of them may not."""
    answers = points.copy()
    answers[7, 3, 1] += 0.5
    assert numbers("int8.onnx", answers, points).passed
    assert numbers("int8.onnx", points + np.float32(0.5), points).passed is False


def test_a_float16_file_has_tighter_limits_than_an_int8_file(points: np.ndarray) -> None:
    """Guards the file that int8 may be compared with: a mean difference that rounding to 11 bits does not explain."""
    for key, near, far in (("float16.onnx", 0.01, 0.05), ("int8.onnx", 0.05, 0.5)):
        assert numbers(key, points + np.float32(near), points).passed
        assert numbers(key, points + np.float32(far), points).passed is False


def test_a_missing_output_fails(points: np.ndarray) -> None:
    """Guards against a missing output that counts as one without a difference."""
    task = TASKS["keypoints"]
    (check,) = proof_numbers.compare(task, "float32.onnx", "float32", {}, {"k": points}, TOLERANCES)
    assert check.passed is False


def emotion(wrong_before: int, wrong_after: int, faces: int) -> Check:
    """The judged loss if this many answers of each file are wrong, never for the same face."""
    truth = np.arange(faces) % 7
    base, answers = (np.eye(7, dtype=np.float32)[truth] for _ in range(2))
    base[:wrong_before] = np.roll(base[:wrong_before], 1, axis=1)
    answers[faces - wrong_after :] = np.roll(answers[faces - wrong_after :], 1, axis=1)
    held_out = Labelled(np.zeros((faces, 1, 1, 1), np.uint8), {"out": truth}, np.arange(faces), LABELS)
    return judged(list(proof_task.compare("emotion", "int8.onnx", held_out, {"out": base}, {"out": answers}, MARGINS)))


def test_the_pessimistic_end_of_the_interval_is_judged() -> None:
    """Guards the margin against luck: the same point estimate fails if it is uncertain."""
    sure, lucky = emotion(0, 2, 4000), emotion(60, 62, 4000)
    assert sure.value == pytest.approx(0.05)
    assert lucky.value == pytest.approx(0.05)
    assert sure.passed
    assert lucky.high is not None
    assert lucky.high > 0.5
    assert lucky.passed is False
    assert emotion(40, 0, 4000).passed
    assert emotion(0, 40, 4000).passed is False


def test_faces_without_a_label_do_not_count() -> None:
    """Guards FER+'s faces without a majority."""
    truth = np.where(np.arange(2000) < 1000, 3, -1)
    base = np.tile(np.eye(7, dtype=np.float32)[3], (2000, 1))
    answers = np.where((truth < 0)[:, None], np.roll(base, 1, axis=1), base)
    held_out = Labelled(np.zeros((2000, 1, 1, 1), np.uint8), {"out": truth}, np.arange(2000), LABELS)
    found = judged(list(proof_task.compare("emotion", "k", held_out, {"out": base}, {"out": answers}, MARGINS)))
    assert (found.value, found.passed) == (0, True)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_points_that_are_not_numbers_fail_the_task(points: np.ndarray, wrong: float) -> None:
    """Guards faces that only step 3 sees: they counted as unlabelled, and made the file look better than the base."""
    base, answers = points + np.float32(1), points + np.float32(1)
    answers[7, 3, 1] = wrong
    files = {key: SimpleNamespace(precision=key.partition(".")[0]) for key in ("float32.onnx", "int8.onnx")}
    outputs = {"float32.onnx": {"k": base}, "int8.onnx": {"k": answers}}
    subject: Any = SimpleNamespace(
        model=SimpleNamespace(name="keypoints", files=files),
        keys=tuple(files),
        answers=lambda key, crops: outputs[key],
    )
    held_out = Labelled(np.zeros((600, 1, 1, 1), np.uint8), {"k": points}, np.arange(600), ())
    (check,) = (check for check in losses(subject, held_out, read_recipe()) if check.passed is False)
    assert check.subject == "keypoints int8.onnx k"
    assert check.note == "they are not for 1 of 600 faces; export another precision"


@pytest.mark.parametrize(
    ("named", "faces", "fault"),
    [
        ([0, 1, 2, 3, 4, 5, 6], 700, ""),
        # exchanged, and moved in a circle
        ([1, 0, 2, 3, 4, 5, 6], 700, "most faces of angry are called disgust, of disgust are called angry; "),
        ([1, 2, 0, 3, 4, 5, 6], 700, "most faces of angry are called disgust, of disgust are called fear, of fear are"),
        # a network that gives one label to all faces, and one that was tried on few faces
        ([3, 3, 3, 3, 3, 3, 3], 700, ""),
        ([1, 0, 2, 3, 4, 5, 6], 14, ""),
    ],
)
def test_labels_that_are_exchanged_fail_the_task(named: list[int], faces: int, fault: str) -> None:
    """Guards labels that changed after the training: all files agree with the trained model, which has no names."""
    truth = np.arange(faces) % 7
    answers = {"own": np.eye(7, dtype=np.float32)[np.array(named)[truth]]}
    held_out = Labelled(np.zeros((faces, 1, 1, 1), np.uint8), {"own": truth}, np.arange(faces), LABELS)
    check = judged(list(proof_task.base_figures("emotion", "float32.onnx", held_out, answers)))
    assert check.passed is not bool(fault)
    assert check.note.startswith(fault)
    assert bool(check.note) == bool(fault)


def test_the_loss_of_keypoints_is_their_rmse_with_groups_resampled_together(points: np.ndarray) -> None:
    """Guards the RMSE over coordinates, points without a label, and faces of one photo, which are drawn together."""
    truth = points.copy()
    truth[:, 5] = np.nan
    noise = np.random.default_rng(1).normal(0, 1, points.shape).astype(np.float32)
    # all faces of a group have the same error
    group = np.arange(600) // 60
    worse = points + noise + np.repeat(np.linspace(0, 0.5, 10), 60).astype(np.float32)[:, None, None]
    crops = np.zeros((600, 1, 1, 1), np.uint8)

    def added(answers: np.ndarray, base: np.ndarray, group: np.ndarray) -> Check:
        held_out = Labelled(crops, {"k": truth}, group, ())
        found = proof_task.compare("keypoints", "int8.onnx", held_out, {"k": base}, {"k": answers}, MARGINS)
        return judged(list(found))

    shifted = added(points + np.float32([1, 0]), points, group)
    assert shifted.value == pytest.approx(np.sqrt(0.5), abs=1e-3)
    assert added(points + noise, points + noise, group).passed
    together, alone = (added(worse, points + noise, by) for by in (group, np.arange(600)))
    assert together.value == alone.value
    assert together.high is not None
    assert alone.high is not None
    assert together.high > alone.high


def test_a_step_without_a_check_is_skipped() -> None:
    """Guards against a step without a check that counts as passed."""
    assert Step(3).verdict == "skipped"
    assert Step(3, (Check("figure", value=1.0),)).verdict == "reported"


def test_a_task_that_was_left_out_is_not_proved() -> None:
    """Guards a proof that was given faces for one network only: they prove nothing about the other."""
    figure = with_verdict(Check("loss", "emotion", value=0.0, limit=1.0))
    both = Step(1, (replace(figure, task="keypoints"), figure))
    # a figure that is only reported is no verdict on the keypoints
    third = Step(3, (figure, Check("speed", "keypoints", value=2.0)))
    half = Report({"name": "mine", "version": "1"}, {}, (both, Step(2, (figure,)), third, replace(both, number=4)))
    assert half.passed
    assert half.to_dict()["proved"] is False
    assert verdict(half) == (
        "mine 1 passed what was checked; NOT PROVED: step 2 (numbers) of keypoints and step 3 (task) of keypoints"
    )
    assert '<header class="skipped">' in page(half)
    whole = replace(half, steps=tuple(replace(both, number=number) for number in range(1, 5)))
    assert whole.to_dict()["proved"] is True
    assert verdict(whole) == "mine 1 passed"
    assert '<header class="passed">' in page(whole)


def test_a_file_that_was_left_out_is_not_proved() -> None:
    """Guards a proof without LiteRT: the other files' figures prove nothing about the one that needs it."""
    figure = with_verdict(Check("figure", "emotion", "float32.onnx", value=0.0, limit=1.0))
    files = tuple(replace(figure, file=key) for key in ("float32.onnx", "int8.onnx", "int8.tflite"))
    # the base of step 3 has figures but no verdict
    base = Check("accuracy", "emotion", "float32.onnx", value=70.0)
    note = "emotion.int8.tflite: not compared, ai-edge-litert cannot be imported"
    second, third = Step(2, files[:2], (note,)), Step(3, (base, files[1]))
    part = Report({"name": "mine", "version": "1"}, {}, (Step(1, files), second, third, Step(4, files[:2])))
    assert part.passed
    assert part.to_dict()["proved"] is False
    assert verdict(part) == (
        "mine 1 passed what was checked; NOT PROVED: step 2 (numbers) of emotion int8.tflite and step 3 (task) of "
        "emotion int8.tflite"
    )
    whole = replace(part, steps=(Step(1, files), Step(2, files), Step(3, (base, *files[1:])), Step(4, files)))
    assert whole.to_dict()["proved"] is True
    # in step 2 a figure without a verdict proves nothing
    reported = Step(2, (base, *files[1:]))
    assert [what for _, what in replace(whole, steps=(whole.steps[0], reported)).unproved] == ["emotion float32.onnx"]


def test_a_file_that_the_runtime_never_opens_is_no_gap() -> None:
    """Guards the plain verdict on a bundle with a SavedModel, which the runtime never runs."""
    figure = with_verdict(Check("figure", "emotion", "float32.onnx", value=0.0, limit=1.0))
    steps = [Step(number, (figure,)) for number in range(1, 5)]
    steps[0] = replace(steps[0], unsupported=("emotion: not opened",))
    report = Report({"name": "mine", "version": "1"}, {}, tuple(steps))
    assert verdict(report) == "mine 1 passed"
    assert '<header class="passed">' in page(report)
    assert "<li>emotion: not opened</li>" in page(report)
    assert "     emotion: not opened" in summary(report).splitlines()
    (first, *_) = report.to_dict()["steps"]
    assert (first["notes"], first["left_out"]) == (["emotion: not opened"], [])
    left_out = replace(report, steps=(replace(steps[0], notes=("int8: not opened",)), *steps[1:]))
    assert verdict(left_out) == "mine 1 passed what was checked; the notes say what was left out"
    (first, *_) = left_out.to_dict()["steps"]
    assert (first["notes"], first["left_out"]) == (["int8: not opened", "emotion: not opened"], ["int8: not opened"])


@pytest.mark.usefixtures("replayed")
def test_the_seven_files_are_proved_only_if_everything_is_installed(
    bundle: Any, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the proof of a default bundle, on the machine of its export and on one without LiteRT."""
    data = [workspace / "points", workspace / "emotions"]
    whole = verify(bundle.directory, data)
    assert whole.to_dict()["proved"] is True
    assert verdict(whole) == f"bundle {whole.bundle['version']} passed"
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    part = verify(bundle.directory, data)
    assert part.passed
    assert part.to_dict()["proved"] is False
    missing = [f"{task} {key}" for task in ("keypoints", "emotion") for key in KEYS if key.endswith(".tflite")]
    assert [what for _, what in part.unproved] == 2 * missing


def test_int8_files_without_a_float_file_fail() -> None:
    """Guards a bundle without a file to compare with; one whose float file does not run here is not at fault."""

    def found(*keys: str) -> list[Check]:
        files = {key: SimpleNamespace(precision=key.partition(".")[0]) for key in keys}
        subject: Any = SimpleNamespace(model=SimpleNamespace(name="emotion", files=files), keys=("int8.onnx",))
        return list(losses(subject, Labelled(np.zeros(0, np.uint8), {}, np.zeros(0), LABELS), read_recipe()))

    (check,) = found("int8.onnx")
    assert check.passed is False
    assert check.note == "no float32 or float16 file to compare the others with; export one too"
    assert found("float32.tflite", "int8.onnx") == []


def test_an_invalid_manifest_is_not_blamed_on_the_data(own_bundle: Path, tmp_path: Path) -> None:
    """Guards the exit status in CI: the bundle is wrong, and its labels are needed to read the data."""
    manifest = json.loads((own_bundle / "manifest.json").read_text())
    manifest["models"]["emotion"]["labels"] = ["awake", "awake"]
    (own_bundle / "manifest.json").write_text(json.dumps(manifest))
    data = tmp_path / "faces.csv"
    data.write_text("emotion,pixels,Usage\n")
    result = CliRunner().invoke(verify_command, ["--bundle", str(own_bundle), "--data", str(data)])
    assert (result.exit_code, result.stderr) == (3, "")
    assert "labels must be two or more different names" in result.stdout
    assert result.stdout.count("     nothing to compare: the models cannot be read, see step 1\n") == 2
    assert "FAILED in step 1 (structure)" in result.stdout.splitlines()[-1]


def test_labels_that_are_not_those_of_the_files_are_not_blamed_on_the_data(own_shipped: Path, tmp_path: Path) -> None:
    """Guards the exit status in CI, which was 3 without the data and 1 with it, and the reason in the report."""
    manifest = json.loads((own_shipped / "manifest.json").read_text())
    manifest["models"]["emotion"]["labels"] = list("abcdefg")
    (own_shipped / "manifest.json").write_text(json.dumps(manifest))
    drawn.write_fer2013(tmp_path / "fer2013.csv", 8, 2)
    result = CliRunner().invoke(verify_command, ["--bundle", str(own_shipped), "--data", str(tmp_path / "fer2013.csv")])
    assert result.exit_code == 3
    assert "labels of the file's metadata and of the manifest differ" in result.stdout
    assert "emotion: not compared, these faces are of angry, disgust" in result.stdout


def test_the_faces_of_an_export_are_found_again(tmp_path: Path) -> None:
    """Guards older bundles: a stricter rule for copies leaves fewer faces to train, and draws others to judge on."""
    pictures = np.random.default_rng(0).integers(0, 256, (9, 48, 48), np.uint8)
    seen, drawn = pictures[[7, 2, 5]][..., None], pictures[:3, ..., None]
    task = TASKS["emotion"]
    subject: Any = SimpleNamespace(directory=tmp_path, task=task)
    faces: Any = SimpleNamespace(
        part=lambda split: SimpleNamespace(images=pictures if split == "val" else pictures[:0])
    )
    answers = {"ferplus": np.zeros((3, 7), np.float32)}
    # without the export's hashes, step 2 fails on its own
    assert as_exported(subject, faces, drawn, read_recipe()) is drawn
    write_reference(tmp_path, task, proof_numbers.crop_hashes(seen), answers)
    assert np.array_equal(as_exported(subject, faces, drawn, read_recipe()), seen)
    # other faces are not mistaken for the export's
    write_reference(tmp_path, task, proof_numbers.crop_hashes(seen + 1), answers)
    assert as_exported(subject, faces, drawn, read_recipe()) is drawn


def test_an_output_without_stored_answers_fails(tmp_path: Path) -> None:
    """Guards the output that the runtime uses: step 2 passed on the other one alone."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (MIN_PARITY_CROPS, 48, 48, 1), np.uint8)
    answers = {"fer2013": rng.normal(size=(len(crops), 7)).astype(np.float32)}
    task = TASKS["emotion"]
    write_reference(tmp_path, task, proof_numbers.crop_hashes(crops), answers)
    outputs = [SimpleNamespace(name=name) for name in ("fer2013", "ferplus")]
    subject: Any = SimpleNamespace(directory=tmp_path, task=task, keys=(), model=SimpleNamespace(outputs=outputs))
    (check,) = (check for check in numbers_of(subject, crops, read_recipe()) if check.passed is False)
    assert check.subject == "emotion ferplus"
    assert check.note == "reference.npz has no answers of this output; export the run again"


def test_a_bundle_without_its_recipe_fails_the_numbers(tiny_bundle: Path) -> None:
    """Guards the same verdict with and without faces: the bundle is at fault, not the proof."""
    report = examine(tiny_bundle, {"emotion": Data(tiny_bundle, None)})
    (check,) = report.steps[1].failures
    assert check.task == "emotion"
    assert "emotion.recipe.toml: cannot be read as TOML: " in check.note
    assert "emotion: not compared, its recipe cannot be read" in report.steps[2].notes


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("emotion_crops", None, "has no emotion_crops"),
        (
            "emotion_crops",
            np.zeros((1024, 7), np.uint8),
            r"emotion_crops is uint8 .*, expected uint8 \(any, 32\)",
        ),
        (
            "emotion_ferplus",
            np.zeros((9, 7), np.float32),
            r"emotion_ferplus is .*, expected float32 \(1024, 7\)",
        ),
        ("emotion_ferplus", np.full((1024, 7), "happy"), "emotion_ferplus is <U5"),
        ("emotion_ferplus", np.full((1024, 7), np.nan, np.float32), "emotion_ferplus must be finite numbers"),
    ],
)
def test_an_invalid_array_of_the_reference_is_named(
    tmp_path: Path, name: str, value: np.ndarray | None, words: str
) -> None:
    """Guards the trained model's answers and the hashes of the crops: they exist, in their type and shape."""
    with np.load(shipped() / "reference.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    del arrays[name]
    if value is not None:
        arrays[name] = value
    np.savez(tmp_path / "reference.npz", **arrays)
    with pytest.raises(BundleError, match=rf"reference\.npz: {words}"):
        Reference.read(tmp_path, TASKS["emotion"])


def test_a_damaged_reference_is_a_one_line_error(tmp_path: Path) -> None:
    """Guards against a traceback if one bit has changed."""
    content = bytearray((shipped() / "reference.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "reference.npz").write_bytes(content)
    with pytest.raises(BundleError, match=r"reference\.npz: cannot be read .*; export or install the bundle again"):
        Reference.read(tmp_path, TASKS["emotion"])
