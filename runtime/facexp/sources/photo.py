"""Decode one photo file to the pixels that a person sees, or say in one line why that is not possible.

Decisions per format:

- EXIF orientation (JPEG, PNG, WebP, TIFF) and AVIF's rotation and mirror are applied.
- Transparency is blended with white, as in a browser; OpenCV does not return the transparency of gray TIFFs.
- 16-bit pictures become 8-bit. If all values fit into 8, 10, 12 or 14 bits, they are assumed to be a camera's values of
  that depth in a 16-bit container, and that range is scaled to 0..255: with the full range they would look black.
- Floats and 32-bit integers are refused: they have no standard black and white level.
- Files that end early, hold more than MAX_PIXELS, or are only the preview of a camera raw file are refused.
- Of a multi-page TIFF the first page is read, and a log line says so.
- GIF, APNG, WebP and AVIF with more than one frame are clips: `animation` reads them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facexp.errors import TOO_LARGE, SourceError, no_memory
from facexp.geometry import Image
from facexp.sources import png

MAX_PIXELS = 250_000_000
"""Pictures with more pixels are refused: decoded they would take more than 750 MB."""

_STRIP_ROWS = 256
MAX_BYTES = 1 << 30
"""Photo files with more bytes are refused."""
ANIMATION_WINDOW_PIXELS = 32_000_000
"""Number of an animation's pixels that are decoded at once; this bounds the memory that a long one takes."""
# OpenCV refuses to decode more pixels of an animation at once, and counts four frames more than are requested
_MAX_AT_ONCE, _EXTRA_FRAMES = 1 << 30, 4

ANIMATION_FPS = 50.0
"""Frames per second at which an animation is saved: browsers show each frame for at least 20 ms."""

Pixels = NDArray[np.generic]

# EXIF orientations that change width and height
_TRANSPOSED = (5, 6, 7, 8)

_COLOUR_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_GRAY_FLAGS = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}

_ORIENTATION_TAG, _SUBFILE_TAG, _WIDTH_TAG, _HEIGHT_TAG, _EXTRA_TAG = 0x112, 254, 256, 257, 338
_PHOTOMETRIC_TAG, _MIN_IS_WHITE = 262, 0
# TIFF's integer types -> format characters of `struct`
_INTEGER_TYPES = {1: "B", 3: "H", 4: "I"}

# an OS/2 bitmap's header starts with its own length, 12
_OS2_HEADER = struct.pack("<I", 12)


def sniff(head: bytes) -> str | None:
    """Return the photo format that a file's first bytes (32 are enough) identify, or None."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "BMP"
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, len(head) - 3, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & {b"heic", b"heix", b"heif", b"hevc", b"mif1"}:
            return "HEIC"
    if head.startswith(b"\0\0\0\x0cjP  \r\n\x87\n") or head.startswith(b"\xff\x4f\xff\x51"):
        return "JPEG 2000"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PNM"
    return None


class TooLargeError(SourceError):
    """The picture has more pixels than are accepted."""


def decode(data: bytes, kind: str, reduction: int = 1, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode the bytes of a photo file to BGR (H, W, 3) uint8, upright and opaque.

    `kind` is the format from `sniff`. A JPEG can be decoded 2, 4 or 8 times smaller (`reduction`; sides are rounded up)
    in less than half the time: libjpeg computes fewer values of each block, each the mean of the pixels that it
    replaces. Raises SourceError with only the reason as its message (the caller adds the name), and TooLargeError for
    more than `max_pixels`; JPEG, PNG, GIF, BMP, TIFF and WebP are checked by their headers, before memory is allocated.
    """
    if kind == "HEIC":
        raise SourceError("is a HEIC photo, which OpenCV does not read: convert it to JPEG or PNG")
    _check_header(data, kind, max_pixels)
    if kind == "PNG":
        data = png.without_animation(data)
    image, orientation = _decode_stored(data, kind, _COLOUR_FLAGS[reduction])
    if image.shape[0] * image.shape[1] > max_pixels:
        raise _too_large(image.shape[1], image.shape[0], max_pixels)
    tags = _tiff_tags(data) if kind == "TIFF" else {}
    premultiplied = False
    if kind == "TIFF" and image.ndim == 3 and image.shape[2] == 4:
        # 0: data without a meaning, 1: premultiplied alpha, 2: straight alpha; OpenCV writes its alpha without this tag
        extra = tags.get(_EXTRA_TAG, 2)
        if extra == 0:
            image = image[:, :, :3]
        # libtiff multiplies 8-bit colours by the alpha that the tag declares
        premultiplied = extra == 1 or (_EXTRA_TAG in tags and image.dtype == np.uint8)
    shown = _to_bgr8(image, premultiplied)
    if image.dtype == np.uint16 and tags.get(_PHOTOMETRIC_TAG) == _MIN_IS_WHITE:
        # libtiff inverts such pictures itself if they have 8 bits
        shown = np.asarray(cv2.bitwise_not(shown), dtype=np.uint8)
    return _oriented(shown, orientation)


def decode_gray(data: bytes, reduction: int) -> Image:
    """Decode the bytes of a JPEG to gray (H, W) uint8, upright, in two thirds of the time of `decode`.

    The gray values are those of the decoded colours, except where a colour was clipped at 0 or 255. `reduction` and
    errors are as for `decode`.
    """
    _check_header(data, "JPEG", MAX_PIXELS)
    image, orientation = _decode_stored(data, "JPEG", _GRAY_FLAGS[reduction])
    return _oriented(np.asarray(image, dtype=np.uint8), orientation)


def reductions(data: bytes, longest: int) -> tuple[int, int, int]:
    """Return (reduction, width, height): how many times smaller a JPEG can be decoded, and the size of the photo.

    The reduction is the largest of 2, 4 and 8 that leaves at least `longest` pixels on the longest side, else 1. The
    size is that of the upright photo in pixels, zeros if the header does not contain it.
    """
    width, height, orientation, _ = _jpeg_header(data)
    if orientation in _TRANSPOSED:
        width, height = height, width
    return max(n for n in _COLOUR_FLAGS if n == 1 or max(width, height) >= n * longest), width, height


def pages(path: Path, kind: str) -> int:
    """Return how many pages or frames a photo file holds; 1 if its format has only one, or if the file is damaged."""
    if kind not in ("GIF", "PNG", "WebP", "AVIF", "TIFF"):
        return 1
    try:
        return max(1, cv2.imcount(opencv_name(path)))
    except cv2.error:
        return 1


def animation(path: Path, total: int) -> Iterator[tuple[Image, float]]:
    """Yield the frames of an animated GIF, APNG, WebP or AVIF: BGR (H, W, 3) uint8, and its duration in ms.

    `total` is the number of frames. Raises SourceError (only the reason) if the file is damaged, and TooLargeError if a
    frame is too large.
    """
    with path.open("rb") as file:
        head = file.read(64)
        kind = sniff(head) or ""
        try:
            _check_header(head, kind, min(MAX_PIXELS, _MAX_AT_ONCE // (1 + _EXTRA_FRAMES)))
        except TooLargeError as error:
            raise TooLargeError(f"{error} per frame of an animation") from None
        if kind == "PNG":
            png.check_animation(file)
    start, window = 0, 1
    while start < total:
        try:
            ok, frames = cv2.imreadanimation(opencv_name(path), start=start, count=window)
        except cv2.error as error:
            if no_memory(error):
                raise SourceError(TOO_LARGE) from None
            ok = False
        if not ok or len(frames.frames) == 0:
            raise SourceError(f"breaks off after {start} of {total} frames: the file is damaged or cut short")
        for pixels, duration in zip(frames.frames, frames.durations, strict=True):
            # like browsers, show a frame with a duration of 10 ms or less for 100 ms
            yield _to_bgr8(pixels, premultiplied=False), float(duration) if duration > 10 else 100.0
        start += len(frames.frames)
        # OpenCV decodes from the beginning of the file for every window, so use few large ones, but of bounded size
        height, width = frames.frames[0].shape[:2]
        window = min(
            max(16, ANIMATION_WINDOW_PIXELS // (height * width)), _MAX_AT_ONCE // (height * width) - _EXTRA_FRAMES
        )


def opencv_name(path: Path) -> str:
    """Return the absolute path as text for OpenCV: FFmpeg would read a relative one with a colon as a protocol.

    Raises SourceError (only the reason) for a name that is not valid UTF-8.
    """
    try:
        return os.fsencode(path.absolute()).decode()
    except UnicodeDecodeError:
        raise SourceError("has a name that is not valid UTF-8, which OpenCV cannot open: rename it") from None


def _decode_stored(data: bytes, kind: str, jpeg_flags: int) -> tuple[Pixels, int]:
    """Return the picture as stored, and the EXIF orientation still to be applied (1 to 8; 0: none is given).

    `jpeg_flags` are OpenCV's read flags for a JPEG.
    """
    buffer = np.frombuffer(data, dtype=np.uint8)
    # OpenCV rotates TIFF itself, but PNG and WebP only if it also drops alpha and bit depth, so they are rotated here
    orientation = 1
    image: Pixels | None = None
    try:
        if kind in ("PNG", "WebP"):
            image, kinds, chunks = cv2.imdecodeWithMetadata(buffer, flags=cv2.IMREAD_UNCHANGED)
            for metadata_type, chunk in zip(kinds, chunks, strict=True):
                if metadata_type == cv2.IMAGE_METADATA_EXIF:
                    orientation = _exif_orientation(chunk.tobytes())
        else:
            flags = cv2.IMREAD_UNCHANGED
            if kind == "JPEG":
                # apply the orientation that `reductions` reads; OpenCV may find another one
                flags, orientation = jpeg_flags | cv2.IMREAD_IGNORE_ORIENTATION, _jpeg_header(data)[2]
            elif kind == "BMP" and data[14:18] == _OS2_HEADER:
                # read unchanged, the colours of an OS/2 bitmap become grays
                flags = cv2.IMREAD_COLOR
            elif kind == "AVIF":
                orientation = _avif_orientation(data)
            image = cv2.imdecode(buffer, flags)
    except cv2.error as error:
        raise SourceError(TOO_LARGE if no_memory(error) else f"cannot be decoded as {kind}: {error.err}") from None
    except MemoryError:
        raise SourceError(TOO_LARGE) from None
    if image is None or image.size == 0:
        cut = kind == "JPEG" and b"\xff\xd9" not in data[-65536:]
        cut = cut or (kind == "PNG" and b"IEND" not in data[-64:])
        if cut:
            raise SourceError(f"is cut short: the {kind} data end early")
        raise SourceError(f"is damaged, or {kind} of a kind that OpenCV does not read")
    return image, orientation


def _to_bgr8(image: Pixels, premultiplied: bool) -> Image:
    """Convert to BGR (H, W, 3) uint8, with transparency blended with white."""
    if image.dtype not in (np.uint8, np.uint16):
        raise SourceError(
            f"holds {image.dtype} values, which have no standard black and white level: save it with 8 or 16 bits"
        )
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels not in (1, 3, 4):
        raise SourceError(f"has {channels} channels: only gray, colour and colour with transparency are read")
    if image.dtype == np.uint8 and channels == 3:
        return np.asarray(image, dtype=np.uint8)
    white = 255
    if image.dtype == np.uint16:
        top = int(image.max())
        white = next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if top < 2**bits)
    shown = np.empty((*image.shape[:2], 3), np.uint8)
    # a strip of rows at a time: intermediate arrays of a whole large picture would take several times its memory
    for start in range(0, len(image), _STRIP_ROWS):
        rows = slice(start, start + _STRIP_ROWS)
        shown[rows] = _opaque(_eight_bits(image[rows], white), premultiplied)
    return shown


def _eight_bits(image: Pixels, white: int) -> Image:
    if image.dtype == np.uint8:
        return np.asarray(image, dtype=np.uint8)
    return np.asarray(cv2.convertScaleAbs(image.astype(np.uint16, copy=False), alpha=255 / white), dtype=np.uint8)


def _opaque(image: Image, premultiplied: bool) -> Image:
    if image.ndim == 2 or image.shape[2] == 1:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), dtype=np.uint8)
    if image.shape[2] == 3:
        return image
    colour, alpha = image[:, :, :3], image[:, :, 3]
    if int(alpha.min()) == 255:
        return np.ascontiguousarray(colour)
    cover = cv2.cvtColor(alpha, cv2.COLOR_GRAY2BGR)
    ink = colour if premultiplied else cv2.multiply(colour, cover, scale=1 / 255)
    return np.asarray(cv2.add(ink, cv2.bitwise_not(cover)), dtype=np.uint8)


def _oriented(image: Image, orientation: int) -> Image:
    if orientation in _TRANSPOSED:
        image = cv2.transpose(image)  # type: ignore[assignment]
    flips = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
    if orientation in flips:
        image = cv2.flip(image, flips[orientation])  # type: ignore[assignment]
    return np.asarray(image, dtype=np.uint8)


def _check_header(data: bytes, kind: str, max_pixels: int) -> None:
    """Raise SourceError for a file that its header alone rules out, before memory is allocated for the picture."""
    if kind == "TIFF":
        tags = _tiff_tags(data)
        if tags.get(_SUBFILE_TAG, 0) & 1:
            raise SourceError("starts with a reduced preview, as camera raw files do: convert it to JPEG or PNG")
        width, height = tags.get(_WIDTH_TAG, 0), tags.get(_HEIGHT_TAG, 0)
    elif kind == "JPEG":
        width, height, _, scan = _jpeg_header(data)
        # the end marker, which cannot occur inside the compressed data; without it OpenCV may fill the rest with gray
        if data.rfind(b"\xff\xd9", scan) < 0:
            raise SourceError("is cut short: the JPEG data end early")
    elif kind == "PNG" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
    elif kind == "GIF" and len(data) >= 10:
        width, height = struct.unpack_from("<HH", data, 6)
    elif kind == "BMP" and len(data) >= 26:
        width, height = struct.unpack_from("<HH" if data[14:18] == _OS2_HEADER else "<ii", data, 18)
    elif kind == "WebP" and len(data) >= 30:
        width, height = _webp_size(data)
    else:
        return
    if abs(width * height) > max_pixels:
        raise _too_large(width, abs(height), max_pixels)


def _too_large(width: int, height: int, max_pixels: int) -> TooLargeError:
    return TooLargeError(f"is too large, {width}x{height} pixels: at most {max_pixels / 1e6:.4g} megapixels are read")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height from the first chunk of the container; zeros if that chunk does not hold them."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return 0, 0


def _jpeg_header(data: bytes) -> tuple[int, int, int, int]:
    """Return width and height as stored, EXIF orientation, and offset of the scan data; 0 for what is not found."""
    width = height = orientation = 0
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:
            return width, height, orientation, position
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
        # a marker may be preceded by any number of fill bytes
        length = 1 if marker == 0xFF else 2 + struct.unpack_from(">H", data, position + 2)[0]
        if marker == 0xE1 and not orientation and data.startswith(b"Exif\0\0", position + 4):
            orientation = _exif_orientation(data[position + 4 : position + length])
        position += length
    return width, height, orientation, 0


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Return the integer tags of the first directory of a TIFF file or EXIF block; only those before any damage."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    tags: dict[int, int] = {}
    if order is None:
        return tags
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        for i in range(count):
            tag, kind = struct.unpack_from(order + "HH", data, start + 2 + 12 * i)
            if kind in _INTEGER_TYPES:
                tags.setdefault(tag, struct.unpack_from(order + _INTEGER_TYPES[kind], data, start + 10 + 12 * i)[0])
    except struct.error:
        pass
    return tags


def _exif_orientation(exif: bytes) -> int:
    """Return the orientation in a block of EXIF data, 0 if it has none."""
    return _tiff_tags(exif.removeprefix(b"Exif\0\0")).get(_ORIENTATION_TAG, 0)


def _avif_orientation(data: bytes) -> int:
    """Return the EXIF orientation that equals AVIF's rotation and mirror properties."""
    head = data[: data.find(b"mdat")]
    rotation, mirror = head.find(b"irot"), head.find(b"imir")
    quarters = head[rotation + 4] & 3 if 0 <= rotation < len(head) - 4 else 0
    if not 0 <= mirror < len(head) - 4:
        return (1, 8, 3, 6)[quarters]
    # mirrored after the rotation: top to bottom (axis 0) or left to right (axis 1)
    return ((4, 5, 2, 7), (2, 7, 4, 5))[head[mirror + 4] & 1][quarters]
