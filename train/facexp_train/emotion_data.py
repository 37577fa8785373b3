"""Faces with an emotion: FER2013's files, FER+'s votes, the five-class set, or a folder of images per class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facexp.labels import FIVE, SEVEN
from facexp_train import tables
from facexp_train.errors import DataError
from facexp_train.progress import progress_bar
from facexp_train.splits import SPLITS, duplicate_groups, pixel_hash, split_by_group, with_validation

SIZE = 48
VOTES: tuple[str, ...] = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",
)
"""FER+'s ten columns, in the order of its file; NF is "not a face"."""

# where each of SEVEN stands among FER+'s columns, and the columns that are none of them
_SEVEN_COLUMNS = [4, 5, 6, 1, 3, 2, 0]
_OTHER_COLUMNS = [7, 8, 9]
_USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
_CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")
_VOTES_NAME = "fer2013new.csv"
_IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".webp", ".tif", ".tiff"}
_CLASS_FOLDERS = {
    **{name: name for name in SEVEN},
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happiness": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}
_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "publictest": "val",
    "privatetest": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, slots=True)
class EmotionReport:
    """What a reader found: the faces in the file, and the training faces that it left out.

    Attributes:
        rows: faces in the file.
        copies: left out, equal in every pixel to a validation or test face.
        near_copies: left out, showing the same picture as one, with other pixels (see splits.duplicate_groups).
        flat: left out, all pixels alike.
    """

    rows: int
    copies: int
    near_copies: int
    flat: int


@dataclass(frozen=True, slots=True)
class EmotionFaces:
    """N gray faces of 48x48 with their emotion.

    Attributes:
        images: uint8 (N, 48, 48).
        labels: int64 (N,) codes in the order of facexp.labels.SEVEN.
        votes: float32 (N, 10) FER+ votes in the order of VOTES, or None.
        split: (N,) str, "train", "val" or "test".
        rows: int64 (N,) the 1-based data row of the file, or the place in a folder's sorted list of images.
        report: what was left out of training; of the whole file, also in a part.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    votes: NDArray[np.float32] | None
    split: NDArray[np.str_]
    rows: NDArray[np.int64]
    report: EmotionReport

    def __len__(self) -> int:
        return len(self.images)

    def part(self, split: str) -> EmotionFaces:
        """The faces of one split; ValueError when it is not train, val or test."""
        if split not in SPLITS:
            raise ValueError(f"a split is one of {', '.join(SPLITS)}, got {split!r}")
        return self._keep(self.split == split)

    def distributions(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """FER+'s votes as float32 (N, 7) probabilities in the order of SEVEN, and a bool (N,) mask of usable faces.

        A single vote counts as noise unless nothing would remain without it, as in FER+'s paper (Barsoum et al., ICMI
        2016). Contempt, unknown and "not a face" take no share; a face where one of them leads is not usable, nor one
        without a vote for the seven: its probabilities are 0. DataError when there are no votes.
        """
        votes = self._votes()
        seven = votes[:, _SEVEN_COLUMNS]
        firm = np.where(seven > 1, seven, 0)
        firm = np.where(firm.any(axis=1, keepdims=True), firm, seven)
        total = firm.sum(axis=1, keepdims=True)
        usable = (total[:, 0] > 0) & (seven.max(axis=1) >= votes[:, _OTHER_COLUMNS].max(axis=1))
        shares = np.divide(firm, total, out=np.zeros_like(firm), where=usable[:, None])
        return shares, usable

    def majority(self) -> NDArray[np.int64]:
        """FER+'s majority by its authors' rule, as int64 (N,) codes of SEVEN; -1 where there is none, or another's.

        Single votes are dropped, then one emotion needs more than half of the votes that remain (Barsoum et al., ICMI
        2016). DataError when there are no votes.
        """
        votes = self._votes()
        return _led(np.where(votes > 1, votes, 0))

    def clear_majority(self) -> NDArray[np.int64]:
        """The emotion with more than half of a face's ten votes, as int64 (N,) codes of SEVEN; -1 where none has.

        Rates fewer faces than `majority`, and those about which the voters agree. DataError when there are no votes.
        """
        return _led(self._votes())

    def _votes(self) -> NDArray[np.float32]:
        if self.votes is None:
            raise DataError(f"these faces have no FER+ votes; put {_VOTES_NAME} beside the faces' CSV file or name it")
        return self.votes

    def _keep(self, keep: NDArray[np.bool_]) -> EmotionFaces:
        votes = None if self.votes is None else self.votes[keep]
        return replace(
            self,
            images=self.images[keep],
            labels=self.labels[keep],
            votes=votes,
            split=self.split[keep],
            rows=self.rows[keep],
        )


def _led(votes: NDArray[np.float32]) -> NDArray[np.int64]:
    """The code of the emotion that has more than half of a face's (N, 10) votes; -1 where none of the seven has."""
    codes = np.full(len(VOTES), -1, dtype=np.int64)
    codes[_SEVEN_COLUMNS] = np.arange(len(SEVEN))
    clear = votes.max(axis=1) > votes.sum(axis=1) / 2
    return np.where(clear, codes[votes.argmax(axis=1)], -1)


def truths(faces: EmotionFaces) -> dict[str, NDArray[np.int64]]:
    """Per head the true codes (N,), -1 where a face is not rated: own labels, and FER+'s clear majorities."""
    heads = {"fer2013": faces.labels}
    if faces.votes is not None:
        heads["ferplus"] = faces.majority()
    return heads


def read_emotion(
    path: str | Path,
    votes: str | Path | None = None,
    *,
    cache: str | Path | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> EmotionFaces:
    """Faces and emotions from a CSV file or from a folder.

    A CSV file has `emotion` and `pixels` (2,304 numbers) and may have `Usage`, in any order, as fer2013.csv and
    icml_face_data.csv: Training trains, PublicTest validates, PrivateTest tests. A file without `Usage` whose codes all
    lie in 0..4 is taken for the five-class set (0 angry, 1 disgust, 2 sad, 3 happy, 4 surprise); with higher codes they
    are FER2013's. FER+'s votes are read from `votes`, or from fer2013new.csv beside a file that has `Usage`.

    A folder holds fer2013.csv or icml_face_data.csv, or a folder of images per class (angry or anger, happy or
    happiness ...), directly or under train, val and test; images become gray and 48x48.

    Without named splits the faces are divided 80/10/10 after `seed`, copies together; with named splits but no
    validation faces, a tenth of the training faces validates. Then training faces are left out, and counted in
    `report`, that are flat or show the same picture as a validation or test face (see splits.duplicate_groups).

    A CSV file is parsed once and then read from `cache` (see tables.cached). Raises DataError with the file, row and
    column of the first thing that is wrong.
    """
    place = Path(path)
    if place.is_dir():
        inside = [place / name for name in _CSV_NAMES if (place / name).is_file()]
        if not inside:
            if votes is not None:
                raise DataError(f"{votes}: votes go with FER2013's CSV file, and {place} is a folder of images")
            images, labels, split = _read_folder(place, quiet)
            return _assemble(images, labels, None, split, duplicate_groups(images, quiet=quiet), seed)
        place = inside[0]
    arrays = tables.cached(place, lambda: _parse_csv(place, quiet), cache)
    images = np.asarray(arrays["images"], dtype=np.uint8)
    usage = np.asarray(arrays["usage"], dtype=np.str_)
    beside = place.parent / _VOTES_NAME
    if votes is None and usage.size and beside.is_file():
        votes = beside
    ballots = None if votes is None else _read_votes(Path(votes), place, usage, len(images))
    split = np.array([_USAGES[name] for name in usage.tolist()], dtype="U5")
    labels = np.asarray(arrays["labels"], dtype=np.int64)
    return _assemble(images, labels, ballots, split, np.asarray(arrays["group"], dtype=np.str_), seed)


def _assemble(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    votes: NDArray[np.float32] | None,
    split: NDArray[np.str_],
    groups: NDArray[np.str_],
    seed: int,
) -> EmotionFaces:
    """Split what is not split yet, then leave training faces out that are flat or copies."""
    split = with_validation(split, groups, seed) if split.size else split_by_group(groups, seed)
    train = split == "train"
    digests = pixel_hash(images)
    flat = train & (images.min(axis=(1, 2)) == images.max(axis=(1, 2)))
    exact = train & np.isin(digests, digests[~train]) & ~flat
    near = train & np.isin(groups, groups[~train]) & ~flat & ~exact
    report = EmotionReport(len(images), int(exact.sum()), int(near.sum()), int(flat.sum()))
    faces = EmotionFaces(images, labels, votes, split, np.arange(1, len(images) + 1), report)
    return faces._keep(~(flat | exact | near))


def _parse_csv(path: Path, quiet: bool) -> tables.Arrays:
    images, labels, usages = [], [], []
    for row, columns in tables.chunks(path, ["emotion", "pixels"], quiet=quiet):
        labels.append(tables.integers(columns["emotion"], range(len(SEVEN)), path, row, "emotion"))
        images.append(tables.pixels(columns["pixels"], SIZE, path, row, "pixels"))
        if "Usage" in columns:
            usage = columns["Usage"]
            tables.choices(usage, _USAGES, path, row, "Usage")
            usages.extend(usage)
    codes = np.concatenate(labels)
    if not usages and codes.max() < len(FIVE):
        codes = np.array([SEVEN.index(name) for name in FIVE])[codes]
    faces = np.concatenate(images)
    return {
        "images": faces,
        "labels": codes,
        "usage": np.array(usages, dtype=np.str_),
        "group": duplicate_groups(faces, quiet=quiet),
    }


def _read_votes(path: Path, faces: Path, usage: NDArray[np.str_], count: int) -> NDArray[np.float32]:
    """(N, 10) votes, checked to lie row for row beside the faces."""
    votes: list[NDArray[np.float64]] = []
    usages: list[str] = []
    for row, columns in tables.chunks(path, VOTES, quiet=True):
        votes.append(np.stack([tables.numbers(columns[name], path, row, name) for name in VOTES], axis=1))
        usages.extend(columns.get("Usage", []))
    ballots = np.concatenate(votes)
    if len(ballots) != count:
        raise DataError(
            f"{path}: {len(ballots)} rows of votes, but {faces} has {count} faces; expected a row for each face"
        )
    if (negative := np.argwhere(ballots < 0)).size:
        row, column = negative[0]
        raise DataError(f"{path}: row {row + 1}, column {VOTES[column]}: expected votes of 0 or more")
    if usages and usage.size and (different := np.flatnonzero(np.array(usages) != usage)).size:
        row = different[0]
        raise DataError(
            f"{path}: row {row + 1}, column Usage: expected {usage[row]!s} as in {faces}, found {usages[row]!r}"
        )
    return ballots.astype(np.float32)


def _read_folder(folder: Path, quiet: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_]]:
    """Images, codes and splits of a folder of images per class; no splits when the folder names none."""
    children = _folders(folder)
    if children and all(child.name.lower() in _SPLIT_FOLDERS for child in children):
        parts = [(_SPLIT_FOLDERS[child.name.lower()], child) for child in children]
    else:
        parts = [("", folder)]
    found: list[tuple[Path, int, str]] = []
    for split, part in parts:
        classes = _folders(part)
        if not classes:
            raise DataError(
                f"{part}: no folders in it; expected {' or '.join(_CSV_NAMES)}, or a folder of images for each of "
                f"{', '.join(SEVEN)}"
            )
        for child in classes:
            name = _CLASS_FOLDERS.get(child.name.lower())
            if name is None:
                raise DataError(f"{child}: expected a folder named after one of {', '.join(SEVEN)}")
            files = sorted(file for file in child.iterdir() if file.suffix.lower() in _IMAGE_ENDINGS)
            found.extend((file, SEVEN.index(name), split) for file in files)
    if not found:
        raise DataError(f"{folder}: no images in its class folders; expected {', '.join(sorted(_IMAGE_ENDINGS))}")
    images = np.empty((len(found), SIZE, SIZE), dtype=np.uint8)
    with progress_bar(len(found), f"reading {folder.name}", "image", quiet=quiet) as bar:
        for index, (file, _, _) in enumerate(found):
            gray = tables.read_gray(file)
            if gray.shape != (SIZE, SIZE):
                shrinks = min(gray.shape) > SIZE
                gray = np.asarray(
                    cv2.resize(gray, (SIZE, SIZE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
                )
            images[index] = gray
            bar.update()
    splits = [split for _, _, split in found if split]
    return images, np.array([code for _, code, _ in found], dtype=np.int64), np.array(splits, dtype="U5")


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
