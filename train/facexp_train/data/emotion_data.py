"""Faces with an emotion: FER2013's files, FER+'s votes, the five-class set, a folder of images per class, or a dataset
with labels of its own, defined by a labels file (see classes.read_classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facexp.labels import SEVEN
from facexp_train.data import tables
from facexp_train.data.classes import CODES, FIVE_CODES, FOLDERS, LEFT_OUT, NAME, Classes, folded, read_classes
from facexp_train.data.splits import SPLITS, complete_split, duplicate_groups, pixel_hash
from facexp_train.data.votes import VOTES, VOTES_NAME, find_votes, read_votes
from facexp_train.errors import DataError
from facexp_train.progress import progress_bar

SIZE = 48
# the FER+ column of each of SEVEN, and the columns of other answers
_SEVEN_COLUMNS = [4, 5, 6, 1, 3, 2, 0]
_OTHER_COLUMNS = [7, 8, 9]
_USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
_CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")
_IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".webp", ".tif", ".tiff"}
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
    """What a reader found: the number of faces in the file, and of those that it leaves out.

    Attributes:
        rows: faces in the file.
        copies: training faces left out because all their pixels equal those of a validation or test face.
        near_copies: training faces left out because they show the same picture as such a face with other pixels (see
            splits.duplicate_groups), or are in one group with it by the file's own column.
        flat: training faces left out because all their pixels are equal.
        left_out: faces of any split that the labels file leaves out.
    """

    rows: int
    copies: int
    near_copies: int
    flat: int
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class EmotionFaces:
    """N gray faces of 48x48 with their emotion.

    Attributes:
        images: uint8 (N, 48, 48).
        labels: int64 (N,) codes in the order of `classes`; -1 where a face has no label.
        votes: float32 (N, 10) FER+ votes in the order of VOTES, or None.
        split: (N,) str, "train", "val" or "test".
        rows: int64 (N,) the 1-based data row of the file, or the position in a folder's sorted list of images.
        copies: (N,) str, equal where faces show the same picture (see splits.duplicate_groups).
        group: (N,) str, the file's own column, else `copies`; a group is never divided between splits.
        names: (N,) str, the image's path in the folder, or the 1-based data row of the file.
        report: what is left out of training; of the whole file, also in a part.
        classes: names of the classes: facexp.labels.SEVEN, FIVE for the five-class set, or those of a labels file.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    votes: NDArray[np.float32] | None
    split: NDArray[np.str_]
    rows: NDArray[np.int64]
    copies: NDArray[np.str_]
    group: NDArray[np.str_]
    names: NDArray[np.str_]
    report: EmotionReport
    classes: tuple[str, ...] = SEVEN

    def __len__(self) -> int:
        return len(self.images)

    def part(self, split: str) -> EmotionFaces:
        """Return the faces of one split; ValueError if it is not train, val or test."""
        if split not in SPLITS:
            raise ValueError(f"a split is one of {', '.join(SPLITS)}, got {split!r}")
        return self.chosen(self.split == split)

    @property
    def labelling(self) -> str:
        """Name of the labelling, and of the output that learns it: "fer2013", or "own" for other classes."""
        return "fer2013" if set(self.classes) <= set(SEVEN) else "own"

    def of(self, classes: Sequence[str]) -> EmotionFaces:
        """Return only the faces of these classes, with codes in their order; DataError if there are none.

        Faces without a label stay. FER+'s votes are for the seven emotions and are left out unless the classes stay the
        same.
        """
        if tuple(classes) == self.classes:
            return self
        codes = np.array([classes.index(name) if name in classes else -1 for name in self.classes])
        labels = np.where(self.labels < 0, -1, codes[self.labels])
        kept = replace(self, labels=labels, votes=None, classes=tuple(classes)).chosen(
            (labels >= 0) | (self.labels < 0)
        )
        if not len(kept):
            raise DataError(f"these faces are of {', '.join(self.classes)}; none is of {', '.join(classes)}")
        return kept

    def distributions(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return FER+'s votes as float32 (N, 7) probabilities in the order of SEVEN, and a mask (N,) of usable faces.

        A single vote for an emotion is dropped as noise, unless no vote would remain, as in FER+'s paper (Barsoum et
        al., ICMI 2016). Contempt, unknown and "not a face" get no share. A face is not usable, and its probabilities
        are 0, if one of these three has the most votes or no vote is for the seven. DataError if there are no votes.
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
        """Return FER+'s majority by its authors' rule, as int64 (N,) codes of SEVEN.

        Single votes are dropped, then one emotion needs more than half of the votes that remain (Barsoum et al., ICMI
        2016). -1 if there is no majority, or not for one of the seven. DataError if there are no votes.
        """
        votes = self._votes()
        return _majority_of(np.where(votes > 1, votes, 0))

    def clear_majority(self) -> NDArray[np.int64]:
        """Return the emotion with more than half of all of a face's votes, as int64 (N,) codes of SEVEN; -1 if none.

        This rates fewer faces than `majority`: those on which the voters agree. DataError if there are no votes.
        """
        return _majority_of(self._votes())

    def _votes(self) -> NDArray[np.float32]:
        if self.votes is None:
            raise DataError(f"these faces have no FER+ votes; put {VOTES_NAME} next to the faces' CSV file or name it")
        return self.votes

    def chosen(self, keep: NDArray[np.bool_]) -> EmotionFaces:
        """Return the faces where the mask (N,) is true."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        kept: dict[str, Any] = {name: each[keep] for name, each in values.items() if isinstance(each, np.ndarray)}
        return replace(self, **kept)


def _majority_of(votes: NDArray[np.float32]) -> NDArray[np.int64]:
    """The codes (N,) of the emotions with more than half of a face's votes (N, 10); -1 if none of the seven has."""
    codes = np.full(len(VOTES), -1, dtype=np.int64)
    codes[_SEVEN_COLUMNS] = np.arange(len(SEVEN))
    clear = votes.max(axis=1) > votes.sum(axis=1) / 2
    return np.where(clear, codes[votes.argmax(axis=1)], -1)


def truths(faces: EmotionFaces) -> dict[str, NDArray[np.int64]]:
    """Return for each head the true codes (N,), -1 for a face that is not rated: the labels, and FER+'s majorities."""
    heads = {faces.labelling: faces.labels}
    if faces.votes is not None:
        heads["ferplus"] = faces.majority()
    return heads


def read_emotion(
    path: str | Path,
    votes: str | Path | None = None,
    *,
    seed: int = 0,
    whole: bool = False,
    quiet: bool = False,
) -> EmotionFaces:
    """Read faces and emotions from a CSV file or a folder.

    A CSV file has the columns `emotion` and `pixels` (2,304 numbers) and optionally `Usage`, in any order, like
    fer2013.csv and icml_face_data.csv: Training is the split train, PublicTest val, PrivateTest test. If a file without
    `Usage` has only the codes 0 to 4, they are those of the five-class set (0 angry, 1 disgust, 2 sad, 3 happy, 4
    surprise), else FER2013's. FER+'s votes are read from `votes`, or from fer2013new.csv next to a file with `Usage`.
    The columns `split` (train, val, test) and `group` (faces that must not be divided) are obeyed if a file has them.

    A folder holds fer2013.csv or icml_face_data.csv, or a folder of images per class (angry or anger, happy or
    happiness ...), directly or under train, val and test; images are converted to gray and resized to 48x48.

    Both may have labels of their own, defined by labels.toml in the folder or NAME.labels.toml next to NAME.csv (see
    classes.read_classes).

    Faces without named splits are divided 80/10/10 by `seed`, copies together; with named splits but no validation
    faces, a tenth of the training faces becomes val. Training faces are then left out, and counted in `report`, if they
    are flat, show the same picture as a validation or test face (see splits.duplicate_groups), or are in one group with
    such a face by the file's own column. With `whole` they stay, and so do the faces that a labels file leaves
    out, with the label -1.

    A CSV file is parsed once and then read from a cache (see tables.cached). Raises DataError with the file, row and
    column of the first error.
    """
    place = Path(path)
    if place.is_dir():
        inside = csv_inside(place)
        if inside is None:
            if votes is not None:
                raise DataError(f"{votes}: votes belong to FER2013's CSV file, but {place} is a folder of images")
            classes = read_classes(place) or FOLDERS
            images, labels, split, names = _read_folder(place, classes, quiet)
            copies = duplicate_groups(images, quiet=quiet)
            return _assemble(images, labels, classes, None, split, copies, copies, names, seed, whole)
        place = inside
    own = read_classes(place)
    # the cache holds the texts, not their classes, because the labels file may change
    arrays = tables.cached(place, "emotion", lambda: _parse_csv(place, own or CODES, quiet))
    images = np.asarray(arrays["images"], dtype=np.uint8)
    usage = np.asarray(arrays["usage"], dtype=np.str_)
    texts = np.asarray(arrays["emotion"], dtype=np.str_).tolist()
    five = own is None and votes is None and not usage.size and all(text in FIVE_CODES.meaning for text in texts)
    classes = own or (FIVE_CODES if five else CODES)
    labels = classes.named(texts, place, 1, "emotion")
    if classes.names != SEVEN and votes is not None:
        raise DataError(f"{votes}: votes are for {', '.join(SEVEN)}, but {place} has {', '.join(classes.names)}")
    if votes is None and own is None and usage.size:
        votes = find_votes(place)
    ballots = None if votes is None else read_votes(Path(votes), place, usage, len(images))
    split = np.asarray(arrays["split"], dtype="U5")
    copies, groups = (np.asarray(arrays[name], dtype=np.str_) for name in ("copies", "group"))
    names = np.arange(1, len(images) + 1).astype(np.str_)
    return _assemble(images, labels, classes, ballots, split, copies, groups, names, seed, whole)


def csv_inside(place: Path) -> Path | None:
    """Return FER2013's CSV file in a folder, None if there is none."""
    return next((place / name for name in _CSV_NAMES if (place / name).is_file()), None)


def usage_of(split: str) -> str:
    """Return the name of a split in FER2013's column Usage."""
    return next(usage for usage, name in _USAGES.items() if name == split)


def _assemble(
    images: NDArray[np.uint8],
    labels: Sequence[str],
    classes: Classes,
    votes: NDArray[np.float32] | None,
    split: NDArray[np.str_],
    copies: NDArray[np.str_],
    groups: NDArray[np.str_],
    names: NDArray[np.str_],
    seed: int,
    whole: bool,
) -> EmotionFaces:
    """Complete the splits, count what training leaves out, and leave it out unless `whole` is set.

    That is: training faces that are flat or copies, and all faces that a labels file leaves out.
    """
    split = complete_split(split, groups, seed)
    unfit = unfit_for_training(images, split, copies, groups)
    left_out = np.array([name == LEFT_OUT for name in labels])
    counts = {name: int((rows & ~left_out).sum()) for name, rows in unfit.items()}
    report = EmotionReport(rows=len(images), **counts, left_out=int(left_out.sum()))
    codes = {name: code for code, name in enumerate(classes.names)} | {LEFT_OUT: -1}
    coded = np.array([codes[name] for name in labels], dtype=np.int64)
    rows = np.arange(1, len(images) + 1)
    faces = EmotionFaces(images, coded, votes, split, rows, copies, groups, names, report, classes.names)
    return faces if whole else faces.chosen(~np.any([left_out, *unfit.values()], axis=0))


def unfit_for_training(
    images: NDArray[np.uint8], split: NDArray[np.str_], copies: NDArray[np.str_], groups: NDArray[np.str_]
) -> dict[str, NDArray[np.bool_]]:
    """Return masks (N,) of the training faces that training leaves out, by their names in `EmotionReport`."""
    train = split == "train"
    digests = pixel_hash(images)
    flat = train & (images.min(axis=(1, 2)) == images.max(axis=(1, 2)))
    exact = train & np.isin(digests, digests[~train]) & ~flat
    near = train & (np.isin(copies, copies[~train]) | np.isin(groups, groups[~train])) & ~flat & ~exact
    return {"copies": exact, "near_copies": near, "flat": flat}


def _parse_csv(path: Path, classes: Classes, quiet: bool) -> tables.Arrays:
    images, texts, usages, splits, groups = [], [], [], [], []
    for row, columns in tables.chunks(path, ["emotion", "pixels"], quiet=quiet):
        # checked here, before the slow search for copies
        classes.named(columns["emotion"], path, row, "emotion")
        texts.extend(columns["emotion"])
        images.append(tables.pixels(columns["pixels"], SIZE, path, row, "pixels"))
        if "Usage" in columns:
            splits.extend(tables.choices(columns["Usage"], _USAGES, path, row, "Usage"))
            usages.extend(columns["Usage"])
        elif "split" in columns:
            splits.extend(tables.choices(columns["split"], {name: name for name in SPLITS}, path, row, "split"))
        groups.extend(tables.nonempty(columns.get("group", []), path, row, "group"))
    faces = np.concatenate(images)
    copies = duplicate_groups(faces, quiet=quiet)
    return {
        "images": faces,
        "emotion": np.array(texts, dtype=np.str_),
        "usage": np.array(usages, dtype=np.str_),
        "split": np.array(splits, dtype="U5"),
        "copies": copies,
        # such as the faces of a person, or a face with its changed copies
        "group": np.array(groups, dtype=np.str_) if groups else copies,
    }


def _read_folder(
    folder: Path, classes: Classes, quiet: bool
) -> tuple[NDArray[np.uint8], list[str], NDArray[np.str_], NDArray[np.str_]]:
    """Images, classes, splits and names of a folder of images per class; splits are empty if the folder has none."""
    children = _folders(folder)
    if children and all(child.name.lower() in _SPLIT_FOLDERS for child in children):
        parts = [(_SPLIT_FOLDERS[child.name.lower()], child) for child in children]
    else:
        parts = [("", folder)]
    found: list[tuple[Path, str, str]] = []
    for split, part in parts:
        inside = _folders(part)
        if not inside:
            raise DataError(
                f"{part}: no folders in it; expected {' or '.join(_CSV_NAMES)}, or a folder of images for each of "
                f"{', '.join(classes.names)}"
            )
        for child in inside:
            name = classes.meaning.get(folded(child.name))
            if name is None:
                raise DataError(
                    f"{child}: expected a folder named after one of {', '.join(classes.names)}; "
                    f"{folder / NAME} can say what other names mean"
                )
            files = sorted(file for file in child.iterdir() if file.suffix.lower() in _IMAGE_ENDINGS)
            # macOS writes ._face.png next to face.png
            found.extend((file, name, split) for file in files if not file.name.startswith("."))
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
    names = np.array([file.relative_to(folder).as_posix() for file, _, _ in found], dtype=np.str_)
    return images, [name for _, name, _ in found], np.array(splits, dtype="U5"), names


def _folders(folder: Path) -> list[Path]:
    # macOS adds __MACOSX to archives
    hidden = (".", "__MACOSX")
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(hidden))
