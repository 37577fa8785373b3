"""The proof of a bundle: what was checked and measured, the limits, and the verdict.

There are five steps: structure, numbers, task, device and layers. `facexp.proof.structure` and `facexp.proof.device`
carry out the first and the fourth with the runtime alone; the others need real faces and are part of the export.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

SCHEMA = 1
"""Schema version of report.json."""

Verdict = Literal["passed", "failed", "skipped", "reported"]
"""A skipped step neither proves nor rejects anything; a reported step has only figures without a limit."""

SPEED_UP = "speed-up over "
"""`Check.what` of a file's speed relative to another file starts with this; the other file's name follows."""

STEPS: Mapping[int, str] = {1: "structure", 2: "numbers", 3: "task", 4: "device", 5: "layers"}


@dataclass(frozen=True, slots=True)
class Check:
    """One fact that was checked, or one figure that was measured."""

    what: str
    """Name of the fact or figure."""
    task: str = ""
    """"keypoints" or "emotion", empty if the check is about the whole bundle."""
    file: str = ""
    """Key of the file as in the manifest, empty if the check is about no file."""
    output: str = ""
    """Name of the network's output, empty if the check is about no output."""
    device: str = ""
    """"cpu" or "cuda": the device on which the session really ran, empty if none did."""
    value: float | None = None
    """Value of the figure; None for a fact."""
    unit: str = ""
    low: float | None = None
    high: float | None = None
    """The ends of the figure's 95% interval, if it has one."""
    limit: float | None = None
    """Largest allowed value of the figure, or of the upper end of its interval."""
    passed: bool | None = None
    """None: reported without a verdict."""
    note: str = ""
    """What is wrong and what to do about it, or the reason for the limit."""

    @property
    def subject(self) -> str:
        """What the check is about: task, file and output as far as given, else "bundle"."""
        return " ".join(part for part in (self.task, self.file, self.output) if part) or "bundle"


def with_verdict(check: Check) -> Check:
    """Return the figure with its verdict: passed if `high`, or the value if there is no interval, is at most `limit`.

    NaN never passes. Raises ValueError if the value or the limit is missing.
    """
    worst = check.value if check.high is None else check.high
    if worst is None or check.limit is None:
        raise ValueError(f"{check.what}: a figure and a limit are needed")
    return replace(check, passed=bool(worst <= check.limit))


@dataclass(frozen=True, slots=True)
class Step:
    """One of STEPS, carried out or skipped."""

    number: int
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    """What was left out, why, and what to do to include it."""
    unsupported: tuple[str, ...] = ()
    """What the step cannot do on any machine, and why; this does not count as left out."""

    @property
    def name(self) -> str:
        """Name of the step, as in STEPS."""
        return STEPS[self.number]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def verdict(self) -> Verdict:
        """Failed if a check failed, skipped if there are no checks, passed if any check passed, else reported."""
        if self.failures:
            return "failed"
        if not self.checks:
            return "skipped"
        return "passed" if any(check.passed for check in self.checks) else "reported"


@dataclass(frozen=True, slots=True)
class Report:
    """The whole proof of one bundle on one machine."""

    bundle: Mapping[str, str]
    """name, version and created, as in the manifest."""
    machine: Mapping[str, str]
    """The machine that made the report: system, versions, threads."""
    steps: tuple[Step, ...]

    @property
    def passed(self) -> bool:
        """Whether no step failed. Skipped steps count as passed here: see `skipped`."""
        return not self.failed

    @property
    def failed(self) -> tuple[Step, ...]:
        """The steps that failed."""
        return tuple(step for step in self.steps if step.verdict == "failed")

    @property
    def skipped(self) -> tuple[Step, ...]:
        """Those of steps 1 to 4 that were skipped; step 5 compares layers only if something fails."""
        return tuple(step for step in self.steps if step.verdict == "skipped" and step.number < 5)

    @property
    def unproved(self) -> tuple[tuple[Step, str], ...]:
        """What steps 2 and 3 gave no verdict on although they were carried out: (step, task or "task file")."""
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
            # in step 3 the file that the others are compared with has figures but no verdict
            seen = {(check.task, check.file) for check in (step.checks if step.number == 3 else judged)}
            left += [(step, task) for task in tasks if task not in done]
            left += [(step, f"{task} {file}") for task, file in files if task in done and (task, file) not in seen]
        return tuple(left)

    @property
    def proved(self) -> bool:
        """Whether no step failed, and steps 1 to 4 covered all files of all tasks."""
        return not (self.failed or self.skipped or self.unproved)

    @property
    def complete(self) -> bool:
        """Whether the bundle is proved, and no note of steps 1 to 4 says that something was left out."""
        return self.proved and not any(step.notes for step in self.steps if step.number < 5)

    def for_task(self, task: str) -> Report:
        """Return the report with only the checks of one task, and all notes."""
        steps = [replace(step, checks=tuple(c for c in step.checks if c.task == task)) for step in self.steps]
        return replace(self, steps=tuple(steps))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of report.json; empty fields of checks are left out, figures that are not finite null."""
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
                    "notes": [*step.notes, *step.unsupported],
                    "left_out": list(step.notes),
                    "checks": [_written(check) for check in step.checks],
                }
                for step in self.steps
            ],
        }


def failing(steps: Iterable[Step]) -> list[tuple[str, str]]:
    """Return (task, file) of every file that failed a check, each once, in order."""
    found = [(check.task, check.file) for step in steps for check in step.failures if check.task and check.file]
    return list(dict.fromkeys(found))


def _written(check: Check) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(check).items() if value not in (None, "")}
    return {name: _rounded(value) if isinstance(value, float) else value for name, value in kept.items()}


def _rounded(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
