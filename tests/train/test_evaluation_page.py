"""The report of an evaluation: the right faces on its sheets, the figures as measured, and models compared in pairs."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from facexp.geometry import KEYPOINTS
from facexp_train import run
from facexp_train.augmentation.framing import jittered_crops
from facexp_train.config import TrainConfig
from facexp_train.data.emotion_data import EmotionFaces, read_emotion
from facexp_train.data.keypoint_data import COORDINATES, KeypointFaces, read_keypoints
from facexp_train.errors import DataError
from facexp_train.evaluation import compare, evaluate, evaluation_page, predictions
from facexp_train.evaluation.metrics import emotion_figures
from facexp_train.evaluation.ranking import EmotionRanking, KeypointRanking
from facexp_train.reporting import page, sheets


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> KeypointFaces:
    """Kaggle's format: 80 gray squares, each with its own points; the tenth face lacks its nose."""
    rng = np.random.default_rng(0)
    lines = [",".join([*COORDINATES, "group", "Image"])]
    for number in range(80):
        places = rng.uniform(30, 66, 30).round(2).astype(str)
        places[:4] = ("66", "38", "30", "38")
        if number == 9:
            places[20:22] = ""
        pixels = " ".join(map(str, rng.integers(0, 256, 96 * 96)))
        lines.append(",".join([*places, str(number), pixels]))
    path = tmp_path_factory.mktemp("points") / "training.csv"
    path.write_text("\n".join(lines) + "\n")
    return read_keypoints(path, quiet=True)


@pytest.fixture(scope="module")
def emotions(tmp_path_factory: pytest.TempPathFactory) -> EmotionFaces:
    """FER2013's format: 42 validation faces of noise, six of each class in turn, and one for training."""
    rng = np.random.default_rng(0)
    lines = ["emotion,pixels,Usage"]
    for number in range(43):
        usage = "Training" if number == 42 else "PublicTest"
        lines.append(f"{number % 7},{' '.join(map(str, rng.integers(0, 256, 48 * 48)))},{usage}")
    path = tmp_path_factory.mktemp("emotions") / "fer2013.csv"
    path.write_text("\n".join(lines) + "\n")
    return read_emotion(path, quiet=True)


def scored_points(faces: KeypointFaces, offsets: np.ndarray) -> evaluate.Evaluation:
    """An evaluation whose predictions are `offsets` (N,) pixels to the right of the truth."""
    truth = jittered_crops(faces.part("train"))[1]
    answers = np.nan_to_num(truth) + np.stack([offsets, 0 * offsets], -1)[:, None].astype(np.float32)
    return evaluate.evaluate_keypoints(lambda crops: {"keypoints": answers}, faces, "train")


def logits_for(faces: EmotionFaces, wrong: dict[int, float]) -> np.ndarray:
    """The truth with logit 3, but class 0 with the given logit for the rows of `wrong`."""
    values = 3 * np.eye(7, dtype=np.float32)[faces.labels]
    for row, logit in wrong.items():
        values[row] = logit * np.eye(7, dtype=np.float32)[0]
    return values


def scored_emotions(faces: EmotionFaces, wrong: dict[int, float]) -> evaluate.Evaluation:
    part = faces.part("val")
    return evaluate.evaluate_emotion(lambda crops: {"fer2013": logits_for(part, wrong)}, faces, "val")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_worst_faces_come_first_and_the_page_has_the_figures(points: KeypointFaces, tmp_path: Path) -> None:
    count = len(points.part("train"))
    offsets = np.linspace(0, 9, count)
    evaluation = scored_points(points, offsets)
    assert evaluation.keypoints is not None
    errors = evaluation.keypoints.errors().face
    ranking = KeypointRanking(evaluation.keypoints)
    worst = [ranking.cell(row) for row in ranking.worst()[:3]]
    assert [cell.caption[0] for cell in worst] == points.part("train").names[np.argsort(-errors)[:3]].tolist()
    assert worst[0].caption[1] == f"error {100 * errors.max():.1f}%"
    assert ranking.cell(ranking.best()[0]).caption[1] == "error 0.0%"

    page = evaluation_page.write_report({"a model": evaluation}, "faces.csv", tmp_path)
    text = page.read_text()
    # the page is self-contained: every picture is embedded
    assert set(re.findall(r'(?:src|href)="([^"#]{1,15})', text)) <= {"data:image/webp", "data:,"}
    assert text.count("<img") == len(list(tmp_path.glob("*.png"))) == 3
    figures = {row["metric"]: row for row in rows(tmp_path / "figures_train.csv")}
    assert float(figures["error_interocular"]["value"]) == pytest.approx(100 * errors.mean())
    assert figures["rmse_px"]["unit"] == "px"
    assert float(figures["rmse_px"]["value"]) ** 2 == pytest.approx(float(figures["mse_px"]["value"]))
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert {f["metric"] for f in numbers["models"]["a model"]} >= {"ced_auc_10", "error_interocular/nose_tip"}


def test_the_most_confident_mistakes_come_first(emotions: EmotionFaces) -> None:
    part = emotions.part("val")
    evaluation = scored_emotions(emotions, {1: 2.0, 3: 9.0, 5: 5.0, 7: 9.0})
    # face 7 is of class 0: its prediction is correct
    ranking = EmotionRanking(evaluation.emotions[0], part)
    cells = [ranking.cell(row) for row in ranking.worst()]
    assert [cell.caption[0] for cell in cells] == [f"row {part.rows[row]}" for row in (3, 5, 1)]
    assert cells[0].caption[1:] == ("true: happy", "predicted: angry 100%")
    assert ranking.best()[0] == 7
    # by the probability of the true class: mistakes come last, the most confident one at the end
    assert ranking.ranked()[0] == 7
    assert ranking.ranked()[-3:].tolist() == [1, 5, 3]


def test_an_emotion_page_has_all_views_and_agrees_with_scikit_learn(emotions: EmotionFaces, tmp_path: Path) -> None:
    from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

    evaluation = scored_emotions(emotions, dict.fromkeys(range(1, 20, 2), 1.0))
    page = evaluation_page.write_report({"a model": evaluation}, "fer2013.csv", tmp_path)
    for view in ("fer2013", "fer2013_five"):
        for picture in ("confusion", "roc"):
            assert (tmp_path / f"{picture}_{view}_val.png").is_file()
    assert page.read_text().count("<img") == len(list(tmp_path.glob("*.png")))
    view = evaluation.emotions[0]
    predicted = view.logits.argmax(axis=1)
    figures = {row["metric"]: float(row["value"]) for row in rows(tmp_path / "figures_val.csv")}
    for average in ("macro", "weighted"):
        precision, _, f1, _ = precision_recall_fscore_support(view.truth, predicted, average=average)
        assert figures[f"fer2013/{average}_precision"] == pytest.approx(100 * precision)
        assert figures[f"fer2013/{average}_f1"] == pytest.approx(100 * f1)
    probabilities = np.exp(view.logits) / np.exp(view.logits).sum(axis=1, keepdims=True)
    area = roc_auc_score(view.truth == 3, probabilities[:, 3])
    assert figures["fer2013/auc/happy"] == pytest.approx(100 * area)
    report = {row["class"]: row for row in rows(tmp_path / "report_fer2013_val.csv")}
    assert report["happy"]["faces"] == "6"
    assert report["accuracy"]["recall, %"].startswith(f"{100 * (predicted == view.truth).mean():.1f} [")


def test_the_cumulative_curve_covers_the_faces_that_the_figures_count(
    points: KeypointFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a curve that includes faces without eye labels, or that omits faces that were not found."""
    drawn: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    draw = evaluation_page.report.draw_cumulative
    monkeypatch.setattr(
        evaluation_page.report, "draw_cumulative", lambda curves, *more: (drawn.update(curves), draw(curves, *more))
    )
    faces = dataclasses.replace(points, points=points.points.copy())
    training = np.flatnonzero(faces.split == "train")
    faces.points[training[:5], 0] = np.nan
    locations = iter([None, None, *np.nan_to_num(faces.points[training[2:]])])
    evaluation = evaluate.evaluate_detected(lambda image, place: next(locations), faces, "train", quiet=True)
    evaluation_page.write_report({"one": evaluation}, "faces.csv", tmp_path)
    errors, groups = drawn["one"]
    failures = next(figure for figure in evaluation.figures if figure.metric == "detected_failures")
    assert len(errors) == len(groups) == failures.n == len(training) - 3
    assert np.isnan(errors).tolist() == [True, True] + [False] * (len(training) - 5)


def test_two_models_are_compared_in_pairs(points: KeypointFaces, tmp_path: Path) -> None:
    # guards resampling the same faces for both: a constant difference varies far less than the errors themselves
    offsets = np.linspace(0, 6, len(points.part("train")))
    first, second = scored_points(points, offsets), scored_points(points, offsets + 1)
    found = {each.metric: each for each in compare.compare(first, second)}
    error = found["error_interocular"]
    assert error.difference.value == pytest.approx(error.second.value - error.first.value)
    width = error.first.high - error.first.low
    assert error.difference.high - error.difference.low < width / 5
    assert error.clear
    same = {each.metric: each for each in compare.compare(first, first)}
    assert not any(each.clear for each in same.values())
    table = compare.comparison_table(list(found.values()), ("one", "two"))
    assert re.search(r"error_interocular, % .*\*$", table, re.MULTILINE)

    page = evaluation_page.write_report({"one": first, "two": second}, "faces.csv", tmp_path)
    assert "one and two" in page.read_text()
    listed = {row["metric"]: row for row in rows(tmp_path / "differences_train.csv")}
    assert float(listed["error_interocular"]["difference"]) == pytest.approx(100 * error.difference.value)
    assert {path.name for path in tmp_path.glob("worst*")} == {"worst_train_1.png", "worst_train_2.png"}


def test_two_emotion_models_share_charts_and_models_with_nothing_in_common_are_refused(
    emotions: EmotionFaces, tmp_path: Path
) -> None:
    first, second = scored_emotions(emotions, {1: 2.0, 3: 9.0}), scored_emotions(emotions, {1: 2.0})
    page = evaluation_page.write_report({"one": first, "two": second}, "fer2013.csv", tmp_path).read_text()
    # the first table has every view, but not the classes, which have their own
    assert all(f"<td>{view.name}/accuracy</td>" in page for view in first.emotions)
    assert "<td>fer2013/recall/angry</td>" not in page
    assert (tmp_path / "roc_fer2013_val.png").is_file()
    assert (tmp_path / "confusion_fer2013_val_2.png").is_file()
    part = emotions.part("val")
    other = evaluate.evaluate_emotion(lambda crops: {"fer2013": logits_for(part, {})}, emotions, "val")
    renamed = evaluate.Evaluation("val", other.figures, emotions=(dataclasses.replace(other.emotions[0], name="x"),))
    with pytest.raises(DataError, match="nothing in common"):
        compare.compare(first, renamed)


def test_titles_are_not_cut_off(emotions: EmotionFaces, tmp_path: Path) -> None:
    """Guards the titles of charts: they name what is drawn, also with the long paths of two models of one name."""
    evaluation = scored_emotions(emotions, dict.fromkeys(range(1, 20, 2), 1.0))
    names = [f"experiments/with a long name/{each}/models/emotion.int8.onnx" for each in "ab"]
    evaluation_page.write_report(dict.fromkeys(names, evaluation), "fer2013.csv", tmp_path)
    for picture in tmp_path.glob("[cr]o*.png"):
        pixels = cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE)
        assert pixels is not None
        assert (pixels[:, :2] > 250).all(), picture.name
        assert (pixels[:, -2:] > 250).all(), picture.name


def test_a_model_has_the_same_figures_in_a_comparison() -> None:
    """Guards the calibration error, whose interval did not include its value."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (300, 2)).astype(np.float32)
    # calibrated: the second class is true as often as it is probable
    truth = (rng.random(300) < 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))).astype(np.int64)
    groups = np.arange(300).astype(np.str_)
    own = evaluate.EmotionPredictions("own", ("awake", "drowsy"), logits, truth, groups)
    alone, _ = emotion_figures(logits, truth, groups, own.labels, "val")
    evaluation = evaluate.Evaluation("val", (), emotions=(own,))
    both = {each.metric: (each.first, each.second) for each in compare.compare(evaluation, evaluation)}
    for figure in alone:
        expected = dataclasses.replace(figure, metric=f"own/{figure.metric}")
        assert both[expected.metric] == (expected, expected)
    (error,) = (figure for figure in alone if figure.metric == "calibration_error")
    assert error.low == error.value


def test_predictions_are_in_the_pixels_of_the_file(points: KeypointFaces, tmp_path: Path) -> None:
    part = points.part("train")
    answers = predictions.predict_with_network(
        lambda crops: {"keypoints": np.full((len(crops), 15, 2), 40.25, np.float32)}, part
    )
    table = predictions.write_predictions(answers, part, tmp_path / "sheet.png", 7)
    read = rows(table)
    assert [row["face"] for row in read] == part.names.tolist()
    assert {row["nose_tip_x"] for row in read} == {"40.25"}
    for name in KEYPOINTS:
        place = part.points[:, KEYPOINTS.index(name)]
        for column, axis in (("x", 0), ("y", 1)):
            written = [float(row[f"true_{name}_{column}"] or "nan") for row in read]
            assert written == pytest.approx(place[:, axis].tolist(), abs=0.001, nan_ok=True)
    # seven faces make two rows of the sheet
    height, width = cv2.imread(str(tmp_path / "sheet.png")).shape[:2]
    assert width > height


def test_predicted_emotions_are_written_next_to_the_truth(emotions: EmotionFaces, tmp_path: Path) -> None:
    part = emotions.part("val")
    answers = predictions.predict_with_network(lambda crops: {"fer2013": logits_for(part, {3: 9.0})}, part)
    table = predictions.write_predictions(answers, part, tmp_path / "sheet.png", 100)
    read = rows(table)
    assert (read[3]["true_fer2013"], read[3]["predicted_fer2013"]) == ("happy", "angry")
    assert float(read[3]["fer2013_angry"]) > 0.99
    assert [row["row"] for row in read] == part.rows.astype(str).tolist()
    # again, over the earlier sheet; the faces of a folder are named by their files
    named = dataclasses.replace(part, names=np.array([f"val/happy/{number}.png" for number in range(len(part))]))
    read = rows(predictions.write_predictions(answers, named, tmp_path / "sheet.png", 1))
    assert read[3]["row"] == "val/happy/3.png"


def test_file_names_that_are_not_utf8_are_escaped(emotions: EmotionFaces, tmp_path: Path) -> None:
    # guards a training that ended in a traceback after its last epoch, when its page was drawn
    part = emotions.part("val")
    name = os.fsdecode(b"happy/caf\xe9.png")
    named = dataclasses.replace(part, names=np.full(len(part), name))
    answers = predictions.predict_with_network(lambda crops: {"fer2013": logits_for(part, {3: 9.0})}, part)
    table = predictions.write_predictions(answers, named, tmp_path / "sheet.png", 1)
    assert rows(table)[3]["row"] == r"happy/caf\udce9.png"
    cells = page.Table("rows", name, ["row"], [[name]])
    made = page.write(page.Page(name, name, [page.Section(name, [cells])]), tmp_path, {"row": name})
    assert r"caf\udce9.png" in made.read_text(encoding="utf-8")


def test_predictions_do_not_overwrite_other_files(emotions: EmotionFaces, tmp_path: Path) -> None:
    # guards the data itself when the sheet is given its name with the ending .png
    part = emotions.part("val")
    answers = predictions.predict_with_network(lambda crops: {"fer2013": logits_for(part, {3: 9.0})}, part)
    faces = tmp_path / "faces.csv"
    for content in (b"emotion,pixels,Usage\n3,1 2 3,Training\n", b"row,name\n1,a\n", b"\xff\xfe", b""):
        faces.write_bytes(content)
        with pytest.raises(
            DataError, match=r"faces\.csv: the predictions would replace this file.*; give another --out"
        ):
            predictions.write_predictions(answers, part, tmp_path / "faces.png", 1)
        assert faces.read_bytes() == content
    assert not (tmp_path / "faces.png").exists()
    # an image of the data with the name that is given to the sheet
    (tmp_path / "1.png").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"1\.png: the sheet would replace this file"):
        predictions.write_predictions(answers, part, tmp_path / "1.png", 1)
    assert (tmp_path / "1.png").read_bytes() == b"mine"
    for _ in range(2):
        predictions.write_predictions(answers, part, tmp_path / "sheet.png", 1)


def test_a_mark_is_drawn_on_its_pixel(tmp_path: Path) -> None:
    # guards pixel centres, the direction of y, and the position of a cell in its row
    image = np.full((96, 96), 128, np.uint8)
    cell = sheets.Cell(image, ("a",), {"predicted": np.array([[20.0, 60.0]], np.float32)})
    empty = sheets.Cell(image, ("a",), {"predicted": np.array([[np.nan, np.nan]], np.float32)})
    pictures = []
    for name, cells in (("one", [empty, cell]), ("none", [empty, empty])):
        sheets.draw_sheet(cells, tmp_path / f"{name}.png")
        pictures.append(cv2.imread(str(tmp_path / f"{name}.png")).astype(int))
    changed = np.argwhere(np.abs(pictures[0] - pictures[1]).sum(axis=2) > 30)
    gray = np.argwhere((pictures[1] == 128).all(axis=2))
    (top, _), (bottom, right) = gray.min(axis=0), gray.max(axis=0)
    side = bottom - top + 1
    middle = (changed.min(axis=0) + changed.max(axis=0)) / 2
    expected = top + (60.5 / 96) * side, right + 1 - side + (20.5 / 96) * side
    assert middle == pytest.approx(expected, abs=2)


def test_a_sheet_without_faces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one face"):
        sheets.draw_sheet([], tmp_path / "sheet.png")


def test_networks_with_other_splits_are_not_compared(points: KeypointFaces, monkeypatch: pytest.MonkeyPatch) -> None:
    # guards against comparing networks on faces that one of them was trained on
    moved = points.chosen(np.roll(np.arange(len(points)), 1))
    monkeypatch.setattr(run, "read_faces", lambda config, quiet=False: moved if config.seed else points)
    first, second = (TrainConfig("keypoints", "training.csv", seed=seed) for seed in (0, 1))
    with pytest.raises(DataError, match="trained with seeds 0 and 1"):
        run.check_splits(points, first, second)
    run.check_splits(points, first, first)
