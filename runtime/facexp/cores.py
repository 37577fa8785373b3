"""The cores of this machine that are ours; imported where nothing else may be."""

from __future__ import annotations

import os


def cores() -> int:
    """How many threads are worth having: the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
