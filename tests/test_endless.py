"""Memory use over an endless clip: a short form of benchmarks/endless.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc, which only Linux has")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FRAMES = 1680
# in its own process: one that has freed much memory before can use it again without growing
SCRIPT = """
import json, sys
from pathlib import Path
import endless
from facexp import Analyzer

bundle, clip, frames = sys.argv[1], endless.portrait_clip(Path(sys.argv[2])), int(sys.argv[3])
analyzer = Analyzer("cpu", 1, bundle=bundle)
flat = list(endless.slices(analyzer, clip, frames))
kept = []
leaking = list(endless.slices(analyzer, clip, frames // 4, lambda: kept.append(b"x" * 65536)))
growth = [endless.growth_mb(found) for found in (flat, leaking)]
print(json.dumps({"frames": sum(part.frames for part in flat), "growth": growth, "limit": endless.GROWTH_MB}))
"""


def test_memory_stays_flat(tiny_bundle: Path, tmp_path: Path) -> None:
    """Guards against frames, tracks, plans or records that are kept; 400 frames reveal a leak of 64 kB a frame."""
    command = [sys.executable, "-c", SCRIPT, str(tiny_bundle), str(tmp_path / "portrait.mp4"), str(FRAMES)]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["frames"] == FRAMES // 21 * 20
    flat, leaking = found["growth"]
    assert flat < found["limit"] < leaking
