"""One photo file -> pixels as a person sees them, or one line that says why not.

What is decided here, format by format:

- EXIF orientation (JPEG, PNG, WebP, TIFF) and AVIF's rotation and mirror are applied.
- Transparency is laid on white, as a browser shows it; that of gray TIFFs OpenCV keeps to itself.
- 16-bit pictures become 8-bit. Where all values fit 8, 10, 12 or 14 bits, the file is taken for a camera's narrower
  values in a 16-bit container and that range is the scale; a plain division would show them black.
- Floats and 32-bit integers have no agreed black and white: refused.
- Files that end early, that hold more than MAX_PIXELS, or that only preview a camera raw are refused.
- A multi-page TIFF shows its first page, and a line is logged that says so.
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

MAX_PIXELS = 250_000_000
"""Larger pictures are refused: decoded they would take more than 750 MB."""

_STRIP = 256
MAX_BYTES = 1 << 30
"""Larger photo files are refused, in bytes."""
ANIMATION_WINDOW = 32_000_000
"""Pixels of an animation decoded at once; it bounds the memory of a long one."""
# OpenCV refuses to decode more of an animation at once, four frames more than it is asked for counted with them
_AT_ONCE, _MORE = 1 << 30, 4

ANIMATION_FPS = 50.0
"""The rate at which an animation is worth saving: browsers show its frames for 20 ms or longer."""

Pixels = NDArray[np.generic]

# EXIF orientations that change width and height
_ON_ITS_SIDE = (5, 6, 7, 8)

_COLOUR = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_GRAY = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}

_ORIENTATION_TAG, _SUBFILE_TAG, _WIDTH_TAG, _HEIGHT_TAG, _EXTRA_TAG = 0x112, 254, 256, 257, 338
_PHOTOMETRIC_TAG, _MIN_IS_WHITE = 262, 0
# TIFF's types of whole numbers, as `struct` calls them
_WHOLE = {1: "B", 3: "H", 4: "I"}

# the length of OS/2's header, which is the first thing in it
_OS2_BMP = struct.pack("<I", 12)


def sniff(head: bytes) -> str | None:
    """The photo format that a file's first bytes (32 are enough) announce, or None."""
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
    """The picture has more pixels than are read."""


def decode(data: bytes, kind: str, reduction: int = 1, most: int = MAX_PIXELS) -> Image:
    """The bytes of a photo file -> BGR (H, W, 3) uint8, upright, opaque.

    `kind` is what `sniff` said, `most` how many pixels are read. A JPEG can be decoded 2, 4 or 8 times smaller (sides
    are rounded up) in less than half the time: libjpeg computes fewer values of each block, which are means of the
    pixels that they replace. Raises SourceError with the reason alone; the caller knows the name. It is TooLargeError
    where there are more pixels, which for JPEG, PNG, GIF, BMP, TIFF and WebP shows before memory is taken for them.
    """
    if kind == "HEIC":
        raise SourceError("is a HEIC photo, which OpenCV does not read: convert it to JPEG or PNG")
    _refuse_by_header(data, kind, most)
    image, turn = _raw(data, kind, _COLOUR[reduction])
    if image.shape[0] * image.shape[1] > most:
        raise _too_large(image.shape[1], image.shape[0], most)
    tags = _tiff_tags(data) if kind == "TIFF" else {}
    premultiplied = False
    if kind == "TIFF" and image.ndim == 3 and image.shape[2] == 4:
        # 0 is data without a meaning, 1 alpha that is multiplied in, 2 alpha that is not; OpenCV writes no tag with its
        extra = tags.get(_EXTRA_TAG, 2)
        if extra == 0:
            image = image[:, :, :3]
        # libtiff multiplies 8-bit colours by the alpha that the tag declares
        premultiplied = extra == 1 or (_EXTRA_TAG in tags and image.dtype == np.uint8)
    shown = _shown(image, premultiplied)
    if image.dtype == np.uint16 and tags.get(_PHOTOMETRIC_TAG) == _MIN_IS_WHITE:
        # with 8 bits libtiff does it
        shown = np.asarray(cv2.bitwise_not(shown), dtype=np.uint8)
    return _turned(shown, turn)


def decode_gray(data: bytes, reduction: int) -> Image:
    """The bytes of a JPEG -> gray (H, W) uint8, upright, in two thirds of the time of `decode`.

    The grays are those of its colours, but where one of these was cut off at 0 or 255. `reduction` and errors are as
    there.
    """
    _refuse_by_header(data, "JPEG", MAX_PIXELS)
    image, turn = _raw(data, "JPEG", _GRAY[reduction])
    return _turned(np.asarray(image, dtype=np.uint8), turn)


def reductions(data: bytes, longest: int) -> tuple[int, int, int]:
    """How many times smaller a JPEG can be decoded so that its longest side still has `longest` pixels: 1, 2, 4 or 8.

    Behind it stand the photo's width and height, upright; zeros where the header does not tell.
    """
    width, height, turn, _ = _jpeg_header(data)
    if turn in _ON_ITS_SIDE:
        width, height = height, width
    return max(n for n in _COLOUR if n == 1 or max(width, height) >= n * longest), width, height


def pages(path: Path, kind: str) -> int:
    """How many pages or frames a photo file holds; 1 where the format has only one, or where the file is damaged."""
    if kind not in ("GIF", "PNG", "WebP", "AVIF", "TIFF"):
        return 1
    try:
        return max(1, cv2.imcount(opencv_name(path)))
    except cv2.error:
        return 1


def animation(path: Path, total: int) -> Iterator[tuple[Image, float]]:
    """The frames of an animated GIF, APNG, WebP or AVIF, each as BGR (H, W, 3) uint8 with how long it shows, in ms.

    Raises SourceError (the reason alone) where the file is damaged, and TooLargeError where a frame is too large.
    """
    with path.open("rb") as file:
        head = file.read(64)
    try:
        _refuse_by_header(head, sniff(head) or "", min(MAX_PIXELS, _AT_ONCE // (1 + _MORE)))
    except TooLargeError as error:
        raise TooLargeError(f"{error} of a frame of an animation") from None
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
            # browsers show a frame that claims 10 ms or less for 100 ms
            yield _shown(pixels, premultiplied=False), float(duration) if duration > 10 else 100.0
        start += len(frames.frames)
        # every window is decoded from the file's beginning: few and large, but bounded
        height, width = frames.frames[0].shape[:2]
        window = min(max(16, ANIMATION_WINDOW // (height * width)), _AT_ONCE // (height * width) - _MORE)


def opencv_name(path: Path) -> str:
    """The absolute name, as OpenCV can open it: FFmpeg would take a relative one with a colon for a protocol.

    Raises SourceError (the reason alone) for a name that is not valid UTF-8.
    """
    try:
        return os.fsencode(path.absolute()).decode()
    except UnicodeDecodeError:
        raise SourceError("has a name that is not valid UTF-8, which OpenCV cannot open: rename it") from None


def _raw(data: bytes, kind: str, jpeg: int) -> tuple[Pixels, int]:
    """The decoded picture as stored, and the EXIF orientation (1 to 8; 0: none is told) that is still to be applied.

    `jpeg` is how OpenCV is to read a JPEG.
    """
    buffer = np.frombuffer(data, dtype=np.uint8)
    # OpenCV turns TIFF itself; PNG and WebP only when it also drops alpha and depth, so they are turned here
    turn = 1
    image: Pixels | None = None
    try:
        if kind in ("PNG", "WebP"):
            image, kinds, chunks = cv2.imdecodeWithMetadata(buffer, flags=cv2.IMREAD_UNCHANGED)
            for what, chunk in zip(kinds, chunks, strict=True):
                if what == cv2.IMAGE_METADATA_EXIF:
                    turn = _exif_orientation(chunk.tobytes())
        else:
            flags = cv2.IMREAD_UNCHANGED
            if kind == "JPEG":
                # the orientation that `reductions` goes by; OpenCV may read another one
                flags, turn = jpeg | cv2.IMREAD_IGNORE_ORIENTATION, _jpeg_header(data)[2]
            elif kind == "BMP" and data[14:18] == _OS2_BMP:
                # what OpenCV takes for the colours of an OS/2 bitmap as it is are grays
                flags = cv2.IMREAD_COLOR
            elif kind == "AVIF":
                turn = _avif_orientation(data)
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
    return image, turn


def _shown(image: Pixels, premultiplied: bool) -> Image:
    """As BGR of 8 bits without transparency."""
    if image.dtype not in (np.uint8, np.uint16):
        raise SourceError(
            f"holds {image.dtype} values, which have no agreed black and white: save it with 8 or 16 bits"
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
    # some rows at a time: what stands between would take several times the memory of a large picture
    for start in range(0, len(image), _STRIP):
        rows = slice(start, start + _STRIP)
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


def _turned(image: Image, orientation: int) -> Image:
    if orientation in _ON_ITS_SIDE:
        image = cv2.transpose(image)  # type: ignore[assignment]
    flips = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
    if orientation in flips:
        image = cv2.flip(image, flips[orientation])  # type: ignore[assignment]
    return np.asarray(image, dtype=np.uint8)


def _refuse_by_header(data: bytes, kind: str, most: int) -> None:
    """Refuse what the header alone condemns, before memory is taken for it."""
    if kind == "TIFF":
        tags = _tiff_tags(data)
        if tags.get(_SUBFILE_TAG, 0) & 1:
            raise SourceError("starts with a reduced preview, as camera raw files do: convert it to JPEG or PNG")
        width, height = tags.get(_WIDTH_TAG, 0), tags.get(_HEIGHT_TAG, 0)
    elif kind == "JPEG":
        width, height, _, scan = _jpeg_header(data)
        # inside the data this pair of bytes is always something else; without it OpenCV may fill the rest with gray
        if data.rfind(b"\xff\xd9", scan) < 0:
            raise SourceError("is cut short: the JPEG data end early")
    elif kind == "PNG" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
    elif kind == "GIF" and len(data) >= 10:
        width, height = struct.unpack_from("<HH", data, 6)
    elif kind == "BMP" and len(data) >= 26:
        width, height = struct.unpack_from("<HH" if data[14:18] == _OS2_BMP else "<ii", data, 18)
    elif kind == "WebP" and len(data) >= 30:
        width, height = _webp_size(data)
    else:
        return
    if abs(width * height) > most:
        raise _too_large(width, abs(height), most)


def _too_large(width: int, height: int, most: int) -> TooLargeError:
    return TooLargeError(f"is too large, {width}x{height} pixels: at most {most / 1e6:.4g} megapixels are read")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height, by the first chunk of the container; zeros where it is none that holds them."""
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
    """Width and height as stored, EXIF orientation and where the picture's data start; zeros for what is not found."""
    width = height = turn = 0
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:
            return width, height, turn, position
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
        # a marker may be preceded by any number of fill bytes
        length = 1 if marker == 0xFF else 2 + struct.unpack_from(">H", data, position + 2)[0]
        if marker == 0xE1 and not turn and data.startswith(b"Exif\0\0", position + 4):
            turn = _exif_orientation(data[position + 4 : position + length])
        position += length
    return width, height, turn, 0


def _tiff_tags(data: bytes) -> dict[int, int]:
    """The whole-number tags of a TIFF block's first directory (EXIF data are one, too); {} where it is damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    tags: dict[int, int] = {}
    if order is None:
        return tags
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        for i in range(count):
            tag, kind = struct.unpack_from(order + "HH", data, start + 2 + 12 * i)
            if kind in _WHOLE:
                tags.setdefault(tag, struct.unpack_from(order + _WHOLE[kind], data, start + 10 + 12 * i)[0])
    except struct.error:
        pass
    return tags


def _exif_orientation(exif: bytes) -> int:
    """The orientation that a block of EXIF data tells, 0 where it tells none."""
    return _tiff_tags(exif.removeprefix(b"Exif\0\0")).get(_ORIENTATION_TAG, 0)


def _avif_orientation(data: bytes) -> int:
    """AVIF's rotation and mirror properties as the EXIF orientation that does the same."""
    head = data[: data.find(b"mdat")]
    turn, mirror = head.find(b"irot"), head.find(b"imir")
    quarters = head[turn + 4] & 3 if 0 <= turn < len(head) - 4 else 0
    if not 0 <= mirror < len(head) - 4:
        return (1, 8, 3, 6)[quarters]
    # mirrored after the turn: top with bottom (axis 0) or left with right (axis 1)
    return ((4, 5, 2, 7), (2, 7, 4, 5))[head[mirror + 4] & 1][quarters]
