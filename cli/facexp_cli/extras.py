"""The one line that a missing extra gets."""

from __future__ import annotations

import importlib.util

import click


def require(extra: str, *modules: str) -> None:
    """Stop with one line when a module that comes with an extra of facexp is not installed.

    Looks for the modules without importing them. Raises click.ClickException (exit status 1).
    """
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            # the package that it is in
            found = None
        if found is None:
            raise missing(extra, module)


def missing(extra: str, module: str) -> click.ClickException:
    """The error that names what is missing and how it is installed."""
    return click.ClickException(f'{module} is not installed: pip install "facexp[{extra}]"')
