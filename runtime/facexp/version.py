"""The installed version of facexp."""

from __future__ import annotations

import importlib.metadata

try:
    __version__ = importlib.metadata.version("facexp")
except importlib.metadata.PackageNotFoundError:
    # a checkout on PYTHONPATH, as on a machine that trains without installing
    __version__ = "0+unknown"
