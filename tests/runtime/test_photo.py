"""Unusual photo files: read as a person sees them, or refused with a one-line error."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facexp.errors import SourceError
from facexp.sources import photo

Pixels = NDArray[Any]


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    """A (60, 80, 3) picture of smooth colours without symmetry: lossy formats stay close, each rotation shows."""
    y, x = np.mgrid[:60, :80]
    return np.stack([3 * x, 4 * y, 255 - 2 * x - y], axis=-1).clip(0, 255).astype(np.uint8)


def exif(orientation: int) -> NDArray[np.uint8]:
    tag = struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0)
    return np.frombuffer(b"II*\0" + struct.pack("<IH", 8, 1) + tag + bytes(4), np.uint8)


def displayed(stored: Pixels, orientation: int) -> Pixels:
    """Return what a person sees, by the EXIF standard: where the stored first row and first column are shown."""
    across = np.swapaxes(stored, 0, 1)
    return {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: across,
        6: across[:, ::-1],
        7: across[::-1, ::-1],
        8: across[::-1],
    }[orientation]


def decode(data: bytes) -> NDArray[np.uint8]:
    kind = photo.sniff(data[:64])
    assert kind is not None
    return photo.decode(data, kind)


def encode(suffix: str, image: Pixels) -> bytes:
    ok, data = cv2.imencode(suffix, image)
    assert ok
    return bytes(data.tobytes())


def with_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """Return a TIFF with one more entry in its directory, which moves to the file's end."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    entries = [tiff[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    entries.append(struct.pack("<HHIHH", tag, 3, 1, value, 0))
    entries.sort(key=lambda entry: int(struct.unpack_from("<H", entry)[0]))
    head = tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:]
    return head + struct.pack("<H", count + 1) + b"".join(entries) + bytes(4)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """Return a PNG of a kind that OpenCV does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    stride = len(rows) // height if height else 0
    packed = zlib.compress(b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height)))
    parts = b"".join(chunk(extra[:4], extra[4:]) for extra in extra.split(b"|") if extra)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + parts + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_orientation_is_applied(picture: NDArray[np.uint8], suffix: str, orientation: int) -> None:
    """Guards phone photos: all eight orientations, in each format that carries EXIF."""
    kinds, data = [cv2.IMAGE_METADATA_EXIF], [exif(orientation)]
    ok, file = cv2.imencodeWithMetadata(suffix, picture, kinds, data, [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert ok
    expected = displayed(picture, orientation)
    got = decode(file.tobytes())
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_tiff_orientation_is_applied(picture: NDArray[np.uint8], depth: type, orientation: int) -> None:
    """Guards scans: the TIFF orientation tag, at 8 and at 16 bits."""
    data = encode(".tif", picture.astype(depth) * (257 if depth is np.uint16 else 1))
    got = decode(with_tag(data, 0x112, orientation))
    assert np.array_equal(got, displayed(picture, orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_orientation_is_applied(picture: NDArray[np.uint8], tmp_path: Path, orientation: int) -> None:
    """Guards AVIF, whose rotation and mirroring OpenCV leaves to the caller."""
    pil = pytest.importorskip("PIL.Image", reason="Pillow writes the rotated AVIF")
    if not pytest.importorskip("PIL.features").check("avif"):
        pytest.skip("this Pillow has no AVIF")
    tags = pil.Exif()
    tags[0x112] = orientation
    pil.fromarray(picture[:, :, ::-1]).save(tmp_path / "x.avif", quality=95, exif=tags)
    got = decode((tmp_path / "x.avif").read_bytes())
    expected = displayed(picture, orientation)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_transparent_pictures_get_a_white_background(picture: NDArray[np.uint8], depth: type) -> None:
    """Guards pictures with alpha; in TIFF a tag says whether the colours are premultiplied."""
    alpha = np.full((60, 80, 1), 255, np.uint8)
    alpha[:, :40], alpha[:, 20:40] = 0, 128
    scale = 257 if depth is np.uint16 else 1
    rgba: Pixels = np.concatenate([picture, alpha], axis=-1).astype(depth) * scale
    multiplied: Pixels = np.concatenate([np.round(picture * (alpha / 255)), alpha], axis=-1).astype(depth) * scale
    expected = np.round(255 + (picture.astype(float) - 255) * (alpha / 255))
    for name, file in {
        "png": encode(".png", rgba),
        "tiff without the tag, as OpenCV writes it": encode(".tif", rgba),
        "tiff, not multiplied": with_tag(encode(".tif", rgba), 338, 2),
        "tiff, multiplied": with_tag(encode(".tif", multiplied), 338, 1),
    }.items():
        assert np.abs(decode(file) - expected).max() <= 2, name
    assert np.abs(decode(with_tag(encode(".tif", rgba), 338, 0)).astype(int) - picture).max() == 0, "not alpha at all"


def test_gray_with_alpha_and_palette_with_transparency() -> None:
    """Guards the rarer kinds of PNG: gray with alpha, palette, a transparent palette entry, one bit."""
    assert decode(png(2, 1, 8, 4, bytes([90, 255, 90, 0]))).tolist() == [[[90] * 3, [255] * 3]]
    palette = b"PLTE" + bytes([10, 20, 30, 40, 50, 60])
    assert decode(png(2, 1, 8, 3, bytes([0, 1]), palette)).tolist() == [[[30, 20, 10], [60, 50, 40]]]
    see_through = palette + b"|tRNS" + bytes([255, 0])
    assert decode(png(2, 1, 8, 3, bytes([0, 1]), see_through)).tolist() == [[[30, 20, 10], [255, 255, 255]]]
    assert decode(png(8, 1, 1, 0, bytes([0b10000001])))[0, :, 0].tolist() == [255, 0, 0, 0, 0, 0, 0, 255]


@pytest.mark.parametrize(("top", "bits"), [(65535, 16), (255, 8), (1023, 10), (4095, 12), (16383, 14)])
def test_sixteen_bits_are_scaled_by_their_real_range(top: int, bits: int) -> None:
    """Guards against dark pictures: 8, 10, 12 or 14 bits of a camera in a 16-bit file keep their white."""
    ramp = np.linspace(0, top, 64).round().astype(np.uint16).reshape(8, 8)
    expected = np.round(ramp / (2**bits - 1) * 255)
    for suffix in (".png", ".tif"):
        got = decode(encode(suffix, ramp))
        assert got.shape == (8, 8, 3)
        assert np.abs(got - expected[:, :, None]).max() <= 1


def test_a_tiff_whose_white_is_0_is_not_inverted() -> None:
    """Guards 16-bit scans, which OpenCV returns as they are stored, unlike 8-bit ones."""
    for depth, white in ((np.uint8, 255), (np.uint16, 65535)):
        tiff = bytearray(encode(".tif", np.array([[0, white // 5, white]], depth)))
        # the entry of a gray picture whose black is 0
        entry = tiff.find(struct.pack("<HHIH", 262, 3, 1, 1))
        assert entry > 0
        tiff[entry + 8] = 0
        assert decode(bytes(tiff))[0, :, 0].tolist() == [255, 204, 0]


def test_os2_bitmaps_are_read() -> None:
    """Guards a BMP header whose width and height have two bytes each, and the order of colours."""
    rows = bytes([1, 2, 3, 40, 50, 60, 0, 0])
    header = struct.pack("<IHHIIHHHH", 26 + len(rows), 0, 0, 26, 12, 2, 1, 1, 24)
    assert decode(b"BM" + header + rows).tolist() == [[[1, 2, 3], [40, 50, 60]]]
    huge = header[:16] + struct.pack("<HH", 20000, 20000) + header[20:]
    with pytest.raises(SourceError, match="too large, 20000x20000 pixels"):
        decode(b"BM" + huge + rows)


def test_intact_files_of_rare_kinds_are_not_called_damaged(picture: NDArray[np.uint8]) -> None:
    """Guards the reason given: a TIFF of compression 50000 (zstd) may well be intact."""
    tiff = bytearray(encode(".tif", picture))
    entry = tiff.find(struct.pack("<HHI", 259, 3, 1))
    tiff[entry + 8 : entry + 10] = struct.pack("<H", 50000)
    with pytest.raises(SourceError, match="is damaged, or TIFF of a kind that OpenCV does not read"):
        decode(bytes(tiff))


def test_floats_are_refused(picture: NDArray[np.uint8]) -> None:
    """Guards float TIFFs: they have no agreed white, so nothing is guessed."""
    with pytest.raises(SourceError, match="float32 values"):
        decode(encode(".tif", picture.astype(np.float32) / 255))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".bmp", ".gif", ".ppm", ".jp2"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_truncated_files_are_refused(astronaut: NDArray[np.uint8], suffix: str, share: float) -> None:
    """Guards against half a picture: JPEG's missing rows would silently be gray."""
    data = encode(suffix, astronaut[::4, ::4])
    assert decode(data).shape == (128, 128, 3)
    with pytest.raises(SourceError, match=r"cut short|damaged"):
        decode(data[: int(share * len(data))])


def test_a_truncated_jpeg_is_called_cut_short(astronaut: NDArray[np.uint8]) -> None:
    """Guards the reason given."""
    data = encode(".jpg", astronaut)
    for cut in (data[:-2], data[: len(data) // 2], data[: len(data) // 2] + bytes(len(data) // 2)):
        with pytest.raises(SourceError, match="is cut short"):
            decode(cut)


def test_pictures_beyond_the_limit_are_refused_by_their_header(picture: NDArray[np.uint8]) -> None:
    """Guards small machines: a few bytes may claim gigabytes, and are refused before memory is allocated."""
    big = struct.pack(">H", 20000)
    jpeg = bytearray(encode(".jpg", picture))
    frame = jpeg.find(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = big + big
    tiff = bytearray(encode(".tif", picture))
    for tag in (256, 257):
        entry = next(i for i in range(len(tiff)) if tiff[i : i + 2] == struct.pack("<H", tag) and tiff[i + 3] == 0)
        tiff[entry + 8 : entry + 12] = struct.pack("<I", 20000)
    gif = bytearray(encode(".gif", picture))
    gif[6:10] = struct.pack("<HH", 20000, 20000)
    bmp = bytearray(encode(".bmp", picture))
    bmp[18:26] = struct.pack("<ii", 20000, -20000)
    for data in (png(20000, 20000, 8, 0, b""), bytes(jpeg), bytes(tiff), bytes(gif), bytes(bmp)):
        with pytest.raises(SourceError, match="too large, 20000x20000 pixels: at most 250 megapixels"):
            decode(data)


@pytest.mark.parametrize("quality", [80, 101, None])
def test_a_large_webp_is_refused_by_its_header(
    picture: NDArray[np.uint8], quality: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a server's memory: the size of lossy, lossless and extended files is known before decoding."""
    if quality is None:
        data = b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + struct.pack("<I", 79)[:3] + struct.pack("<I", 59)[:3]
    else:
        data = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
        assert photo.decode(data, "WebP", max_pixels=80 * 60).shape == (60, 80, 3)

    def decoded(*_: object, **__: object) -> None:
        pytest.fail("the file was decoded")

    monkeypatch.setattr(cv2, "imdecodeWithMetadata", decoded)
    with pytest.raises(photo.TooLargeError, match=r"too large, 80x60 pixels: at most 0\.004799 megapixels"):
        photo.decode(data, "WebP", max_pixels=80 * 60 - 1)


def test_one_gray_pixel_is_read_as_bgr(tmp_path: Path) -> None:
    """Guards the smallest picture, and that gray is returned as BGR."""
    for suffix in (".png", ".jpg", ".bmp", ".tif", ".webp", ".pgm"):
        assert decode(encode(suffix, np.full((1, 1), 100, np.uint8))).shape == (1, 1, 3)


def test_raw_previews_and_heic_are_refused(picture: NDArray[np.uint8]) -> None:
    """Guards camera raw files, whose first TIFF page is a thumbnail, and HEIC, which OpenCV does not read."""
    with pytest.raises(SourceError, match="camera raw"):
        decode(with_tag(encode(".tif", picture), 254, 1))
    with pytest.raises(SourceError, match="HEIC"):
        decode(struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100))


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".avif"])
def test_animations_give_every_frame_with_its_duration(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards animated GIF, APNG, WebP and AVIF: all frames, each as displayed, also when decoded in windows."""
    monkeypatch.setattr(photo, "ANIMATION_WINDOW_PIXELS", 1)
    animation = cv2.Animation()
    animation.frames = [np.full((24, 32, 4), (12 * i, 12 * i, 12 * i, 255), np.uint8) for i in range(20)]
    animation.durations = np.where(np.arange(20) == 3, 200, 40).astype(np.int32)  # type: ignore[assignment]
    path = tmp_path / f"x{suffix}"
    assert cv2.imwriteanimation(str(path), animation)
    assert photo.pages(path, photo.sniff(path.read_bytes()[:64]) or "") == 20
    frames = list(photo.animation(path, 20))
    assert [round(float(image.mean()) / 12) for image, _ in frames] == list(range(20))
    assert [duration for _, duration in frames] == [200 if i == 3 else 40 for i in range(20)]


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_a_large_animation_is_refused_by_its_header(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the reason given: OpenCV refuses the file silently, and it would be called damaged."""
    animation = cv2.Animation()
    animation.frames = [np.full((60, 80, 4), (50 * i, 0, 0, 255), np.uint8) for i in range(3)]
    animation.durations = np.array([40, 40, 40], np.int32)  # type: ignore[assignment]
    path = tmp_path / f"x{suffix}"
    assert cv2.imwriteanimation(str(path), animation)
    monkeypatch.setattr(photo, "MAX_PIXELS", 80 * 60)
    assert len(list(photo.animation(path, 3))) == 3
    monkeypatch.setattr(photo, "MAX_PIXELS", 80 * 60 - 1)
    with pytest.raises(photo.TooLargeError, match=r"too large, 80x60 pixels: at most 0\.004799 megapixels"):
        next(photo.animation(path, 3))


def test_an_animation_that_opencv_finds_too_large_is_called_too_large(tmp_path: Path) -> None:
    """Guards sizes allowed for a photo but not for an animation: 89 bytes that claim 675 megapixels."""
    frame = b"\x21\xf9\x04\0\x0a\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    screen = b"GIF89a" + struct.pack("<HH", 15000, 15000) + b"\x80\0\0\0\0\0\xff\xff\xff"
    path = tmp_path / "x.gif"
    path.write_bytes(screen + 3 * frame + b";")
    assert photo.pages(path, "GIF") == 3
    with pytest.raises(photo.TooLargeError) as caught:
        next(photo.animation(path, 3))
    assert str(caught.value) == (
        "is too large, 15000x15000 pixels: at most 214.7 megapixels are read per frame of an animation"
    )


def test_large_frames_are_decoded_in_windows_that_opencv_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the second window of 64-megapixel frames, which was too large for OpenCV with 16 of them."""
    frame = np.broadcast_to(np.uint8(7), (8000, 8000, 3))
    counts = []

    def read(_: str, start: int, count: int) -> tuple[bool, SimpleNamespace]:
        counts.append(count)
        number = min(count, 20 - start)
        return 8000 * 8000 * (number + 4) <= 1 << 30, SimpleNamespace(frames=[frame] * number, durations=[40] * number)

    path = tmp_path / "x.gif"
    path.touch()
    monkeypatch.setattr(cv2, "imreadanimation", read)
    assert len(list(photo.animation(path, 20))) == 20
    assert counts == [1, 12, 12]


def test_a_damaged_animation_is_refused(tmp_path: Path) -> None:
    """Guards against an endless loop on an animation whose frames cannot be read."""
    path = tmp_path / "x.gif"
    path.write_bytes(b"GIF89a" + bytes(50))
    with pytest.raises(SourceError, match="breaks off"):
        list(photo.animation(path, 3))


@pytest.mark.parametrize("start", [b"fcTL", b"fdAT", b"IEND"])
def test_an_animated_png_with_a_wrong_checksum_is_refused(
    tmp_path: Path, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards all other photos, and a server: at many damaged frames OpenCV ends the whole process."""
    animation = cv2.Animation()
    animation.frames = [np.full((24, 32, 4), (12 * i, 12 * i, 12 * i, 255), np.uint8) for i in range(3)]
    animation.durations = np.array([40, 40, 40], np.int32)  # type: ignore[assignment]
    path = tmp_path / "x.png"
    assert cv2.imwriteanimation(str(path), animation)
    # what follows the end mark does not matter
    path.write_bytes(path.read_bytes() + b"more")
    assert len(list(photo.animation(path, 3))) == 3
    data = bytearray(path.read_bytes())
    data[data.rindex(start) + 4] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match="checksum"):
        next(photo.animation(path, 3))
    # a server reads only the still picture, and OpenCV never sees that there are frames
    seen, opencv = list[bytes](), cv2.imdecodeWithMetadata

    def logged(png: NDArray[np.uint8], flags: int) -> Any:
        seen.append(png.tobytes())
        return opencv(png, flags=flags)

    monkeypatch.setattr(cv2, "imdecodeWithMetadata", logged)
    assert decode(bytes(data)).shape == (24, 32, 3)
    assert b"acTL" not in seen[0]


def test_a_truncated_jpeg_with_a_thumbnail_is_called_cut_short(astronaut: NDArray[np.uint8]) -> None:
    """Guards camera photos: the end of the thumbnail in the header is not the end of the picture."""
    thumbnail = encode(".jpg", astronaut[::8, ::8])
    data = encode(".jpg", astronaut)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    assert decode(data).shape == astronaut.shape
    for cut in (data[:-2], data[: len(data) * 2 // 3], data[: len(data) * 2 // 3] + bytes(len(data) // 3)):
        with pytest.raises(SourceError, match="is cut short"):
            decode(cut)


@pytest.mark.parametrize(("claimed", "shown"), [(10, 100), (20, 20)])
def test_very_short_frame_durations_are_those_of_browsers(tmp_path: Path, claimed: int, shown: int) -> None:
    """Guards GIFs that claim 10 ms a frame, as many do: browsers show each frame for 100 ms."""
    animation = cv2.Animation()
    animation.frames = [np.full((24, 32, 4), (80 * i, 80 * i, 80 * i, 255), np.uint8) for i in range(3)]
    animation.durations = np.full(3, claimed, np.int32)  # type: ignore[assignment]
    assert cv2.imwriteanimation(str(tmp_path / "x.gif"), animation)
    assert [duration for _, duration in photo.animation(tmp_path / "x.gif", 3)] == [shown] * 3
