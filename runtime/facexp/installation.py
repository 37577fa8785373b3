"""What is installed for this Python, whether it can be imported, and the commands that change it."""

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
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import Distribution
from typing import Any


class BrokenError(Exception):
    """A module that cannot be imported; the text says which and why, on one line."""


def load(module: str, attribute: str) -> Any:
    """The imported module. Raises BrokenError where it fails to import in any way or lacks the attribute."""
    try:
        # OpenCV prints on stdout that it wants numpy
        with contextlib.redirect_stdout(sys.stderr):
            found = importlib.import_module(module)
    # a damaged package raises what it likes: AttributeError, OSError, SystemError ...
    except Exception as error:
        raise BrokenError(f"{module} cannot be imported ({' '.join(str(error).split())[:200]})") from error
    # the empty folder that an uninstalled package leaves behind can be imported
    if not hasattr(found, attribute):
        raise BrokenError(f"{module} is incomplete (it has no {attribute})")
    return found


def installed() -> dict[str, Distribution]:
    """Normalised name -> distribution, for all that this Python sees; of two with one name the one that is imported."""
    found: dict[str, Distribution] = {}
    for distribution in importlib.metadata.distributions():
        # a folder that a broken installation left behind has no name
        if name := distribution.metadata["Name"]:
            found.setdefault(normal(name), distribution)
    return found


def providers(distributions: Mapping[str, Distribution], start: str, package: str) -> dict[str, str]:
    """Name -> version of the distributions whose names start so and which put this package on disk."""
    return {
        name: distribution.version
        for name, distribution in sorted(distributions.items())
        if name.startswith(start)
        # without a list of its files it must be taken at its name
        and (distribution.files is None or any(file.parts[0] == package for file in distribution.files))
    }


def requirements(distribution: Distribution) -> dict[str, str]:
    """Normalised name -> requirement as pip takes it, for what the distribution needs without any extra."""
    plain = [text for text in distribution.requires or () if "extra ==" not in text]
    return {normal(re.split(r"[^\w.-]", text, maxsplit=1)[0]): text for text in plain}


_ALLOWS: dict[str, Callable[[list[int], list[int]], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "~=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def fits(version: str, requirement: str) -> bool:
    """Whether a requirement allows a version, by the numbers that both begin with; what has none is allowed."""
    bounds = re.findall(r"([=!<>~]=|[<>])\s*(\d+(?:\.\d+)*)(?![\d.]*\*)", requirement.partition(";")[0])
    for comparison, bound in bounds:
        pairs = list(itertools.zip_longest(_numbers(version), _numbers(bound), fillvalue=0))
        if not _ALLOWS[comparison]([has for has, _ in pairs], [asked for _, asked in pairs]):
            return False
    return True


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", version, maxsplit=1)[0])]


def origin(distribution: Distribution) -> str:
    """What pip takes to install the distribution again: where it came from, or its name and version."""
    text = distribution.read_text("direct_url.json")
    if not text:
        return f"{distribution.metadata['Name']}=={distribution.version}"
    direct = json.loads(text)
    place: str = direct["url"]
    if "vcs_info" in direct:
        place = f"{direct['vcs_info']['vcs']}+{place}@{direct['vcs_info']['commit_id']}"
    return f"{place}#subdirectory={direct['subdirectory']}" if direct.get("subdirectory") else place


def normal(name: str) -> str:
    """A distribution's name in the one form that PEP 503 gives it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pip(*arguments: str) -> str:
    """The command line that runs pip for this very Python, or uv where this Python has no pip."""
    if importlib.util.find_spec("pip") is not None:
        return typed(sys.executable, "-m", "pip", *arguments)
    # uv never asks, and says so when it is told not to
    kept = [argument for argument in arguments[1:] if argument != "-y"]
    return typed("uv", "pip", arguments[0], "--python", sys.executable, *kept)


def typed(*words: str) -> str:
    """A command line, quoted so that a POSIX shell and cmd.exe both read it."""
    return " ".join(word if re.fullmatch(r"[\w./:=,@~+\\-]+", word) else f'"{word}"' for word in words)


def then(commands: Iterable[str]) -> str:
    """One line that runs the commands, each where the one before succeeded."""
    return " && ".join(commands)
