"""`facexp COMMAND`: a group of commands that are imported only when they are needed."""

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
"""For each command its module, the name of the click command in it, and the extra of facexp that it needs."""


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
    """Return a placeholder for a command that cannot be imported, so that `facexp --help` lists all."""

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
    _run_and_exit(lambda: cli, "facexp")


def infer_main() -> None:
    """The console script `facexp-infer`: the same command as `facexp infer`."""

    def load() -> click.Command:
        from facexp_cli.infer import infer

        return infer

    _run_and_exit(load, "facexp-infer")


def _run_and_exit(load: Callable[[], click.Command], name: str) -> None:
    _open_streams()
    try:
        status = load().main(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        status = _show(error)
    except (click.Abort, KeyboardInterrupt):
        # click turns Ctrl-C into Abort; in standalone mode it would exit with status 1
        status = 130
    except ImportError as error:
        status = _show(click.ClickException(f"{error}: run facexp doctor to find a fix"))
    except OSError as error:
        from facexp_cli.console import unwritten

        status = _show(unwritten(error)) if _is_from_echo(error) else _print_traceback()
    except Exception:
        status = _print_traceback()
    status = status if isinstance(status, int) else 0
    live = sys.modules.get("facexp.sources.live")
    if live is not None and live.hangs():
        # Python would wait for the hanging thread, or abort if the thread returns during shutdown
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    try:
        sys.stderr.flush()
    except OSError:
        from facexp_cli.console import discard_output

        # Python's own attempt to write it would change the exit status
        discard_output(sys.stderr)
    sys.exit(status)


def _show(error: click.ClickException) -> int:
    # the status is the same whether or not the message can be printed
    with contextlib.suppress(OSError):
        error.show()
    return error.exit_code


def _print_traceback() -> int:
    """Print the traceback and return the exit status.

    The caller then exits as in all other cases, because a reader thread may still be running.
    """
    import traceback

    traceback.print_exc()
    return 1


def _is_from_echo(error: OSError) -> bool:
    """Whether `click.echo` raised the error: the OSError itself does not name the file that was written to."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is click.echo.__code__


def _open_streams() -> None:
    """Connect closed standard streams (`>&-`) to /dev/null.

    Otherwise the next file that is opened would get their descriptor, and libraries would print into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
