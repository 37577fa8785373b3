"""The proof of a bundle: what was checked, what was measured, what it was held to, and the verdict.

Five steps: structure, numbers, task, device and layers. `facexp.proof_structure` and `facexp.proof_device` make the
first and the fourth with nothing but the runtime; the others need the faces and live with the export.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

SCHEMA = 1
"""Of report.json."""

Verdict = Literal["passed", "failed", "skipped", "reported"]
"""A skipped step proves nothing and refuses nothing; a reported one has figures that are held to no limit."""

SPEED_UP = "speed-up over "
"""What the figure of a file's time beside another's is called; the other's name follows."""

STEPS: Mapping[int, str] = {1: "structure", 2: "numbers", 3: "task", 4: "device", 5: "layers"}


@dataclass(frozen=True, slots=True)
class Check:
    """One fact that was looked at, or one figure that was taken."""

    what: str
    """The fact or the figure."""
    task: str = ""
    """"keypoints" or "emotion", empty where it is about the whole bundle."""
    file: str = ""
    """Key of the file as in the manifest, empty where it is about none."""
    output: str = ""
    """Name of the network's output, empty where it is about none."""
    device: str = ""
    """"cpu" or "cuda": where the live session really ran, empty where nothing did."""
    value: float | None = None
    """The figure; None for a fact."""
    unit: str = ""
    low: float | None = None
    high: float | None = None
    """The ends of the figure's 95% interval, where it has one."""
    limit: float | None = None
    """What the figure, or the worse end of its interval, may be at most."""
    passed: bool | None = None
    """None: reported, not judged."""
    note: str = ""
    """What is wrong and what to do about it, or why the limit is what it is."""

    @property
    def subject(self) -> str:
        """What the check is about: task, file and output, as far as there are."""
        return " ".join(part for part in (self.task, self.file, self.output) if part) or "bundle"


def held(check: Check) -> Check:
    """The figure with its verdict: `high`, or the value where there is no interval, is at most `limit`.

    What is not a number passes nothing.
    """
    worst = check.value if check.high is None else check.high
    if worst is None or check.limit is None:
        raise ValueError(f"{check.what}: a figure and a limit are needed")
    return replace(check, passed=bool(worst <= check.limit))


@dataclass(frozen=True, slots=True)
class Step:
    """One of STEPS, done or skipped."""

    number: int
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    """What was left out, why, and what to do to have it."""
    never: tuple[str, ...] = ()
    """What the step does on no machine, and why: nothing is missing there."""

    @property
    def name(self) -> str:
        """As in STEPS."""
        return STEPS[self.number]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def verdict(self) -> Verdict:
        """Failed when one check has; skipped when there is none."""
        if self.failures:
            return "failed"
        if not self.checks:
            return "skipped"
        return "passed" if any(check.passed for check in self.checks) else "reported"


@dataclass(frozen=True, slots=True)
class Report:
    """The whole proof of one bundle on one machine."""

    bundle: Mapping[str, str]
    """name, version and created, as the manifest has them."""
    machine: Mapping[str, str]
    """Where it was made: system, versions, threads."""
    steps: tuple[Step, ...]

    @property
    def passed(self) -> bool:
        """Whether no step failed. What was skipped is not proved: see `skipped`."""
        return not self.failed

    @property
    def failed(self) -> tuple[Step, ...]:
        """The steps that failed."""
        return tuple(step for step in self.steps if step.verdict == "failed")

    @property
    def skipped(self) -> tuple[Step, ...]:
        """The steps 1 to 4 that were not done; layers are looked for only when something fails."""
        return tuple(step for step in self.steps if step.verdict == "skipped" and step.number < 5)

    @property
    def unproved(self) -> tuple[tuple[Step, str], ...]:
        """What steps 2 and 3 did not judge although they were done: each with the task, or with task and file."""
        checks = [check for step in self.steps for check in step.checks]
        tasks = dict.fromkeys(check.task for check in checks if check.task)
        # step 1 names every file of the manifest
        files = dict.fromkeys((check.task, check.file) for check in checks if check.file)
        left: list[tuple[Step, str]] = []
        for step in self.steps:
            if step.number not in (2, 3) or not step.checks:
                continue
            judged = [check for check in step.checks if check.passed is not None]
            done = {check.task for check in judged}
            # the file that step 3 holds the others against has figures there and no verdict
            seen = {(check.task, check.file) for check in (step.checks if step.number == 3 else judged)}
            left += [(step, task) for task in tasks if task not in done]
            left += [(step, f"{task} {file}") for task, file in files if task in done and (task, file) not in seen]
        return tuple(left)

    @property
    def proved(self) -> bool:
        """Whether no step failed, and all were done for all files of all tasks."""
        return not (self.failed or self.skipped or self.unproved)

    @property
    def whole(self) -> bool:
        """Whether it is proved, and the notes say of nothing that it was left out."""
        return self.proved and not any(step.notes for step in self.steps if step.number < 5)

    def about(self, task: str) -> Report:
        """Only the checks of one task; notes stay."""
        steps = [replace(step, checks=tuple(c for c in step.checks if c.task == task)) for step in self.steps]
        return replace(self, steps=tuple(steps))

    def to_dict(self) -> dict[str, Any]:
        """As it stands in report.json; what is empty or not a number is null or left out."""
        return {
            "schema": SCHEMA,
            "passed": self.passed,
            "proved": self.proved,
            "bundle": dict(self.bundle),
            "machine": dict(self.machine),
            "steps": [
                {
                    "number": step.number,
                    "name": step.name,
                    "verdict": step.verdict,
                    "notes": [*step.notes, *step.never],
                    "left_out": list(step.notes),
                    "checks": [_written(check) for check in step.checks],
                }
                for step in self.steps
            ],
        }


def failing(steps: Iterable[Step]) -> list[tuple[str, str]]:
    """(task, file) of every file that failed a check, each once, in order."""
    found = [(check.task, check.file) for step in steps for check in step.failures if check.task and check.file]
    return list(dict.fromkeys(found))


def _written(check: Check) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(check).items() if value not in (None, "")}
    return {name: _rounded(value) if isinstance(value, float) else value for name, value in kept.items()}


def _rounded(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
