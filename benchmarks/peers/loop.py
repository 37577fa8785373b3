"""The loop of the Python runners: photo paths on standard input, one per line, and a JSON object for each as answer."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable


def serve(load: Callable[[], Callable[[str], int]]) -> None:
    """Answer requests with the function that `load` returns, which reads a photo and counts its faces.

    {"ready": true} is printed when the models are loaded.
    """
    # only answers may be printed on standard output, so send what libraries print there to standard error
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    count_faces = load()
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            answer: dict[str, object] = {"faces": count_faces(line.rstrip("\n"))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answer["ms"] = 1e3 * (time.perf_counter() - wall)
        answer["cpu_ms"] = 1e3 * (time.process_time() - cpu)
        print(json.dumps(answer), file=answers)
