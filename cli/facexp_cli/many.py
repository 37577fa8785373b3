"""A run of `facexp-infer --engine ray`: calls `facexp.many` and shows progress and errors."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from facexp_cli.console import Stop, stderr_message

if TYPE_CHECKING:
    from facexp.many import ManyImages
    from facexp_cli.job import Job

_logger = logging.getLogger("facexp")


def run_many(job: Job) -> int:
    """Run the job and return the exit status. Nothing is written to standard output."""
    # heavy imports, which other commands do not need
    from facexp import FacexpError
    from facexp.many import ManyImages, Settings

    settings = Settings(
        analyzer=job.analyzer_options(),
        face_crops=job.face_crops,
        options=job.read_options(),
        detect_every=job.detect_every,
        smooth=job.smooth,
    )
    try:
        many = ManyImages(job.sources, str(job.out), settings, resume=job.resume)
        if many.left < many.total:
            _logger.warning("%d of %d sources are done already", many.total - many.left, many.total)
        if many.unread:
            _logger.warning("%d of these could not be read: the column error says why", many.unread)
        return _run(job, many)
    except FacexpError as error:
        raise click.ClickException(str(error)) from None


def _run(job: Job, many: ManyImages) -> int:
    done, rows, faces, failed = many.total - many.left, 0, 0, many.unread > 0
    called, start, end = time.time(), math.inf, 0.0
    shown = not job.quiet and sys.stderr.isatty()
    bar = tqdm(total=many.total, initial=done, unit="source", disable=not shown, file=sys.stderr, leave=False)
    parts = many.run(job.workers, job.gpus_per_worker, job.device, job.ray_address)
    try:
        with bar:
            for part in parts:
                for note in part.notes:
                    _logger.warning(note)
                for error in part.errors:
                    stderr_message("Error", error)
                done, rows, faces = done + part.sources, rows + part.rows, faces + part.faces
                start, end = min(start, part.start_s), max(end, part.end_s)
                failed = failed or bool(part.errors)
                bar.update(part.sources)
    except Stop:
        _logger.warning("%d of %d sources are done: --resume continues with the others", done, many.total)
        raise
    finally:
        # this also stops Ray
        parts.close()
    if rows:
        seconds = end - start, start - called
        _logger.info("%d pictures, %d faces in %.1f s, after a start-up of %.1f s", rows, faces, *seconds)
    return 1 if failed else 0
