"""Step 4 of the proof: does this machine give the same answers as the machine of the export?

golden.npz holds drawn crops with the answers of every file to them, and a drawn colour picture with the answers of the
whole pipeline. This finds libraries that read colour planes in another order, crop at the wrong place or round
differently, on the machine on which they run.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp.analyzer import Analyzer
from facexp.arrays import Arrays, expect_array, read_arrays
from facexp.bundle import FileSpec, KeypointsSpec, ModelSpec, load_models, read_model
from facexp.cores import cores
from facexp.engines import ENGINES
from facexp.errors import BundleError, DeviceError, FacexpError, one_line
from facexp.geometry import KEYPOINTS, Image, cut, square_matrix, to_gray
from facexp.proof.verdict import SPEED_UP, Check, Step, with_verdict
from facexp.session import Session, devices_to_try
from facexp.timing import in_turns

GOLDEN = "golden.npz"
# OpenCV rounds to whole gray levels when it converts colour to gray and when it samples the crop, with different
# instructions on different machines: one level for each, and one more where both coincide. Swapped colour planes change
# the drawn skin by 21 levels.
PICTURE_GRAY_LEVELS = 3.0
# Single gray levels move the box and the keypoints by hundredths of a pixel; swapped colour planes, or a crop that is
# two pixels off, move them by far more.
PICTURE_PX = 0.5
PICTURE_PROBABILITY = 0.02

_SPEED_ROUNDS = 15
_UNITS = {"keypoints": "px", "emotion": "logit"}

_PICTURE_ARRAYS: Mapping[str, tuple[str, tuple[int | None, ...]]] = {
    "picture": ("uint8", (None, None, 3)),
    "picture_box": ("float64", (4,)),
    "picture_crop": ("uint8", (None, None)),
    "picture_keypoints": ("float32", (len(KEYPOINTS), 2)),
    "picture_emotion": ("float64", (None,)),
}
"""Array name in golden.npz -> dtype and shape, for the arrays of `picture_answers`; None is any length."""


def device(directory: Path) -> Step:
    """Carry out step 4 for the bundle in a directory, with the limits for golden answers in each task's recipe.

    Raises DeviceError if none of its files runs here for lack of a library.
    """
    try:
        models = load_models(directory)
        golden = read_golden(directory)
        limits = {model.name: _limits(directory / f"{model.name}.recipe.toml") for model in models}
    except BundleError as error:
        return Step(4, (Check("golden answers", passed=False, note=str(error)),))
    checks: list[Check] = []
    notes: list[str] = []
    unsupported: list[str] = []
    missing: list[DeviceError] = []
    opened = [_sessions(directory, model, checks, notes, unsupported, missing) for model in models]
    if missing and not checks and not any(opened):
        raise missing[0]
    for model, sessions in zip(models, opened, strict=True):
        try:
            crops = golden_crops(golden, model)
        except BundleError as error:
            checks.append(Check("golden answers", model.name, passed=False, note=str(error)))
            continue
        for (file, where), session in list(sessions.items()):
            try:
                answers = session.run(crops)
            except Exception as error:  # onnxruntime and LiteRT raise errors of many types
                note = cannot_run(len(crops), error)
                checks.append(Check("runs", model.name, file.key, device=where, passed=False, note=note))
                del sessions[file, where]
                continue
            checks += _answers(model, file, where, answers, golden, limits[model.name])
        checks += _speed(model, sessions, crops[:1])
    keypoint_specs = [model for model in models if isinstance(model, KeypointsSpec)]
    if can_answer_picture(models):
        checks += _picture(directory, keypoint_specs[0], golden, notes)
    else:
        notes.append("picture: not compared, this needs float32.onnx or float16.onnx of both networks")
    return Step(4, tuple(checks), tuple(notes), tuple(unsupported))


def cannot_run(crops: int, error: Exception) -> str:
    """Return the note about a file that loads, but whose library reports an error for this number of crops."""
    return f"it loads, but does not run on {crops:,} crops: {one_line(error)}; export the bundle again"


def read_golden(directory: Path) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of golden.npz by name.

    Those of a model are uint8 crops and float32 answers; of the picture either all arrays are present or none. Raises
    BundleError if the file is missing or damaged, or if an array has another dtype or shape than its name requires.
    """
    path = directory / GOLDEN
    arrays = read_arrays(path)
    for name, array in arrays.items():
        if name.endswith("_input"):
            expect_array(path, arrays, name, "uint8", (None, None, None, 1))
        elif "/" in name:
            expect_array(path, arrays, name, "float32", (None,) * array.ndim)
    if any(name in arrays for name in _PICTURE_ARRAYS):
        for name, (dtype, shape) in _PICTURE_ARRAYS.items():
            expect_array(path, arrays, name, dtype, shape)
        _expect_box(path, arrays["picture"], arrays["picture_box"])
    return arrays


def _expect_box(path: Path, picture: NDArray[np.generic], box: NDArray[np.generic]) -> None:
    """Raise BundleError for a box that cannot be a face in the picture, as no crop could be cut from it."""
    x, y, width, height = map(float, box)
    within = abs(x) + width + abs(y) + height < 4 * max(picture.shape)
    if not (within and width >= 1 and height >= 1):
        raise BundleError(f"{path}: picture_box {box.tolist()} is not a valid box; export the bundle again")


def golden_crops(golden: Arrays, model: ModelSpec) -> NDArray[np.uint8]:
    """Return the drawn crops of a model, uint8 (N, S, S, 1). Raises BundleError if there are none of its input size."""
    crops = golden.get(f"{model.name}_input")
    if crops is None or crops.shape[1:] != model.input.row:
        raise BundleError(f"{GOLDEN} has no crops of {model.size} px for {model.name}; export the bundle again")
    return np.asarray(crops, np.uint8)


def _limits(recipe: Path) -> dict[str, float]:
    """Return precision -> largest allowed difference, in px or logits. Raises BundleError if the recipe has none."""
    try:
        golden = tomllib.loads(recipe.read_text(encoding="utf-8"))["tolerances"]["golden"]
        return {precision: float(golden[precision]) for precision in ("float32", "float16", "int8")}
    except OSError as error:
        why = error.strerror or one_line(error)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        why = repr(error)
    raise BundleError(f"{recipe}: tolerances.golden cannot be read ({why}); export the run again")


def can_answer_picture(models: Sequence[ModelSpec]) -> bool:
    """Return whether golden.npz has answers for a picture: both networks must have an ONNX file other than int8.

    The answers of int8 files differ more between processors than a misplaced crop changes them.
    """
    return len(models) == len(_UNITS) and all(model.most_exact_key() not in (None, "int8.onnx") for model in models)


def picture_answers(directory: Path, picture: Image) -> dict[str, NDArray[np.generic]]:
    """Return the answers of the whole pipeline to a colour picture with one face, BGR (H, W, 3) uint8, for golden.npz.

    picture: the picture itself. picture_box: float64 (4,) x, y, width and height. picture_crop: uint8 (S, S), the first
    input of the keypoint network. picture_keypoints: float32 (15, 2) in pixels of the picture. picture_emotion: float64
    (C,) probabilities. Raises BundleError if the bundle's most exact ONNX files find no face, or several.
    """
    analyzer = Analyzer("cpu", bundle=directory, precision="exact")
    faces = analyzer.analyze(picture)
    if len(faces) != 1:
        raise BundleError(f"{directory}: expected 1 face in the drawn picture, found {len(faces)}")
    (face,) = faces
    return {
        "picture": picture,
        "picture_box": np.array(face.box),
        "picture_crop": _crop(picture, np.array(face.box), analyzer.bundle.keypoints),
        "picture_keypoints": face.keypoints,
        "picture_emotion": np.array(list(face.emotion.probabilities.values())),
    }


def _crop(picture: Image, box: NDArray[np.float64], spec: KeypointsSpec) -> Image:
    x, y, width, height = map(float, box)
    square = spec.framing.square((x, y, width, height))
    return cut([to_gray(picture)], [square_matrix(square, spec.size)], spec.size)[0, :, :, 0]


def _sessions(
    directory: Path,
    model: ModelSpec,
    checks: list[Check],
    notes: list[str],
    unsupported: list[str],
    missing: list[DeviceError],
) -> dict[tuple[FileSpec, str], Session]:
    """Return (file, device) -> session for every file and every device on which it really runs here."""
    found = {}
    for file in model.files.values():
        if file.format not in ENGINES:
            unsupported.append(f"{file.file}: not compared, the runtime has no engine for {file.format}")
            continue
        try:
            places = devices_to_try("auto", "onnxruntime" if file.format == "onnx" else "litert")
        except DeviceError as error:
            notes.append(f"{file.file}: not compared, {error}")
            missing.append(error)
            continue
        for where in reversed(places):
            try:
                content = read_model(directory, model, file.key)
                found[file, where] = Session(content, model, file.key, device=where, threads=cores())
            except DeviceError as error:
                notes.append(f"{file.file}: not compared on {where}, {error}")
                missing.append(error)
            except BundleError as error:
                checks.append(Check("runs", model.name, file.key, device=where, passed=False, note=str(error)))
    return found


def _answers(
    model: ModelSpec,
    file: FileSpec,
    where: str,
    answers: Mapping[str, NDArray[np.float32]],
    golden: Arrays,
    limits: Mapping[str, float],
) -> Iterator[Check]:
    limit = limits[file.precision]
    for name, answer in answers.items():
        expected = golden.get(f"{model.name}/{file.key}/{name}")
        check = Check("largest difference from the golden answers", model.name, file.key, name, where)
        if expected is None or expected.shape != answer.shape:
            note = f"{GOLDEN} has no answers of this file for this number of crops; export the bundle again"
            yield replace(check, passed=False, note=note)
            continue
        if not np.ptp(expected, axis=0).max() > limit:
            yield replace(check, passed=False, note="the answers are nearly equal for all crops: they prove nothing")
            continue
        yield with_verdict(
            replace(check, value=_largest_difference(answer, expected), unit=_UNITS[model.name], limit=limit)
        )


def _speed(
    model: ModelSpec, sessions: Mapping[tuple[FileSpec, str], Session], crop: NDArray[np.uint8]
) -> Iterator[Check]:
    calls = {(file.key, where): partial(session.run, crop) for (file, where), session in sessions.items()}
    medians_ms = {place: spread.p50 for place, spread in in_turns(calls, _SPEED_ROUNDS).items()}
    reference = (model.most_exact_key() or "", "cpu")
    for (key, where), milliseconds in medians_ms.items():
        yield Check("time for one crop", model.name, key, device=where, value=milliseconds, unit="ms")
        if reference in medians_ms and (key, where) != reference:
            what = f"{SPEED_UP}{reference[0]} on cpu"
            ratio = medians_ms[reference] / milliseconds
            yield Check(what, model.name, key, device=where, value=ratio, unit="times")


def _picture(directory: Path, spec: KeypointsSpec, golden: Arrays, notes: list[str]) -> Iterator[Check]:
    """Compare the whole pipeline on the drawn picture: gray, detector, crop, keypoints, alignment, emotion."""
    if "picture" not in golden:
        yield Check("picture", passed=False, note=f"{GOLDEN} has no picture; export the bundle again")
        return
    picture = np.asarray(golden["picture"], np.uint8)
    expected = {name: golden[name].astype(np.float64) for name in golden if name.startswith("picture_")}
    try:
        answers = picture_answers(directory, picture)
        # cut at the expected box: the detector's own box has a check of its own
        answers["picture_crop"] = _crop(picture, expected["picture_box"], spec)
    except DeviceError as error:
        notes.append(f"picture: not compared, {error}")
        return
    except FacexpError as error:
        yield Check("picture", device="cpu", passed=False, note=str(error))
        return
    for name, unit, limit in (
        ("picture_crop", "gray levels", PICTURE_GRAY_LEVELS),
        ("picture_box", "px", PICTURE_PX),
        ("picture_keypoints", "px", PICTURE_PX),
        ("picture_emotion", "probability", PICTURE_PROBABILITY),
    ):
        value = _largest_difference(answers[name], expected[name])
        what = f"largest difference of the picture's {name.removeprefix('picture_')}"
        yield with_verdict(Check(what, device="cpu", value=value, unit=unit, limit=limit))


def _largest_difference(answer: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    if answer.shape != expected.shape:
        return float("nan")
    return float(np.abs(np.asarray(answer, np.float64) - np.asarray(expected, np.float64)).max())
