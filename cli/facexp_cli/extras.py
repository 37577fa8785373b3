"""The one-line error for a missing extra of facexp."""

from __future__ import annotations

import importlib.util

import click


def require(extra: str, *modules: str) -> None:
    """Check that the modules that come with an extra of facexp are installed, without importing them.

    Raises click.ClickException (exit status 1) for the first one that is missing.
    """
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            # the package that contains the module is missing
            found = None
        if found is None:
            raise missing(extra, module)


def missing(extra: str, module: str) -> click.ClickException:
    """Return the error that names the missing module and the command that installs it."""
    return click.ClickException(f'{module} is not installed: pip install "facexp[{extra}]"')
