"""The errors that facexp raises at run time; each message says what is wrong, where, and what to do."""

from __future__ import annotations


class FacexpError(Exception):
    """Base of every error that facexp raises on purpose."""


class BundleError(FacexpError):
    """The model bundle is missing, incomplete, damaged or has a schema that facexp does not know."""


class EngineError(BundleError):
    """The library that runs the models cannot load or run a model file."""


class DeviceError(FacexpError):
    """The requested device does not work on this machine, or the library that it needs is missing."""


class DetectorError(FacexpError):
    """The face detector's model file is missing, has another hash than expected or is not a YuNet model."""


class SourceError(FacexpError):
    """A photo, clip, camera, stream or pipe cannot be read."""


TOO_LARGE = "is too large for this machine's memory"
"""The end of the message about a picture that does not fit into memory."""
# OpenCV's Error::StsNoMem
_NO_MEMORY = -4


def no_memory(error: BaseException) -> bool:
    """Whether the error means that Python, numpy, OpenCV or onnxruntime could not allocate memory."""
    if isinstance(error, MemoryError) or getattr(error, "code", None) == _NO_MEMORY:
        return True
    # onnxruntime has no exception class for it
    return any(sign in str(error) for sign in ("bad_alloc", "bad allocation", "Failed to allocate memory"))


def one_line(error: BaseException) -> str:
    """The error's message on one line, cut off after 300 characters; of one without a message, such as MemoryError, its
    class."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def reason(error: OSError) -> str:
    """Why a file or folder cannot be read, as the end of a message."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file or folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"cannot be read: {error.strerror or error}"
