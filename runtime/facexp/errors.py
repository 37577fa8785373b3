"""What can go wrong at run time, each with a message that says what, where and what to do."""

from __future__ import annotations


class FacexpError(Exception):
    """Base of every error that facexp raises on purpose."""


class BundleError(FacexpError):
    """The model bundle is missing, incomplete, damaged or of another schema."""


class EngineError(BundleError):
    """The library that runs a model cannot load its file, or cannot run it."""


class DeviceError(FacexpError):
    """The asked device does not really run here."""


class DetectorError(FacexpError):
    """The face detector's file is missing or not the expected one."""


class SourceError(FacexpError):
    """A photo, clip, camera, stream or pipe cannot be read."""


TOO_LARGE = "is too large for this machine's memory"
"""What is said of a picture for which there is no memory."""
# OpenCV's Error::StsNoMem
_NO_MEMORY = -4


def no_memory(error: BaseException) -> bool:
    """Whether Python, numpy, OpenCV or onnxruntime got no memory."""
    if isinstance(error, MemoryError) or getattr(error, "code", None) == _NO_MEMORY:
        return True
    # onnxruntime has no class of its own for it
    return any(sign in str(error) for sign in ("bad_alloc", "bad allocation", "Failed to allocate memory"))


def one_line(error: BaseException) -> str:
    """What an error says, in one short line."""
    return " ".join(str(error).split())[:300]


def reason(error: OSError) -> str:
    """Why a file or folder cannot be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file or folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"cannot be read: {error.strerror or error}"
