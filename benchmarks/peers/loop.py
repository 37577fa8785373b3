"""What the Python runners share: faces of one photo a line, asked on standard input, answered as JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable


def serve(load: Callable[[], Callable[[str], int]]) -> None:
    """`load` gives the function that reads a photo and counts its faces; "ready" is told once it has."""
    # libraries talk on standard output: only answers may go there
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    look = load()
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            answer: dict[str, object] = {"faces": look(line.rstrip("\n"))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answer["ms"] = 1e3 * (time.perf_counter() - wall)
        answer["cpu_ms"] = 1e3 * (time.process_time() - cpu)
        answer["peak_kb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(answer), file=answers)
