"""Measure the benefit and the cost of tracking and smoothing.

    python benchmarks/tracking.py SHARED/DATA [--smooth S] ...

On each sample clip, the tracker and a full analysis with the detector in every frame process the same frames in turns,
so that a busy moment affects both: read the ratio. Scenes composed from the sample photos, whose true content is known,
show how long it takes to find a person who appears, and to follow a sudden change of expression; whether two people
keep their ids when they pass each other; and how many ids the people in a photo get if a camera sways or pans over it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from steadiness import STRETCH, jitter

import facexp
from facexp.detector import DUPLICATE_OVERLAP, iou, overlap_of_smaller
from facexp.geometry import interocular
from facexp.tracking import SMOOTH_S, Tracker

Image = NDArray[np.uint8]
FPS = 25


def frames(path: Path) -> Iterator[tuple[float, Image]]:
    """Yield the time in ms and the image of each frame of a clip."""
    capture = cv2.VideoCapture(str(path))
    while (read := capture.read())[0]:
        yield capture.get(cv2.CAP_PROP_POS_MSEC), np.asarray(read[1], np.uint8)


def same_face(a: facexp.Face, b: facexp.Face) -> bool:
    """Return whether two boxes overlap enough to be the same face."""
    return overlap_of_smaller(a.box, b.box) > DUPLICATE_OVERLAP


def changes(labels: Sequence[str], seconds: float) -> float:
    """Return the number of changes of the label per second."""
    return sum(a != b for a, b in itertools.pairwise(labels)) / seconds


class DetectorCounter:
    """An analyzer that counts the runs of its detector."""

    def __init__(self) -> None:
        self.analyzer = facexp.Analyzer("cpu", 1)
        self.runs = 0
        self.analyzer.detect = partial(self._detect, self.analyzer.detect)  # type: ignore[method-assign]

    def _detect(self, detect, image):  # type: ignore[no-untyped-def]
        self.runs += 1
        return detect(image)


def clip(path: Path, make) -> None:  # type: ignore[no-untyped-def]
    """Compare the tracker with the detector in every frame on one clip."""
    every, counter = facexp.Analyzer("cpu", 1), DetectorCounter()
    tracker = make(counter.analyzer)
    seconds = {"every": 0.0, "tracked": 0.0}
    previous: list[facexp.Face] = []
    found, tracked, common, extra, switches, count, boxes = 0, 0, 0, 0, 0, 0, []
    history: dict[int, list[tuple[int, facexp.Face]]] = {}
    changed: list[float] = []
    small: Image | None = None
    times = []
    for number, (time_ms, image) in enumerate(frames(path)):
        times.append(time_ms)
        start = time.perf_counter()
        truth = every.analyze(image)
        middle = time.perf_counter()
        faces = tracker.track(image, time_ms)
        end = time.perf_counter()
        seconds["every"] += middle - start
        seconds["tracked"] += end - middle
        count += 1
        found, tracked = found + len(truth), tracked + len(faces)
        common += sum(any(same_face(face, other) for other in faces) for face in truth)
        extra += sum(not any(same_face(face, other) for other in truth) for face in faces)
        boxes += [max(iou(face.box, other.box) for other in faces) for face in truth if faces]
        switches += sum(same_face(a, b) and a.id != b.id for a in previous for b in faces)
        previous = faces
        for face in faces:
            history.setdefault(face.id or 0, []).append((number, face))
        before, small = small, cv2.resize(image, (160, 90), interpolation=cv2.INTER_AREA)
        changed.append(math.inf if before is None else float(cv2.absdiff(before, small).mean()))
    span = (times[-1] - times[0]) / 1000
    print(f"{path.name}: {count} frames, {span:.1f} s")
    print(
        f"  faces: {found} with the detector in every frame, {tracked} tracked, {common} found by both, "
        f"{extra} tracked only; median overlap of the boxes {np.median(boxes or [math.nan]):.2f}"
    )
    print(
        f"  detector: {counter.runs} runs instead of {count}; speed x{seconds['every'] / seconds['tracked']:.1f} "
        f"({1e3 * seconds['tracked'] / count:.1f} ms a frame instead of {1e3 * seconds['every'] / count:.1f}); "
        f"{len(history)} ids, {switches} id switches"
    )
    for name, seen in history.items():
        if len(seen) < STRETCH:
            continue
        faces = [face for _, face in seen]
        span = (times[seen[-1][0]] - times[seen[0][0]]) / 1000
        runs = [i for i in range(len(seen) - STRETCH + 1) if seen[i + STRETCH - 1][0] - seen[i][0] == STRETCH - 1]
        if not runs:
            continue
        still = min(runs, key=lambda i: sum(changed[seen[i][0] + 1 : seen[i][0] + STRETCH]))
        part = faces[still : still + STRETCH]
        print(
            f"  id {name}, {len(seen)} frames: label changes a second "
            f"{changes([face.emotion.label for face in faces], span):.2f} raw, "
            f"{changes([face.shown.emotion.label for face in faces], span):.2f} smoothed; jitter "
            f"{100 * jitter(np.stack([face.keypoints for face in part])):.3f}% raw, "
            f"{100 * jitter(np.stack([face.shown.keypoints for face in part])):.3f}% smoothed; smoothed points lag "
            f"{lag([face.keypoints for face in faces], [face.shown.keypoints for face in faces]):.2f}%"
        )


def lag(raw: Sequence[NDArray[np.float32]], smooth: Sequence[NDArray[np.float32]]) -> float:
    """Return the mean distance of the smoothed points from the raw points' mean over five frames.

    It is in % of the inter-ocular distance.
    """
    a, b = np.stack(raw), np.stack(smooth)
    around = np.stack([a[i : i + 5].mean(axis=0) for i in range(len(a) - 4)])
    return float(100 * np.linalg.norm(around - b[2:-2], axis=2).mean() / interocular(a).mean())


def portraits(data: Path) -> dict[str, Image]:
    """Return photos with one face each, by file name, resized to 240x240."""
    found = {}
    for path in sorted((data / "samples" / "expressions").iterdir()):
        if path.name.startswith("emotion_misc_faceapi"):
            image = cv2.imread(str(path))
            if image is not None:
                found[path.stem] = np.asarray(cv2.resize(image, (240, 240), interpolation=cv2.INTER_AREA), np.uint8)
    return found


def scene(places: Sequence[tuple[Image, int, int]], rng: np.random.Generator) -> Image:
    """Paste portraits at (x, y), the later ones in front, and add noise like a camera's."""
    canvas = np.full((480, 854, 3), 110, np.uint8)
    for image, x, y in places:
        left, right = max(0, x), min(canvas.shape[1], x + image.shape[1])
        if right > left:
            canvas[y : y + image.shape[0], left:right] = image[:, left - x : right - x]
    return np.clip(canvas + rng.normal(0, 3, canvas.shape), 0, 255).astype(np.uint8)


def newcomers(people: list[Image], analyzer: facexp.Analyzer, make) -> None:  # type: ignore[no-untyped-def]
    """Measure how long it takes to find a second person who appears suddenly, or walks in from the side."""
    for name, speed in (("appear suddenly", None), ("walk in", 12)):
        delays = []
        for number, (a, b) in enumerate(itertools.pairwise(people)):
            tracker, rng, alone = make(analyzer), np.random.default_rng(0), None
            for frame in range(4 * FPS):
                since = frame - 20 - 3 * number
                x = 540 if speed is None else max(540, 854 - speed * since)
                there = scene([(a, 60, 120)] + [(b, x, 120)] * (since >= 0), rng)
                if since >= 0 and alone is None and len(analyzer.analyze(there)) == 2:
                    alone = frame
                if len(tracker.track(there, 1000 * frame / FPS)) == 2:
                    delays.append((frame - (frame if alone is None else alone)) / FPS)
                    break
            else:
                delays.append(math.inf)
        found = ", ".join(f"{delay:.2f}" for delay in delays)
        print(f"newcomers who {name}: found {found} s later than with the detector in every frame", flush=True)


def passing(people: list[Image], analyzer: facexp.Analyzer, make) -> None:  # type: ignore[no-untyped-def]
    """Count the ids that are kept if two people walk past each other, or come close and part again."""
    for name, back in (("walk past each other", False), ("come close and part again", True)):
        kept, total, ids = 0, 0, 0
        for a, b in itertools.pairwise(people):
            tracker, rng = make(analyzer), np.random.default_rng(0)
            names: dict[str, set[int]] = {"a": set(), "b": set()}
            for frame in range(3 * FPS):
                way = frame / (3 * FPS) * 560
                way = round(2 * min(way, 560 - way) * 0.36 if back else way)
                xs = {"a": 20 + way, "b": 590 - way}
                faces = tracker.track(scene([(a, xs["a"], 120), (b, xs["b"], 110)], rng), 1000 * frame / FPS)
                if abs(xs["a"] - xs["b"]) > 200:
                    for who, x in xs.items():
                        names[who] |= {f.id for f in faces if f.id and 0 < f.box[0] + f.box[2] / 2 - x < 240}
            kept += sum(len(seen) == 1 for seen in names.values())
            ids += len(names["a"] | names["b"])
            total += 2
        print(f"two people who {name}: {kept} of {total} keep their id, {ids} ids in all", flush=True)


def moving_camera(data: Path, analyzer: facexp.Analyzer, make) -> None:  # type: ignore[no-untyped-def]
    """Count the ids in group photos seen by a moving camera.

    The camera is a window of four fifths of the photo's width. It sways by 6% of its own width with a period of 3 s, or
    is panned over the photo in 0.4 s.
    """
    seconds = np.arange(3 * FPS) / FPS
    for name in ("human_group-3.jpg", "fr_two_people.jpg"):
        photo = cv2.imread(str(data / "samples" / "photos" / name))
        assert photo is not None
        width, windows = photo.shape[1] * 4 // 5, {}
        room = photo.shape[1] - width
        windows["sways"] = room / 2 + 0.06 * width * np.sin(2 * np.pi * seconds / 3)
        windows["is panned"] = room * np.minimum(1, seconds / 0.4)
        for motion, every in (("sways", 1), ("sways", 5), ("sways", 10), ("is panned", 1)):
            tracker, ids, most = make(analyzer), set(), 0
            for start, time_s in zip(windows[motion][::every], seconds[::every], strict=True):
                faces = tracker.track(np.ascontiguousarray(photo[:, round(start) : round(start) + width]), 1e3 * time_s)
                ids |= {face.id for face in faces}
                most = max(most, len(faces))
            print(f"{name}: a camera that {motion}, one frame in {every}: {len(ids)} ids for {most} people")


def expression_change(photos: dict[str, Image], analyzer: facexp.Analyzer, smooth: Sequence[float]) -> None:
    """Measure the delay of the smoothed label after an abrupt change of expression, at the same size and place."""
    happy, sad = photos["emotion_misc_faceapi_happy"], photos["emotion_misc_faceapi_sad"]
    for fps in (10, 25):
        rng = np.random.default_rng(0)
        trackers = {seconds: Tracker(analyzer, smooth=seconds) for seconds in smooth}
        after: dict[float, float] = {}
        for frame in range(3 * fps):
            picture = scene([(happy if frame < fps else sad, 300, 120)], rng)
            for seconds, tracker in trackers.items():
                faces = tracker.track(picture, 1000 * frame / fps)
                if faces and frame >= fps and faces[0].shown.emotion.label == faces[0].emotion.label:
                    after.setdefault(seconds, frame / fps - 1)
        found = ", ".join(f"{after.get(seconds, math.inf):.2f} s with --smooth {seconds}" for seconds in smooth)
        print(f"step from happy to sad at {fps} frames/s: the label follows after {found}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--smooth", type=float, default=SMOOTH_S)
    parser.add_argument("--detect-every", type=int)
    parser.add_argument("--only", choices=("clips", "scenes"))
    options = parser.parse_args()
    cv2.setNumThreads(1)

    def make(analyzer: facexp.Analyzer) -> Tracker:
        return Tracker(analyzer, detect_every=options.detect_every, smooth=options.smooth)

    if options.only != "scenes":
        for path in sorted((options.data / "samples" / "clips").iterdir()):
            clip(path, make)
    if options.only != "clips":
        photos, analyzer = portraits(options.data), facexp.Analyzer("cpu", 1)
        people = [photo for _, photo in zip(range(4), photos.values(), strict=False)]
        newcomers(people, analyzer, make)
        passing(people, analyzer, make)
        moving_camera(options.data, analyzer, make)
        expression_change(photos, analyzer, (0.15, 0.3, 0.5))


if __name__ == "__main__":
    main()
