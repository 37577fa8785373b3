"""How long the runtime's steps take on this machine: python benchmarks/speed.py [THREADS]

Every pair is timed in turns within one run, so that a busy moment hits both: read the ratios, the milliseconds are this
machine's. Prints the median and the middle half of each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

import facexp
from facexp.bundle import Bundle
from facexp.detector import Detector
from facexp.session import Session
from facexp_cli.demo import astronaut

ROUNDS = 200


def timed(rivals: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, np.ndarray]:
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, call in rivals.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.percentile(values, [25, 50, 75]) for name, values in times.items()}


def show(title: str, results: dict[str, np.ndarray]) -> None:
    first = next(iter(results.values()))[1]
    for name, (low, middle, high) in results.items():
        print(f"{title:<28}{name:<10}{middle:8.2f} ms  [{low:.2f}, {high:.2f}]  x{first / middle:.2f}")


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    cv2.setNumThreads(threads)
    print(f"facexp {facexp.__version__}, OpenCV {cv2.__version__}, {threads} thread(s)")
    bundle = Bundle.load()
    photo = cv2.imread(str(astronaut()))
    for model in (bundle.keypoints, bundle.emotion):
        for batch in (1, 8):
            gray = cv2.resize(cv2.cvtColor(photo[40:200, 145:305], cv2.COLOR_BGR2GRAY), (model.size, model.size))
            crops = np.repeat(gray[None, :, :, None], batch, axis=0)
            sessions = {
                key: Session(bundle.read(model, key), model, key, threads=threads)
                for key in ("float32.onnx", "int8.onnx")
            }
            rivals = {name: partial(session.run, crops) for name, session in sessions.items()}
            show(f"{model.name}, batch {batch}", timed(rivals))
    detector = Detector()
    for width, height in ((320, 240), (640, 480), (1280, 720)):
        image = cv2.resize(photo, (width, height))
        show(f"detector, {width}x{height}", timed({"yunet": partial(detector.detect, image)}, 50))
    image = cv2.resize(photo, (640, 480))
    analyzers = {p: facexp.Analyzer("cpu", threads, precision=p) for p in ("float32", "int8")}
    show("one face of 640x480, all", timed({p: partial(a.analyze, image) for p, a in analyzers.items()}, 50))


if __name__ == "__main__":
    main()
