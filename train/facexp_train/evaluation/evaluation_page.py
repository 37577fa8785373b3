"""The output files of an evaluation of one or two models: pictures, tables, numbers and one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import classification_report

from facexp.files import write_atomically
from facexp.geometry import KEYPOINTS
from facexp_train.evaluation import report
from facexp_train.evaluation.compare import Difference, compare
from facexp_train.evaluation.evaluate import AS_IT_IS, EmotionPredictions, Evaluation, point_figures
from facexp_train.evaluation.metrics import Figure, unit
from facexp_train.evaluation.ranking import LABELLINGS, EmotionRanking, KeypointRanking
from facexp_train.reporting import page, sheets
from facexp_train.reporting.page import Picture, Section, Table
from facexp_train.stored import read_facts

_INTERVAL = ("value", "95% from", "95% to")


def write_figures(evaluation: Evaluation, data: Path, out: Path) -> Path:
    """Write evaluation.json with every figure and the worst faces into the folder `out`, and return its path.

    Figures of other splits of the same data stay. DataError if an existing file cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    path, place = out / "evaluation.json", str(data.resolve())
    stored = read_facts(path, "delete it") if path.is_file() else {}
    # versions before 0.9.2 did not record the data
    if stored.get("data", place) != place:
        stored = {}
    figures = [f for f in stored.get("figures", []) if f["split"].partition("/")[0] != evaluation.split]
    figures += [f.to_dict() for f in evaluation.figures]
    worst = stored.get("worst", {}) | ({evaluation.split: evaluation.worst} if evaluation.worst else {})
    content = {"data": place, "figures": figures, "worst": worst}
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def write_report(models: Mapping[str, Evaluation], data: str, out: Path) -> Path:
    """Write pictures, CSV files, numbers.json and index.html into the folder `out`, and return the page's path.

    `models` holds one or two evaluations of the same faces, by the models' names. DataError if two models have no
    output in common.
    """
    out.mkdir(parents=True, exist_ok=True)
    names, evaluations = list(models), list(models.values())
    first = evaluations[0]
    differences = compare(first, evaluations[1]) if len(models) > 1 else []
    parts = _Parts(models, first.split, out)
    sections = [_overview(parts, differences), *(parts.emotion() if first.emotions else parts.keypoints())]
    count = max((figure.n for figure in first.of(first.split).values()), default=0)
    about = page.Page(
        " and ".join(names),
        f"Scored on {count:,} faces of {data}, split {first.split}. Intervals are of 95%, by bootstrap.",
        sections,
    )
    numbers = {
        "split": first.split,
        "models": {name: [figure.to_dict() for figure in each.figures] for name, each in models.items()},
        "differences": [each.difference.to_dict() for each in differences],
    }
    return page.write(about, out, numbers)


def _text(figure: Figure | None) -> str:
    return "" if figure is None else figure.text()


def _overview(parts: _Parts, differences: Sequence[Difference]) -> Section:
    rows: list[tuple[page.Cell, ...]]
    emotions = [each for evaluation in parts.models.values() for each in evaluation.emotions]
    single = {*KEYPOINTS, *(label for each in emotions for label in each.labels)}

    def detail(each: Figure | Difference) -> bool:
        """Whether a figure is of a single point or class; these are in the sections below."""
        return each.metric.rpartition("/")[2] in single

    if differences:
        differences = sorted(differences, key=detail)
        shown = sum(not detail(each) for each in differences)
        rows = [
            (
                *(each.metric, unit(each.metric), each.first.n, each.first.scaled()[0], each.second.scaled()[0]),
                *(*each.difference.scaled(), "yes" if each.clear else "no"),
            )
            for each in differences
        ]
        columns = ("metric", "unit", "faces", *parts.models, "difference", *_INTERVAL[1:], "0 left out")
        text = (
            "The difference is the second minus the first; its interval comes from resampling the same faces for both."
        )
        return Section("Both models", (text, Table(f"differences_{parts.split}", "Differences", columns, rows, shown)))
    (evaluation,) = parts.models.values()
    figures = sorted(evaluation.of(evaluation.split).values(), key=detail)
    rows = [(figure.metric, unit(figure.metric), *figure.scaled(), figure.n) for figure in figures]
    shown = sum(not detail(figure) for figure in figures)
    columns = ("metric", "unit", *_INTERVAL, "faces")
    return Section("Figures", (Table(f"figures_{parts.split}", f"All of {parts.split}", columns, rows, shown),))


@dataclass(frozen=True, slots=True)
class _Parts:
    """Draws the pictures of one or two models, and makes the page's sections of them."""

    models: Mapping[str, Evaluation]
    split: str
    out: Path

    def keypoints(self) -> list[Section]:
        predictions = {name: each.keypoints for name, each in self.models.items() if each.keypoints is not None}
        curves, texts = {}, {}
        for name, each in predictions.items():
            face = each.errors().face
            # a face without labelled eyes has no error, but is no failure either
            rated = each.missed() | np.isfinite(face)
            curves[name] = face[rated], each.groups[rated]
        for name, evaluation in self.models.items():
            found = evaluation.of(self.split)
            area, failed = found.get("ced_auc_10"), found.get("faces_above_10", found.get("detected_failures"))
            measured = {"area to 10%": area, "failures": failed}
            texts[name] = ", ".join(f"{what} {_text(each)}%" for what, each in measured.items() if each is not None)
        cumulative = self._picture(
            "cumulative", "The share of faces with an error below the value on the horizontal axis."
        )
        report.draw_cumulative(curves, self._path(cumulative), texts, f"cumulative errors, {self.split}")
        sections = [Section("Cumulative errors", (cumulative,))]
        points = {name: point_figures(each) for name, each in self.models.items()}
        if all(points.values()):
            chart = self._picture("points", "The error of each of the 15 points with its interval.")
            report.draw_points(points, self._path(chart), f"error of each point, {self.split}")
            sections.append(Section("Points", (chart,)))
        sections.append(Section("Sources, poses and sizes", [self._strata(name) for name in self.models]))
        for name, each in predictions.items():
            sheet = self._picture("worst", f"The faces with the largest errors of {name}.", name)
            ranking = KeypointRanking(each)
            sheets.draw_sheet([ranking.cell(row) for row in ranking.worst()[: sheets.SHOWN]], self._path(sheet))
            sections.append(Section(self._of("Worst faces", name), (sheet,)))
        return sections

    def _strata(self, name: str) -> Table:
        figures = self.models[name].figures
        kinds = dict.fromkeys(f.metric for f in figures if "/" in f.split and "/" not in f.metric)
        rows: list[tuple[page.Cell, ...]] = []
        for split in dict.fromkeys(figure.split for figure in figures):
            found = self.models[name].of(split)
            count = max(figure.n for figure in found.values())
            rows.append((split, count, *(_text(found.get(kind)) for kind in kinds)))
        columns = ("faces of", "number", *(f"{kind}, {unit(kind)}" for kind in kinds))
        return Table(self._name("strata", name), self._of("By source, pose and size", name), columns, rows)

    def emotion(self) -> list[Section]:
        first = next(iter(self.models.values()))
        sections = []
        for name, classes in ((each.name, len(each.labels)) for each in first.emotions):
            by_model = {model: e for model, each in self.models.items() for e in each.emotions if e.name == name}
            title = f"{LABELLINGS.get(name.removesuffix('_five'), name)}, {classes} classes"
            contents: list[page.Part] = [self._report(model, each) for model, each in by_model.items()]
            contents += [self._confusion(model, name) for model in by_model]
            contents += self._roc(by_model, title)
            contents += self._calibration(name, title)
            if not name.endswith(("_five", "_clear")):
                contents += [part for model, each in by_model.items() for part in self._mistakes(model, each)]
            sections.append(Section(title, contents))
        return [*sections, *(self._shifts(name) for name in self.models)]

    def _report(self, name: str, predictions: EmotionPredictions) -> Table:
        """The figures of scikit-learn's classification report, with intervals."""
        rated = predictions.truth >= 0
        true, predicted = predictions.truth[rated], predictions.logits[rated].argmax(axis=1)
        codes = np.unique(true)
        counted = classification_report(
            true,
            predicted,
            labels=codes,
            target_names=[predictions.labels[c] for c in codes],
            output_dict=True,
            zero_division=0,
        )
        found = self.models[name].of(self.split)

        def cells(*metrics: str) -> list[str]:
            return [_text(found.get(f"{predictions.name}/{metric}")) for metric in metrics]

        rows = []
        for label in (predictions.labels[code] for code in codes):
            metrics = (f"{metric}/{label}" for metric in ("precision", "recall", "f1", "auc"))
            rows.append((label, int(counted[label]["support"]), *cells(*metrics)))
        faces = int(rated.sum())
        rows.append(("macro average", faces, *cells("macro_precision", "macro_recall", "macro_f1", "macro_auc")))
        rows.append(("weighted average", faces, *cells("weighted_precision", "accuracy", "weighted_f1"), ""))
        rows.append(("accuracy", faces, "", *cells("accuracy"), "", ""))
        columns = ("class", "faces", "precision, %", "recall, %", "F1, %", "ROC area, %")
        return Table(
            self._name(f"report_{predictions.name}", name), self._of("Classification report", name), columns, rows
        )

    def _confusion(self, name: str, labelling: str) -> Picture:
        (confusion,) = (each for each in self.models[name].confusions if each.name == labelling)
        picture = self._picture(
            f"confusion_{labelling}", "Confusion matrix: shares of the true class, and counts.", name
        )
        report.draw_confusion(
            confusion.table, confusion.labels, self._path(picture), f"{self._of(labelling, name)}, {self.split}"
        )
        return picture

    def _roc(self, by_model: Mapping[str, EmotionPredictions], title: str) -> list[Picture]:
        first = next(iter(by_model.values()))
        areas = {}
        for name in by_model:
            found = self.models[name].of(self.split)
            named = {label: found.get(f"{first.name}/auc/{label}") for label in first.labels}
            areas[name] = {label: _text(figure) for label, figure in named.items() if figure is not None}
        if not any(areas.values()):
            return []
        picture = self._picture(
            f"roc_{first.name}", "ROC curves of each class against the rest; the figure is the area, %."
        )
        report.draw_roc(by_model, areas, self._path(picture), f"{title}, {self.split}: each class against the rest")
        return [picture]

    def _calibration(self, labelling: str, title: str) -> list[Picture]:
        found = {
            name: each.calibrations[labelling] for name, each in self.models.items() if labelling in each.calibrations
        }
        if not found:
            return []
        if len(found) > 1:
            curves = {name: each[AS_IT_IS] for name, each in found.items()}
        else:
            (curves,) = (dict(each) for each in found.values())
        caption = "The accuracy of the predicted classes over their probability; larger marks are more faces."
        picture = self._picture(f"calibration_{labelling}", caption)
        report.draw_calibration(curves, self._path(picture), f"{labelling}, {self.split}")
        return [picture]

    def _mistakes(self, name: str, predictions: EmotionPredictions) -> list[Picture]:
        faces = self.models[name].faces
        if faces is None:
            return []
        ranking = EmotionRanking(predictions, faces)
        cells = [ranking.cell(row) for row in ranking.worst()[: sheets.SHOWN]]
        if not cells:
            return []
        picture = self._picture(
            f"mistakes_{predictions.name}", self._of("The most confident mistakes", name) + ".", name
        )
        sheets.draw_sheet(cells, self._path(picture))
        return [picture]

    def _shifts(self, name: str) -> Section:
        figures = [f for f in self.models[name].figures if f.metric.endswith("/accuracy") and "_five/" not in f.metric]
        kinds = dict.fromkeys(f.metric for f in figures)
        rows = []
        for split in dict.fromkeys(f.split for f in figures):
            found = self.models[name].of(split)
            rows.append((split.partition("/")[2] or "as they are", *(_text(found.get(kind)) for kind in kinds)))
        columns = ("faces", *(f"{kind}, %" for kind in kinds))
        table = Table(self._name("shifts", name), self._of("Accuracy on changed faces", name), columns, rows)
        return Section(self._of("Changed faces", name), (table,))

    def _name(self, what: str, model: str | None = None) -> str:
        """A file's name; it has the model's number if there are two models."""
        number = f"_{list(self.models).index(model) + 1}" if model is not None and len(self.models) > 1 else ""
        return f"{what}_{self.split}{number}"

    def _of(self, title: str, model: str) -> str:
        return f"{title}, {model}" if len(self.models) > 1 else title

    def _picture(self, what: str, caption: str, model: str | None = None) -> Picture:
        return Picture(self._name(what, model), caption, caption)

    def _path(self, picture: Picture) -> Path:
        return self.out / f"{picture.name}.png"
