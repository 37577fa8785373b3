"""The installed version of facexp."""

from __future__ import annotations

import importlib.metadata

try:
    __version__ = importlib.metadata.version("facexp")
except importlib.metadata.PackageNotFoundError:
    # a checkout on PYTHONPATH, for example on a training machine where facexp is not installed
    __version__ = "0+unknown"
