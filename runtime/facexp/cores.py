"""Number of CPU cores of this process; a separate module, so that importing it imports nothing heavy."""

from __future__ import annotations

import os


def cores() -> int:
    """Return how many cores this process may run on, which is the most threads worth starting."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
