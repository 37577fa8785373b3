"""The packages installed for this Python: versions, imports, requirements, and the commands that change them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import operator
import re
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import Distribution
from typing import Any


class BrokenError(Exception):
    """A module cannot be imported; the message says which one and why, on one line."""


def load(module: str, attribute: str) -> Any:
    """Import a module. Raises BrokenError where the import fails in any way or the module lacks the attribute."""
    try:
        # without numpy, importing OpenCV prints an error to stdout
        with contextlib.redirect_stdout(sys.stderr):
            found = importlib.import_module(module)
    # a damaged package can raise any exception: AttributeError, OSError, SystemError ...
    except Exception as error:
        raise BrokenError(f"{module} cannot be imported ({' '.join(str(error).split())[:200]})") from error
    # an empty folder that an uninstalled package left behind can be imported
    if not hasattr(found, attribute):
        raise BrokenError(f"{module} is incomplete (it has no {attribute})")
    return found


def installed() -> dict[str, Distribution]:
    """Normalised name -> distribution, for all on this Python's path; of two with the same name, the imported one."""
    found: dict[str, Distribution] = {}
    for distribution in importlib.metadata.distributions():
        # the metadata folder that a broken installation left behind has no name in it
        if name := distribution.metadata["Name"]:
            found.setdefault(normalised_name(name), distribution)
    return found


def distributions_providing(distributions: Mapping[str, Distribution], start: str, package: str) -> dict[str, str]:
    """Name -> version of the distributions whose names begin with `start` and whose files include `package`."""
    return {
        name: distribution.version
        for name, distribution in sorted(distributions.items())
        if name.startswith(start)
        # a distribution without a list of its files is accepted by its name alone
        and (distribution.files is None or any(file.parts[0] == package for file in distribution.files))
    }


def requirements(distribution: Distribution) -> dict[str, str]:
    """Normalised name -> requirement in pip's syntax, for all that the distribution needs on every machine.

    Requirements with a marker, such as an extra or a Python version, are left out.
    """
    plain = [text for text in distribution.requires or () if ";" not in text]
    return {normalised_name(re.split(r"[^\w.-]", text, maxsplit=1)[0]): text for text in plain}


_COMPARISONS: dict[str, Callable[[list[int], list[int]], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "~=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def satisfies(version: str, requirement: str) -> bool:
    """Whether a version meets a requirement. Only the numbers at the beginning of version and bounds are compared.

    `~=` is treated as `>=`, and bounds with a wildcard are ignored. A requirement without bounds allows any version.
    """
    bounds = re.findall(r"([=!<>~]=|[<>])\s*(\d+(?:\.\d+)*)(?![\d.]*\*)", requirement)
    for comparison, bound in bounds:
        pairs = list(itertools.zip_longest(_numbers(version), _numbers(bound), fillvalue=0))
        if not _COMPARISONS[comparison]([left for left, _ in pairs], [right for _, right in pairs]):
            return False
    return True


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", version, maxsplit=1)[0])]


def origin(distribution: Distribution) -> str:
    """The argument with which pip installs the distribution again: its URL of origin, or its name and version."""
    text = distribution.read_text("direct_url.json")
    if not text:
        return f"{distribution.metadata['Name']}=={distribution.version}"
    direct = json.loads(text)
    url: str = direct["url"]
    if "vcs_info" in direct:
        url = f"{direct['vcs_info']['vcs']}+{url}@{direct['vcs_info']['commit_id']}"
    return f"{url}#subdirectory={direct['subdirectory']}" if direct.get("subdirectory") else url


def normalised_name(name: str) -> str:
    """A distribution's name, normalised as in PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pip(*arguments: str) -> str:
    """The command line that runs pip for this Python, or uv where this Python has no pip."""
    if importlib.util.find_spec("pip") is not None:
        return command_line(sys.executable, "-m", "pip", *arguments)
    # uv needs no confirmation, and warns about a needless -y
    kept = [argument for argument in arguments[1:] if argument != "-y"]
    return command_line("uv", "pip", arguments[0], "--python", sys.executable, *kept)


def command_line(*words: str) -> str:
    """A command line, quoted so that both a POSIX shell and cmd.exe can run it."""
    return " ".join(word if re.fullmatch(r"[\w./:=,@~+\\-]+", word) else f'"{word}"' for word in words)
