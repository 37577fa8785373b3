"""Output of a proof: a short text for the terminal, report.json for programs, and a page that opens offline."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

from facexp.address import as_utf8
from facexp.files import write_atomically
from facexp.proof.verdict import SPEED_UP, Check, Report, Step, Verdict

MEANING: dict[int, str] = {
    1: "Are the files those of the manifest, and does the manifest make sense?",
    2: "Do the files give the same numbers as the trained model, on real faces?",
    3: "Is a file worse at its task than the most exact one, at the pessimistic end of a 95% interval?",
    4: "Does this machine give the same answers as the machine of the export?",
    5: "In which layers does a failed file differ most from the most exact ONNX file?",
}


def summary(report: Report) -> str:
    """Return the report as lines of text: each step with its failures and notes, and the verdict last."""
    lines = []
    for step in report.steps:
        judged = [check for check in step.checks if check.passed is not None]
        count = f"{sum(bool(check.passed) for check in judged)} of {len(judged)} checks passed" if judged else ""
        lines.append(f"{step.number}  {step.name:<10} {step.verdict.upper():<9} {count}".rstrip())
        lines += [f"     {check.subject}: {check_text(check)}" for check in step.failures]
        if step.number == 3:
            lines += [f"     {c.subject}: {check_text(c)}" for c in step.checks if c.passed and c.value is not None]
        lines += [f"     {note}" for note in (*step.notes, *step.unsupported)]
        if step.number == 5:
            lines += [f"     {check.subject}: {check_text(check)}" for check in step.checks]
        for check in step.checks:
            if check.what.startswith(SPEED_UP) and check.file == "int8.onnx":
                base = check.what.removeprefix(SPEED_UP)
                lines.append(f"     {check.task} int8.onnx on {check.device}: {figure_text(check)} as fast as {base}")
    return "\n".join([*lines, verdict(report)])


def verdict(report: Report) -> str:
    """Return the verdict on the whole report in one sentence."""
    name = f"{report.bundle['name']} {report.bundle['version']}".strip()
    if report.failed:
        return f"{name} FAILED in {_steps(report.failed)}"
    if report.skipped:
        return f"{name} passed what was checked; NOT PROVED, because skipped: {_steps(report.skipped)}"
    if report.unproved:
        left = [f"step {step.number} ({step.name}) of {subject}" for step, subject in report.unproved]
        return f"{name} passed what was checked; NOT PROVED: {_listed(left)}"
    if not report.complete:
        return f"{name} passed what was checked; the notes say what was left out"
    return f"{name} passed"


def check_text(check: Check) -> str:
    """Return one check as text: the fact or figure, its limit, the device and the note."""
    parts = [check.what]
    if check.value is not None:
        parts.append(figure_text(check))
    if check.limit is not None:
        parts.append(f"(at most {_number(check.limit)})")
    if check.device:
        parts.append(f"on {check.device}")
    return " ".join(parts) + (f": {check.note}" if check.note else "")


def figure_text(check: Check) -> str:
    """Return value, unit and interval of a check as text, empty for a fact."""
    if check.value is None:
        return ""
    text = f"{_number(check.value)} {check.unit}".strip()
    if check.low is not None and check.high is not None:
        text += f" [{_number(check.low)}, {_number(check.high)}]"
    return text


def to_json(report: Report) -> str:
    """Return the content of report.json."""
    return json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(report: Report, directory: Path) -> tuple[Path, Path]:
    """Write report.json and report.html into a directory, which is created if missing. Raises OSError if that fails."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = directory / "report.json", directory / "report.html"
    for path, content in zip(paths, (to_json(report), page(report)), strict=True):
        write_atomically(path, as_utf8(content).encode())
    return paths


def page(report: Report) -> str:
    """Return the report as one HTML page that needs no other files."""
    state: Verdict = "failed" if report.failed else "passed" if report.complete else "skipped"
    machine = "".join(f"<dt>{_e(name)}</dt><dd>{_e(value)}</dd>" for name, value in report.machine.items())
    steps = "".join(_section(step) for step in report.steps)
    marks = "".join(
        f'<li class="{step.verdict}"><a href="#step{step.number}">{step.number} {step.name}</a>'
        f"<b>{step.verdict}</b></li>"
        for step in report.steps
    )
    title = f"{report.bundle['name']} {report.bundle['version']}".strip()
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Proof of {_e(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f'<header class="{state}"><h1>{_e(verdict(report))}</h1><ul class="steps">{marks}</ul></header>'
        f"{steps}<section><h2>Machine</h2><dl>{machine}</dl></section></body></html>\n"
    )


def _section(step: Step) -> str:
    notes = "".join(f"<li>{_e(note)}</li>" for note in (*step.notes, *step.unsupported))
    failures = "".join(f"<li>{_e(check.subject)}: {_e(check_text(check))}</li>" for check in step.failures)
    parts = [
        f'<section id="step{step.number}"><h2>{step.number} {step.name} <b class="{step.verdict}">{step.verdict}</b>'
        f"</h2><p>{MEANING[step.number]}</p>",
        f'<ul class="failed">{failures}</ul>' if failures else "",
        f"<ul>{notes}</ul>" if notes else "",
    ]
    figures = [check for check in step.checks if check.value is not None]
    judged = [check for check in figures if check.passed is not None]
    others = [check for check in figures if check.passed is None]
    facts = [check for check in step.checks if check.value is None]
    if judged:
        parts.append(_figures(judged))
    if facts:
        parts.append(_folded(f"{len(facts)} facts", _facts(facts)) if judged else _facts(facts))
    if others:
        parts.append(
            _folded(f"{len(others)} figures without a limit", _figures(others)) if judged else _figures(others)
        )
    return "".join(parts) + "</section>"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def _figures(checks: Sequence[Check]) -> str:
    head = (
        "<tr><th>file</th><th>output</th><th>figure</th><th>value</th><th>95% interval</th><th>limit</th><th></th></tr>"
    )
    rows = []
    for check in checks:
        interval = "" if check.low is None or check.high is None else f"{_number(check.low)} to {_number(check.high)}"
        limit = "" if check.limit is None else _number(check.limit)
        where = f" on {check.device}" if check.device else ""
        note = f"<br><small>{_e(check.note)}</small>" if check.note else ""
        rows.append(
            f'<tr class="{_state(check)}"><td>{_e(check.task)} {_e(check.file)}</td><td>{_e(check.output)}</td>'
            f"<td>{_e(check.what + where)}{note}</td><td>{_number(check.value or 0.0)} {_e(check.unit)}</td>"
            f"<td>{interval}</td><td>{limit}</td><td>{_bar(check)}</td></tr>"
        )
    return f"<table>{head}{''.join(rows)}</table>"


def _facts(checks: Sequence[Check]) -> str:
    rows = "".join(
        f'<tr class="{_state(check)}"><td>{_e(check.task)} {_e(check.file)}</td><td>{_e(check.what)}</td>'
        f"<td>{_state(check)}</td></tr>"
        for check in checks
    )
    return f"<table><tr><th>file</th><th>fact</th><th></th></tr>{rows}</table>"


def _bar(check: Check) -> str:
    """Draw the value as a bar, its interval as a whisker and the limit as a line, from 0 to a third above the limit."""
    if check.limit is None or check.value is None:
        return ""
    known = [value for value in (check.value, check.low, check.high) if value is not None and math.isfinite(value)]
    if not known or not check.limit > 0:
        return ""
    start, end = min(0.0, *known), max(check.limit * 4 / 3, *known)

    def at(value: float) -> str:
        return f"{160 * (value - start) / (end - start):.1f}"

    left, right = sorted((0.0, check.value))
    shapes = [f'<rect x="{at(left)}" y="5" width="{160 * (right - left) / (end - start):.1f}" height="8"/>']
    if check.low is not None and check.high is not None:
        shapes.append(f'<path class="whisker" d="M{at(check.low)} 9H{at(check.high)}"/>')
    shapes.append(f'<path class="limit" d="M{at(check.limit)} 0V18"/>')
    label = f"{figure_text(check)}, limit {_number(check.limit)}"
    # one pixel more on each side, for the half of a line that stands at an end
    size = 'width="162" height="18" viewBox="-1 0 162 18"'
    return f'<svg {size} role="img" aria-label="{_e(label)}">{"".join(shapes)}</svg>'


def _state(check: Check) -> Verdict:
    return "reported" if check.passed is None else "passed" if check.passed else "failed"


def _steps(steps: Sequence[Step]) -> str:
    return _listed([f"step {step.number} ({step.name})" for step in steps])


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _e(text: str) -> str:
    return html.escape(text, quote=True)


_STYLE = """
:root { color-scheme: light dark; --good: #1a7f37; --bad: #c62828; --dull: #8a6d00; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; }
header { border-left: .5rem solid var(--dull); padding-left: 1rem; }
header.passed { border-color: var(--good); } header.failed { border-color: var(--bad); }
h1 { font-size: 1.5rem; margin: 0; } h2 { margin-top: 2rem; } h2 b, .steps b { font-size: .8rem; margin-left: .5rem; }
.steps { display: flex; flex-wrap: wrap; gap: 1.5rem; list-style: none; padding: 0; }
.passed b, b.passed { color: var(--good); } .failed b, b.failed, ul.failed { color: var(--bad); }
.skipped b, b.skipped { color: var(--dull); }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr.failed td { color: var(--bad); font-weight: 600; } tr.reported td { opacity: .75; }
svg rect { fill: var(--good); opacity: .6; } tr.failed svg rect { fill: var(--bad); }
.whisker { stroke: currentColor; stroke-width: 2; } .limit { stroke: var(--bad); stroke-width: 2; }
dl { display: grid; grid-template-columns: max-content auto; gap: .2rem 1rem; } dd { margin: 0; }
"""
