"""`facexp COMMAND`: one group whose commands are imported when they are needed."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable

import click

from facexp_cli.extras import missing

COMMANDS: dict[str, tuple[str, str, str]] = {
    "infer": ("facexp_cli.infer", "infer", "cpu"),
    "demo": ("facexp_cli.demo", "demo", "demo"),
    "doctor": ("facexp_cli.doctor", "doctor", "cpu"),
    "explore": ("facexp_cli.explore", "explore_command", "train"),
    "augment": ("facexp_cli.augment", "augment_command", "train"),
    "train": ("facexp_cli.train", "train_command", "train"),
    "evaluate": ("facexp_cli.evaluate", "evaluate_command", "train"),
    "predict": ("facexp_cli.predict", "predict_command", "train"),
    "export": ("facexp_cli.export", "export_command", "export"),
    "verify": ("facexp_cli.verify", "verify_command", "cpu"),
    "serve": ("facexp_cli.serve", "serve_command", "serve"),
    "benchmark": ("facexp_cli.benchmark", "benchmark", "cpu"),
}
"""Command -> module, name in the module, and the extra that it needs."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name, extra = COMMANDS[cmd_name]
        try:
            command = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            return _unavailable(cmd_name, extra, error.name or module)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{name} is not a command")
        return command


def _unavailable(name: str, extra: str, module: str) -> click.Command:
    """Stands in for a command that cannot be imported, so that `facexp --help` still lists the others."""

    def fail(**_: object) -> None:
        raise missing(extra, module)

    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, settings, fail, help=f'Not available: pip install "facexp[{extra}]"')


@click.group("facexp", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="facexp", message="facexp %(version)s")
def cli() -> None:
    """Find faces, 15 keypoints and an emotion in photos and clips, and train the networks that do it."""


def main() -> None:
    """The console script `facexp`."""
    _end(lambda: cli, "facexp")


def infer_main() -> None:
    """The console script `facexp-infer`: the same command as `facexp infer`."""

    def load() -> click.Command:
        from facexp_cli.infer import infer

        return infer

    _end(load, "facexp-infer")


def _end(load: Callable[[], click.Command], name: str) -> None:
    _open_streams()
    try:
        status = load().main(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        status = _show(error)
    except (click.Abort, KeyboardInterrupt):
        # click turns Ctrl-C into Abort, and by itself would end with status 1
        status = 130
    except ImportError as error:
        status = _show(click.ClickException(f"{error}: facexp doctor says what to type"))
    except OSError as error:
        from facexp_cli.console import unwritten

        status = _show(unwritten(error)) if _echoed(error) else _fault()
    except Exception:
        status = _fault()
    status = status if isinstance(status, int) else 0
    live = sys.modules.get("facexp.live")
    if live is not None and live.hangs():
        # Python would wait for the thread, or abort when that comes back in the middle of the end
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _show(error: click.ClickException) -> int:
    # whether or not it can be told, the status is its own
    with contextlib.suppress(OSError):
        error.show()
    return error.exit_code


def _fault() -> int:
    """Print where it happened; a thread may still read, so that the way out is that of all other ends."""
    import traceback

    traceback.print_exc()
    return 1


def _echoed(error: OSError) -> bool:
    """Whether it came from printing: a write that fails does not say what it was written to."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is click.echo.__code__


def _open_streams() -> None:
    """Give closed standard streams (`>&-`) something that swallows what goes there.

    The next file that is opened would get their number, and libraries would print into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
