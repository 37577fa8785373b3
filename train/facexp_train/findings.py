"""What will hurt a training on a dataset, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facexp.geometry import KEYPOINTS, interocular
from facexp_train import shapes
from facexp_train.splits import SPLITS
from facexp_train.survey import Survey

FAINT = 8.0
"""Standard deviation of the pixels, of 255, below which a picture that is not flat has hardly any contrast."""
FAR = 3.0
"""Distance of a face's points from the mean shape (`shapes.shape_distances`) beyond which it is worth a look."""
STRANGE = 1.7
"""What `shapes.strange_pictures` says of one in five hundred of FER2013, a third of them no photo of a face."""
APART = 0.1
"""Part of the distance between the eyes by which copies' points may differ."""
SCARCE = 30
"""Faces of a class below which a score of it says little."""
UNEVEN = 10.0
"""How many times the smallest class the largest may be."""
SHOWN = 10
"""Rows that a warning names; the others are in findings.csv."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Faces that have one thing in common.

    Attributes:
        kind: its name in findings.csv.
        text: what it is.
        harm: what it does to a training, and what becomes of these faces. Empty where it is only worth a look.
        faces: int64 indices into the survey, in the order in which they are worth a look.
        details: a short text for each of them.
    """

    kind: str
    text: str
    harm: str
    faces: NDArray[np.int64]
    details: Sequence[str]

    @property
    def headline(self) -> str:
        """What it is and how many."""
        return f"{self.text[0].upper()}{self.text[1:]}: {len(self.faces):,}"

    def warning(self, survey: Survey) -> str:
        """One line with the number of the faces, the first rows and the harm."""
        rows = [str(row) for row in survey.rows[self.faces[:SHOWN]]]
        left = len(self.faces) - len(rows)
        named = ", ".join(rows) + (f" and {left:,} more" if left else "")
        return f"{self.headline} (row{'s' * (len(self.faces) != 1)} {named}). {self.harm}"


def find(survey: Survey, seen: NDArray[np.bool_] | None = None) -> list[Finding]:
    """Everything that was found; kinds without a face are left out.

    `seen`, bool (N,): does each picture show a face, in the opinion of the runtime's networks? None: nobody asked.
    """
    spread = contrast(survey.images)
    found = [*_same(survey, spread == 0), *_pixels(survey, spread)]
    if seen is not None:
        # a flat picture is told once
        found.append(_faceless(~seen & (spread > 0)))
    found += _labels(survey) if survey.labels is not None else _points(survey)
    return [finding for finding in found if len(finding.faces)]


def contrast(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N,) standard deviation of each picture's pixels, 0 to 127.5."""
    return np.array([image.std() for image in images])


def _finding(
    kind: str, text: str, harm: str, faces: NDArray[np.bool_] | NDArray[np.int64], details: Sequence[str] | str = ""
) -> Finding:
    chosen = np.flatnonzero(faces) if faces.dtype == np.bool_ else faces.astype(np.int64)
    return Finding(kind, text, harm, chosen, [details] * len(chosen) if isinstance(details, str) else details)


def _pixels(survey: Survey, spread: NDArray[np.float64]) -> list[Finding]:
    flat = spread == 0
    faint = np.flatnonzero((spread < FAINT) & ~flat)
    faint = faint[np.argsort(spread[faint])]
    return [
        _finding("flat", "flat pictures, all pixels alike", "They show nothing; training leaves them out.", flat)
        if survey.task == "emotion"
        else _finding("flat", "flat pictures, all pixels alike", "They show nothing: remove them.", flat),
        _finding(
            "faint",
            f"pictures with hardly any contrast, a standard deviation below {FAINT:.0f} of 255",
            "Look at them: many show no face.",
            faint,
            [f"contrast {spread[face]:.1f}" for face in faint],
        ),
    ]


def _faceless(faces: NDArray[np.bool_]) -> Finding:
    return _finding(
        "no face seen",
        "pictures in which facexp's own networks see no face: no detection, and points that do not settle",
        "About half of all pictures without a face are found this way, and some faces that are hidden, turned or odd: "
        "look at them.",
        faces,
    )


def _members(groups: NDArray[np.str_]) -> list[NDArray[np.int64]]:
    """The indices of each group of two and more, in the order of their first."""
    _, inverse = np.unique(groups, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def _same(survey: Survey, without: NDArray[np.bool_]) -> list[Finding]:
    """Copies, those across splits, and those that contradict each other; `without` any contrast are copies of none."""
    exact, near = _members(survey.pixels), _members(survey.copies)
    flat = {int(face) for face in np.flatnonzero(without)}
    first = {int(face): str(survey.rows[group[0]]) for group in exact for face in group[1:]}
    like = {int(face): str(survey.rows[group[0]]) for group in near for face in group[1:] if int(face) not in first}
    leaks: dict[int, int] = {}
    for group in near:
        held = [face for face in group if survey.split[face] != "train"]
        if held:
            leaks |= {int(f): int(held[0]) for f in group if survey.split[f] == "train" and int(f) not in flat}
    disagree = _contradictions(survey, [group for group in exact if int(group[0]) not in flat])
    loose = _contradictions(survey, near) if survey.task == "emotion" else {}
    loose = {face: text for face, text in loose.items() if face not in disagree and face not in flat}
    harm = "No network can learn both: decide, or remove them."
    what = "labels" if survey.task == "emotion" else "points"
    return [
        _listed("contradiction", f"faces equal in every pixel to another, with other {what}", harm, disagree),
        _listed("near contradiction", f"faces that show the same picture as another, with other {what}", harm, loose),
        _listed(
            "leak",
            "training faces that show the same picture as a validation or test face",
            "Scores come out too good; `facexp train` leaves them out."
            if survey.task == "emotion"
            else "Scores come out too good: remove them, or give both one group and no split.",
            _varied({face: f"{survey.split[held]} row {survey.rows[held]}" for face, held in leaks.items()}),
        ),
        _listed(
            "copy",
            "faces equal in every pixel to an earlier one",
            "",
            _varied({face: f"of row {row}" for face, row in first.items() if face not in flat}),
        ),
        _listed(
            "near copy",
            "faces that show the same picture as an earlier one, mirrored, brighter, cut a little differently",
            "",
            _varied({face: f"of row {row}" for face, row in like.items() if face not in flat}),
        ),
    ]


def _listed(kind: str, text: str, harm: str, details: dict[int, str]) -> Finding:
    faces = np.array(list(details), dtype=np.int64)
    return _finding(kind, text, harm, faces, list(details.values()))


def _varied(details: dict[int, str]) -> dict[int, str]:
    """The same, so that the first of what has one detail come before the second: of many copies one is seen first."""
    times: dict[str, int] = {}
    turn = {}
    for face, detail in details.items():
        turn[face] = times[detail] = times.get(detail, 0) + 1
    return dict(sorted(details.items(), key=lambda item: turn[item[0]]))


def _contradictions(survey: Survey, groups: Sequence[NDArray[np.int64]]) -> dict[int, str]:
    """The faces of groups that are not of one mind, and what each is said to be."""
    told: dict[int, str] = {}
    for group in groups:
        if survey.labels is not None:
            codes = survey.labels[group]
            if len(set(codes.tolist())) > 1:
                told |= {int(face): survey.classes[code] for face, code in zip(group, codes, strict=True)}
        elif survey.points is not None:
            points = survey.points[group]
            unit = interocular(points)
            # without both eyes, an average face's
            unit = np.where(np.isfinite(unit), unit, 0.37 * survey.images.shape[1])
            away = np.linalg.norm(points - points[0], axis=2) / unit[:, None]
            worst = np.nanmax(np.where(np.isfinite(away), away, 0), axis=1)
            if worst.max() > APART:
                told |= {
                    int(face): f"{100 * share:.0f}% from row {survey.rows[group[0]]}"
                    for face, share in zip(group, worst, strict=True)
                }
    return told


def _labels(survey: Survey) -> list[Finding]:
    assert survey.labels is not None
    far = shapes.strange_pictures(survey.images)
    order = np.argsort(-np.nan_to_num(far))
    strange = order[np.nan_to_num(far[order]) > STRANGE]
    found = []
    if survey.refused is not None:
        found.append(
            _finding(
                "voted no face",
                "pictures that most of FER+'s voters call no face",
                "They teach a label of nothing: remove them.",
                survey.refused,
            )
        )
    if survey.voted is not None:
        other = (survey.voted >= 0) & (survey.voted != survey.labels)
        names = np.array(survey.classes)
        found.append(
            _finding(
                "outvoted",
                "faces whose label more than half of FER+'s voters contradict",
                "A score against the file's own labels has a low ceiling; train on the votes as well.",
                other,
                [
                    f"{names[label]}, voted {names[vote]}"
                    for label, vote in zip(survey.labels[other], survey.voted[other], strict=True)
                ],
            )
        )
    return [
        *found,
        _finding(
            "strange",
            "pictures that are like no other: drawings, texts, several faces, far too large or small ones",
            "",
            strange,
            [f"strangeness {far[face]:.2f}" for face in strange],
        ),
    ]


def _points(survey: Survey) -> list[Finding]:
    assert survey.points is not None
    points, size = survey.points, survey.images.shape[1]
    known = shapes.known_points(points)
    far = shapes.shape_distances(points)
    order = np.argsort(-np.nan_to_num(far))
    odd = order[np.nan_to_num(far[order]) > FAR]
    outside = np.asarray(((points < -0.5) | (points > size - 0.5)).any(axis=2))
    beyond = np.asarray(outside.any(axis=1))
    names = np.array(KEYPOINTS)
    return [
        _finding(
            "no point",
            "faces without a single point",
            "They teach nothing.",
            np.asarray(~known.any(axis=1)),
        ),
        _finding(
            "swapped sides",
            'faces whose left and right points are exchanged ("left" is the person\'s left)',
            "They teach the opposite: exchange the names.",
            shapes.swapped_sides(points),
        ),
        _finding(
            "upside down",
            "faces whose mouth is above the eyes",
            "Unless it is meant so, turn them.",
            shapes.upside_down(points),
        ),
        _finding(
            "odd shape",
            f"faces whose points lie far from the mean shape, more than {FAR:.0f} times as far as common",
            "Extreme poses, or wrong labels: look at them.",
            odd,
            [f"distance {far[face]:.1f}" for face in odd],
        ),
        _finding(
            "outside",
            "faces with points outside the picture",
            "",
            beyond,
            [", ".join(names[row]) for row in outside[beyond]],
        ),
    ]


def wholes(survey: Survey) -> list[str]:
    """Warnings about the dataset as a whole: what it lacks, and what is uneven."""
    told = [f"There are no {name} faces." for name in SPLITS if name not in survey.split]
    if survey.labels is not None:
        counts = {
            name: np.bincount(survey.labels[survey.split == name], minlength=len(survey.classes)) for name in SPLITS
        }
        train = counts["train"]
        for name, count in counts.items():
            if count.any() and (absent := [survey.classes[int(i)] for i in np.flatnonzero(count == 0)]):
                told.append(f"No {name} face is {' or '.join(absent)}: a network cannot learn or be scored on it.")
            few = [f"{survey.classes[int(i)]} ({count[i]})" for i in np.flatnonzero((count > 0) & (count < SCARCE))]
            if few and name != "train":
                told.append(f"Few {name} faces of {', '.join(few)}: their scores have wide intervals.")
        there = np.flatnonzero(train)
        if len(there) and train.max() > UNEVEN * train[there].min():
            most, least = int(train.argmax()), int(there[train[there].argmin()])
            told.append(
                f"The classes are uneven: {train[most]:,} training faces are {survey.classes[most]}, {train[least]:,} "
                f"are {survey.classes[least]}; accuracy hides what becomes of the small class, so look at macro-F1."
            )
    if survey.points is not None:
        known = shapes.known_points(survey.points)
        if never := [KEYPOINTS[i] for i in np.flatnonzero(~known.any(axis=0))]:
            told.append(f"No face has {', '.join(never)}: a network cannot learn it.")
        if not known.all():
            part = 1 - known.all(axis=1).mean()
            told.append(
                f"{100 * part:.0f}% of the faces miss at least one point: a training that drops them loses the rest of "
                "their points; `facexp train` keeps them."
            )
    return told
