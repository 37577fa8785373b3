"""benchmarks/tracking.py on a short clip: the constants of the tracking and of the smoothing were chosen with it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = "import sys; from pathlib import Path; import endless; endless.portrait_clip(Path(sys.argv[1]))"


def test_a_clip_is_compared_with_the_detector_in_every_frame(tmp_path: Path) -> None:
    """Guards against a benchmark that ends in a traceback, which no type checker and no other test would notice."""
    pytest.importorskip("skimage", reason="the astronaut comes with scikit-image")
    clips = tmp_path / "samples" / "clips"
    clips.mkdir(parents=True)
    for command in (["-c", SCRIPT, str(clips / "portrait.mp4")], ["tracking.py", str(tmp_path), "--only", "clips"]):
        done = subprocess.run([sys.executable, *command], cwd=BENCHMARKS, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "portrait.mp4: 50 frames, 2.0 s"
    # the portrait is in 45 of the frames
    counts = re.match(r"  faces: (\d+) with the detector in every frame, (\d+) tracked, (\d+) found by both", lines[1])
    assert counts is not None, lines[1]
    assert all(40 <= int(count) <= 46 for count in counts.groups()), lines[1]
    assert lines[2].endswith("1 ids, 0 id switches")
