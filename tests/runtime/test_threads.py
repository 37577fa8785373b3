"""An analyzer that several threads use at once gives each the results that a single thread gets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import facexp
from facexp import yunet
from facexp.detector import _packaged

ROUNDS = 30


def assert_threads_agree(compute: Callable[[Any], Any], inputs: list[Any]) -> None:
    """Check that two threads, each with the inputs many times in another order, get what a single one gets."""
    alone = [compute(item) for item in inputs]
    start = threading.Barrier(2)

    def repeat(step: int) -> list[tuple[int, Any]]:
        start.wait(20)
        order = [step * number % len(inputs) for number in range(ROUNDS * len(inputs))]
        return [(number, compute(inputs[number])) for number in order]

    with ThreadPoolExecutor(2) as pool:
        for results in pool.map(repeat, (1, len(inputs) - 1)):
            for number, result in results:
                np.testing.assert_array_equal(result, alone[number])


@pytest.mark.parametrize("backend", ["onnxruntime", "litert"])
def test_threads_get_their_own_faces(backend: str, astronaut: Any) -> None:
    """Guards photos that are analysed at once: no face gets another one's points or emotion."""
    if backend == "litert":
        pytest.importorskip("ai_edge_litert", reason='LITERT NOT TESTED: pip install "facexp[litert]"')
    analyzer = facexp.Analyzer("cpu", 1, backend=backend)
    crops = [astronaut[top : top + 200, 130:330] for top in (10, 20, 30)]

    def compute(crop: Any) -> Any:
        (face,) = analyzer.analyze_crops([crop])
        assert face.emotion is not None
        assert analyzer.timings.keypoints_ms > 0
        return np.append(face.keypoints, list(face.emotion.probabilities.values()))

    assert_threads_agree(compute, crops)


@pytest.mark.parametrize("kind", [yunet.OnnxYuNet, yunet.OpenCvYuNet])
def test_threads_get_their_own_detections(kind: Any, astronaut: Any) -> None:
    """Guards both detectors likewise, with pictures of several sizes, since OpenCV's is set to one size."""
    network = kind(_packaged().read_bytes(), "yunet.onnx", 0.5, 1)
    pictures = [np.ascontiguousarray(astronaut[:side, 80 : 80 + side]) for side in (256, 288, 320)]
    assert all(len(network(picture)) for picture in pictures)
    assert_threads_agree(network, pictures)


def test_timings_are_those_of_the_calling_thread(analyzer: facexp.Analyzer, astronaut: Any) -> None:
    # guards: "ms" of photos analysed at once: another thread's crops, which take no detection time, change nothing
    analyzer.analyze(astronaut)
    before = analyzer.timings
    assert before.detect_ms > 0
    other = threading.Thread(target=analyzer.analyze_crops, args=([astronaut],))
    other.start()
    other.join()
    assert analyzer.timings == before
