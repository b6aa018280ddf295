"""Each form that a camera, a scanner or an export writes: its pixels exactly, or a refusal. Never a guess."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service.contract.errors import BadImage
from service.contract.image import Pixels, decode
from tests.support.images import encoded, smear

SMEAR = smear(1)
DEEP = SMEAR.astype(np.uint16) * 257
"""The same in 16 bits: 0 is 0 and 255 is 65535."""
STRAIGHT, PREMULTIPLIED, UNSPECIFIED = 2, 1, 0
"""TIFF's ExtraSamples: what the fourth channel is."""


def with_alpha(pixels: npt.NDArray[Any], alpha: int) -> npt.NDArray[Any]:
    return np.dstack([pixels, np.full(pixels.shape[:2], alpha, pixels.dtype)])


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def deep_png(pixels: npt.NDArray[np.uint16], colour_type: int) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def raw_tiff(pixels: npt.NDArray[Any], extra: int | None = None, photometric: int = 2) -> bytes:
    """A little-endian TIFF [h, w, ≥ 3] in one strip, with what Pillow would not write: 16 bits, kinds of alpha."""
    height, width, channels = pixels.shape
    strip = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    short, long = 3, 4
    tags: list[tuple[int, int, int, int | None]] = [
        (256, short, 1, width),
        (257, short, 1, height),
        (258, short, channels, None),
        (259, short, 1, 1),
        (262, short, 1, photometric),
        (273, long, 1, None),
        (277, short, 1, channels),
        (278, short, 1, height),
        (279, long, 1, len(strip)),
    ]
    if extra is not None:
        tags.append((338, short, 1, extra))
    bits_at = 8 + 2 + 12 * len(tags) + 4
    bits = struct.pack(f"<{channels}H", *[8 * pixels.dtype.itemsize] * channels)
    where = {258: bits_at, 273: bits_at + len(bits)}
    directory = b"".join(struct.pack("<HHII", tag, kind, n, where.get(tag, v or 0)) for tag, kind, n, v in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4) + bits + strip


@pytest.mark.parametrize(
    "data",
    [
        deep_png(DEEP, 2),
        deep_png(with_alpha(DEEP, 65535), 6),
        raw_tiff(DEEP),
        raw_tiff(with_alpha(DEEP, 65535), STRAIGHT),
    ],
    ids=["png", "png-alpha", "tiff", "tiff-alpha"],
)
def test_of_sixteen_bits_a_channel_the_upper_eight_count(data: bytes) -> None:
    np.testing.assert_array_equal(decode(data), SMEAR)


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (deep_png(DEEP[..., :1], 0), "I;16"),
        (saved(Image.fromarray(DEEP[..., 0]), "TIFF"), "I;16"),
        (saved(Image.fromarray(SMEAR[..., 0].astype(np.float32)), "TIFF"), "F"),
        (saved(Image.fromarray(SMEAR).convert("CMYK"), "JPEG"), "CMYK"),
        (saved(Image.fromarray(SMEAR).convert("CMYK"), "TIFF"), "CMYK"),
        (raw_tiff(with_alpha(SMEAR, 9), photometric=5), "CMYK"),
        (saved(Image.frombytes("LAB", (32, 32), SMEAR.tobytes()), "TIFF"), "LAB"),
    ],
)
def test_colours_that_need_a_profile_or_a_window_are_refused(data: bytes, mode: str) -> None:
    """Deep grey has no agreed white, CMYK and Lab no agreed RGB: converting them is the sender's business."""
    with pytest.raises(BadImage, match=f"stored as {mode}: convert it to 8-bit RGB"):
        decode(data)


def over_white(alpha: int) -> npt.NDArray[Any]:
    share = alpha / 255
    return SMEAR * share + 255 * (1 - share)


@pytest.mark.parametrize(
    "data",
    [
        encoded(with_alpha(SMEAR, 128)),
        raw_tiff(with_alpha(SMEAR, 128), STRAIGHT),
        raw_tiff(with_alpha((SMEAR.astype(int) * 128 // 255).astype(np.uint8), 128), PREMULTIPLIED),
    ],
    ids=["png", "tiff-straight", "tiff-premultiplied"],
)
def test_transparency_is_laid_over_white(data: bytes) -> None:
    assert np.abs(decode(data) - over_white(128)).max() <= 2


def test_a_fourth_channel_that_is_not_transparency_is_left_aside() -> None:
    np.testing.assert_array_equal(decode(raw_tiff(with_alpha(SMEAR, 128), UNSPECIFIED)), SMEAR)


def test_a_transparent_colour_is_white() -> None:
    palette = Image.fromarray(SMEAR).quantize(16)
    corner = palette.getpixel((0, 0))
    shown = decode(saved(palette, "PNG", transparency=corner))
    clear = np.asarray(palette) == corner
    assert (shown[clear] == 255).all()
    np.testing.assert_array_equal(shown[~clear], np.asarray(palette.convert("RGB"))[~clear])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_with_transparency(kind: str) -> None:
    grey = SMEAR[..., 0]
    data = saved(Image.fromarray(np.dstack([grey, np.full_like(grey, 255)])), kind)
    np.testing.assert_array_equal(decode(data), np.dstack([grey] * 3))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_fewer_colours_become_rgb(kind: str, mode: str) -> None:
    picture = Image.fromarray(SMEAR).convert(mode)
    np.testing.assert_array_equal(decode(saved(picture, kind)), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_file_of_several_pictures_is_refused(kind: str) -> None:
    """An animation, or the pages of a stack: which of them was meant is not ours to say."""
    data = saved(Image.fromarray(SMEAR), kind, save_all=True, append_images=[Image.fromarray(smear(2))])
    with pytest.raises(BadImage, match="more than one picture"):
        decode(data)


UPRIGHT: dict[int, Pixels] = {
    1: SMEAR,
    2: SMEAR[:, ::-1],
    3: SMEAR[::-1, ::-1],
    4: SMEAR[::-1],
    5: SMEAR.transpose(1, 0, 2),
    6: np.rot90(SMEAR, -1),
    7: np.rot90(SMEAR, 2).transpose(1, 0, 2),
    8: np.rot90(SMEAR, 1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientations_are_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(encoded(SMEAR, kind, exif=exif)), UPRIGHT[orientation])


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_changes_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(encoded(SMEAR, "PNG", exif=exif)), SMEAR)
