"""One analyzer, asked by several threads at once, says what it says to one."""

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


def agree(ask: Callable[[Any], Any], things: list[Any]) -> None:
    """What two threads hear about the things, each many times and in another order, is what one hears."""
    alone = [ask(thing) for thing in things]
    start = threading.Barrier(2)

    def again(step: int) -> list[tuple[int, Any]]:
        start.wait(20)
        order = [step * number % len(things) for number in range(ROUNDS * len(things))]
        return [(number, ask(things[number])) for number in order]

    with ThreadPoolExecutor(2) as pool:
        for heard in pool.map(again, (1, len(things) - 1)):
            for number, answer in heard:
                np.testing.assert_array_equal(answer, alone[number])


@pytest.mark.parametrize("backend", ["onnxruntime", "litert"])
def test_faces_of_several_threads(backend: str, astronaut: Any) -> None:
    """Guards photos that are analysed at once: no face gets another one's points or emotion."""
    if backend == "litert":
        pytest.importorskip("ai_edge_litert", reason='LITERT NOT TESTED: pip install "facexp[litert]"')
    analyzer = facexp.Analyzer("cpu", 1, backend=backend)
    crops = [astronaut[top : top + 200, 130:330] for top in (10, 20, 30)]

    def ask(crop: Any) -> Any:
        (face,) = analyzer.analyze_crops([crop])
        assert face.emotion is not None
        assert analyzer.timings.keypoints_ms > 0
        return np.append(face.keypoints, list(face.emotion.probabilities.values()))

    agree(ask, crops)


@pytest.mark.parametrize("kind", [yunet.OnnxYuNet, yunet.OpenCvYuNet])
def test_detectors_of_several_threads(kind: Any, astronaut: Any) -> None:
    """Guards the same of both detectors, with pictures of several sizes, one of which is set in OpenCV's."""
    network = kind(_packaged().read_bytes(), "yunet.onnx", 0.5, 1)
    pictures = [np.ascontiguousarray(astronaut[:side, 80 : 80 + side]) for side in (256, 288, 320)]
    assert all(len(network(picture)) for picture in pictures)
    agree(network, pictures)


def test_timings_are_those_of_the_thread_that_asks(analyzer: facexp.Analyzer, astronaut: Any) -> None:
    # guards: "ms" of photos that are analysed at once: another thread's crops take no time to detect
    analyzer.analyze(astronaut)
    before = analyzer.timings
    assert before.detect_ms > 0
    other = threading.Thread(target=analyzer.analyze_crops, args=([astronaut],))
    other.start()
    other.join()
    assert analyzer.timings == before
