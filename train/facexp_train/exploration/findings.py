"""Findings about a dataset, row by row: what harms a training on it, and what is worth examining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facexp.geometry import KEYPOINTS, interocular
from facexp_train.data.splits import SPLITS
from facexp_train.exploration import shapes
from facexp_train.exploration.survey import Survey

MIN_CONTRAST = 8.0
"""Standard deviation of the pixels, of 255, below which a picture that is not flat has almost no contrast."""
MAX_SHAPE_DISTANCE = 3.0
"""Distance of a face's points from the mean shape (`shapes.shape_distances`) above which it is a finding."""
MAX_STRANGENESS = 1.7
"""Value of `shapes.strange_pictures` above which a picture is a finding.

One in 500 pictures of FER2013 exceeds it; a third of these are not photos of a face.
"""
MAX_COPY_DISTANCE = 0.1
"""How much the points of copies may differ, as a share of the distance between the eyes."""
MIN_CLASS_FACES = 30
"""Number of faces of a class below which its scores are unreliable."""
MAX_CLASS_RATIO = 10.0
"""How many times as large as the smallest class the largest may be without a warning."""
MAX_LISTED_ROWS = 10
"""Number of rows that a warning lists; all are in findings.csv."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A kind of finding, and the faces that it concerns.

    Attributes:
        kind: its name in findings.csv.
        text: its description.
        harm: how it harms a training, and what to do or what training does about it; "" if it is harmless.
        faces: int64 indices into the survey, the most important first.
        details: a short text for each of the faces.
    """

    kind: str
    text: str
    harm: str
    faces: NDArray[np.int64]
    details: Sequence[str]

    @property
    def headline(self) -> str:
        """The description and the number of faces."""
        return f"{self.text[0].upper()}{self.text[1:]}: {len(self.faces):,}"

    def warning(self, survey: Survey) -> str:
        """Return one line with the number of faces, the first rows and the harm."""
        rows = [str(row) for row in survey.rows[self.faces[:MAX_LISTED_ROWS]]]
        more = len(self.faces) - len(rows)
        listed = ", ".join(rows) + (f" and {more:,} more" if more else "")
        return f"{self.headline} (row{'s' * (len(self.faces) != 1)} {listed}). {self.harm}"


def find(survey: Survey, seen: NDArray[np.bool_] | None = None) -> list[Finding]:
    """Return all findings; kinds without a face are left out.

    `seen` (N,) says whether the runtime's networks see a face in each picture; None if they were not run.
    """
    spread = contrast(survey.images)
    found = [*_same(survey, spread == 0), *_pixels(survey, spread)]
    if seen is not None:
        # flat pictures are a finding already
        found.append(_faceless(~seen & (spread > 0)))
    found += _labels(survey) if survey.labels is not None else _points(survey)
    return [finding for finding in found if len(finding.faces)]


def contrast(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the standard deviation (N,) of each picture's pixels, 0 to 127.5."""
    return np.array([image.std() for image in images])


def _finding(
    kind: str, text: str, harm: str, faces: NDArray[np.bool_] | NDArray[np.int64], details: Sequence[str] | str = ""
) -> Finding:
    chosen = np.flatnonzero(faces) if faces.dtype == np.bool_ else faces.astype(np.int64)
    return Finding(kind, text, harm, chosen, [details] * len(chosen) if isinstance(details, str) else details)


def _pixels(survey: Survey, spread: NDArray[np.float64]) -> list[Finding]:
    flat = spread == 0
    faint = np.flatnonzero((spread < MIN_CONTRAST) & ~flat)
    faint = faint[np.argsort(spread[faint])]
    return [
        _finding("flat", "flat pictures, all pixels equal", "They show nothing; training leaves them out.", flat)
        if survey.task == "emotion"
        else _finding("flat", "flat pictures, all pixels equal", "They show nothing: remove them.", flat),
        _finding(
            "faint",
            f"pictures with almost no contrast, a standard deviation below {MIN_CONTRAST:.0f} of 255",
            "Check them: many show no face.",
            faint,
            [f"contrast {spread[face]:.1f}" for face in faint],
        ),
    ]


def _faceless(faces: NDArray[np.bool_]) -> Finding:
    return _finding(
        "no face seen",
        "pictures in which facexp's own networks see no face: no detection, and points that do not settle",
        "This finds about half of all pictures without a face, but also some faces that are hidden, turned or unusual: "
        "check them.",
        faces,
    )


def _members(groups: NDArray[np.str_]) -> list[NDArray[np.int64]]:
    """The indices of each group of two or more, in the order of their first index."""
    _, inverse = np.unique(groups, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def _same(survey: Survey, flat_pictures: NDArray[np.bool_]) -> list[Finding]:
    """Copies, copies across splits, and copies that contradict each other; flat pictures do not count as copies."""
    exact, near = _members(survey.pixels), _members(survey.copies)
    flat = {int(face) for face in np.flatnonzero(flat_pictures)}
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
    harm = "No network can learn both: correct or remove them."
    what = "labels" if survey.task == "emotion" else "points"
    return [
        _listed("contradiction", f"faces that equal another in all pixels, but have other {what}", harm, disagree),
        # photos of one person in a studio, from the same place and in the same light, resemble each other as copies do
        _listed(
            "near contradiction",
            f"faces that show the same picture as another, or nearly the same, but have other {what}",
            "Correct or remove those that are copies of one photo, and keep different photos of one person.",
            loose,
        ),
        _listed(
            "leak",
            "training faces that show the same picture as a validation or test face",
            "They make scores too good; `facexp train` leaves them out."
            if survey.task == "emotion"
            else "They make scores too good: remove them, or give both the same group and no split.",
            _varied({face: f"{survey.split[held]} row {survey.rows[held]}" for face, held in leaks.items()}),
        ),
        _listed(
            "copy",
            "faces that equal an earlier one in all pixels",
            "",
            _varied({face: f"of row {row}" for face, row in first.items() if face not in flat}),
        ),
        _listed(
            "near copy",
            "faces that show the same picture as an earlier one, mirrored, brighter or cropped a little differently, "
            "or nearly the same, as photos of one person in a studio do",
            "",
            _varied({face: f"of row {row}" for face, row in like.items() if face not in flat}),
        ),
    ]


def _listed(kind: str, text: str, harm: str, details: dict[int, str]) -> Finding:
    faces = np.array(list(details), dtype=np.int64)
    return _finding(kind, text, harm, faces, list(details.values()))


def _varied(details: dict[int, str]) -> dict[int, str]:
    """The same items, reordered: the first with each detail, then the second ones, so that many copies of a face do not
    fill the beginning."""
    times: dict[str, int] = {}
    rank = {}
    for face, detail in details.items():
        rank[face] = times[detail] = times.get(detail, 0) + 1
    return dict(sorted(details.items(), key=lambda item: rank[item[0]]))


def _contradictions(survey: Survey, groups: Sequence[NDArray[np.int64]]) -> dict[int, str]:
    """The faces of groups whose labels or points disagree, each with its label or its distance."""
    found: dict[int, str] = {}
    for group in groups:
        if survey.labels is not None:
            codes = survey.labels[group]
            if len(set(codes.tolist())) > 1:
                found |= {int(face): survey.classes[code] for face, code in zip(group, codes, strict=True)}
        elif survey.points is not None:
            points = survey.points[group]
            unit = interocular(points)
            # if an eye is not labelled: the distance of an average face
            unit = np.where(np.isfinite(unit), unit, 0.37 * survey.images.shape[1])
            away = np.linalg.norm(points - points[0], axis=2) / unit[:, None]
            worst = np.nanmax(np.where(np.isfinite(away), away, 0), axis=1)
            if worst.max() > MAX_COPY_DISTANCE:
                found |= {
                    int(face): f"{100 * share:.0f}% from row {survey.rows[group[0]]}"
                    for face, share in zip(group, worst, strict=True)
                }
    return found


def _labels(survey: Survey) -> list[Finding]:
    assert survey.labels is not None
    far = shapes.strange_pictures(survey.images)
    order = np.argsort(-np.nan_to_num(far))
    strange = order[np.nan_to_num(far[order]) > MAX_STRANGENESS]
    found = []
    if survey.voted_no_face is not None:
        found.append(
            _finding(
                "voted no face",
                "pictures that most of FER+'s voters call no face",
                "Their labels are meaningless: remove them.",
                survey.voted_no_face,
            )
        )
    if survey.voted is not None:
        other = (survey.voted >= 0) & (survey.voted != survey.labels)
        names = np.array(survey.classes)
        found.append(
            _finding(
                "outvoted",
                "faces for which more than half of FER+'s voters gave another label",
                "They limit the accuracy against the file's own labels; train on the votes as well.",
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
            "pictures unlike all others: drawings, text, several faces, faces far too large or too small",
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
    odd = order[np.nan_to_num(far[order]) > MAX_SHAPE_DISTANCE]
    outside = np.asarray(((points < -0.5) | (points > size - 0.5)).any(axis=2))
    beyond = np.asarray(outside.any(axis=1))
    names = np.array(KEYPOINTS)
    return [
        _finding(
            "no point",
            "faces without a single point",
            "Nothing can be learnt from them.",
            np.asarray(~known.any(axis=1)),
        ),
        _finding(
            "swapped sides",
            'faces whose left and right points are exchanged ("left" is the person\'s left)',
            "Their labels are the wrong way round: exchange the names.",
            shapes.swapped_sides(points),
        ),
        _finding(
            "upside down",
            "faces whose mouth is above the eyes",
            "Rotate them, unless this is intended.",
            shapes.upside_down(points),
        ),
        _finding(
            "odd shape",
            f"faces whose points lie far from the mean shape, more than {MAX_SHAPE_DISTANCE:.0f} times as far as usual",
            "Extreme poses or wrong labels: check them.",
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


def dataset_warnings(survey: Survey) -> list[str]:
    """Return warnings about the dataset as a whole: what is missing, and what is unbalanced."""
    warnings = [f"There are no {name} faces." for name in SPLITS if name not in survey.split]
    if survey.labels is not None:
        counts = {
            name: np.bincount(survey.labels[survey.split == name], minlength=len(survey.classes)) for name in SPLITS
        }
        train = counts["train"]
        for name, count in counts.items():
            if count.any() and (absent := [survey.classes[int(i)] for i in np.flatnonzero(count == 0)]):
                warnings.append(f"No {name} face is {' or '.join(absent)}: a network cannot learn or be scored on it.")
            scarce = [
                f"{survey.classes[int(i)]} ({count[i]})"
                for i in np.flatnonzero((count > 0) & (count < MIN_CLASS_FACES))
            ]
            if scarce and name != "train":
                warnings.append(f"Few {name} faces of {', '.join(scarce)}: their scores have wide intervals.")
        present = np.flatnonzero(train)
        if len(present) and train.max() > MAX_CLASS_RATIO * train[present].min():
            most, least = int(train.argmax()), int(present[train[present].argmin()])
            warnings.append(
                f"The classes are unbalanced: {train[most]:,} training faces are {survey.classes[most]}, "
                f"{train[least]:,} are {survey.classes[least]}; accuracy hides errors of the small class, so look at "
                "macro-F1."
            )
    if survey.points is not None:
        known = shapes.known_points(survey.points)
        if never := [KEYPOINTS[i] for i in np.flatnonzero(~known.any(axis=0))]:
            warnings.append(f"No face has {', '.join(never)}: a network cannot learn it.")
        if not known.all():
            share = 1 - known.all(axis=1).mean()
            warnings.append(
                f"{100 * share:.0f}% of the faces lack at least one point: a training that drops these faces loses "
                "their other points; `facexp train` keeps them."
            )
    return warnings
