import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin

from service.contract import image
from service.contract.errors import BadImage, InvalidRequest
from service.contract.image import (
    Field,
    Pixels,
    decode,
    encode_png,
    image_sha256,
    load_field,
    pixels_sha256,
    row_check,
    to_field,
)
from tests.support.images import bmp, encoded, jpeg, png, smear, tiff
from tests.support.realdata import data_folder

FIELD = Field(128, 128, 20.0)
SCALE = FIELD.pixel_size_um


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, with no picture in it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


class TestDecode:
    @pytest.mark.parametrize("encode", [png, tiff, bmp])
    def test_lossless_formats_give_the_pixels(self, encode: Callable[..., bytes]) -> None:
        np.testing.assert_array_equal(decode(encode(seed=3, size=40)), smear(3, 40))

    def test_jpeg_gives_nearly_the_pixels(self) -> None:
        difference = decode(jpeg(seed=3, size=40, quality=95)).astype(int) - smear(3, 40)
        assert np.abs(difference).mean() < 6

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
    def test_compressed_tiff(self, compression: str) -> None:
        np.testing.assert_array_equal(decode(encoded(smear(1), "TIFF", compression=compression)), smear(1))

    @pytest.mark.filterwarnings("ignore::UserWarning")
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "empty"),
            (b"\x00" * 200, "not a PNG, JPEG, TIFF or BMP"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG"),
            (encoded(smear(), "GIF"), "not a PNG"),
            (encoded(smear(), "WEBP"), "not a PNG"),
            (b"\x89PNG\r\n\x1a\nIEND" + b"\x00" * 50, "cannot be read"),
            (b"\xff\xd8\xff" + b"\x00" * 50 + b"\xff\xd9", "cannot be read"),
            (b"BM" + b"\x00" * 80, "cannot be read"),
            (b"II*\x00" + b"\xff" * 80, "cannot be read"),
            (encoded(smear(size=15)), "at least 16"),
            (encoded(smear(size=64)[:15]), "64×15"),
            (encoded(smear().astype(np.uint16)[..., 0] * 256), "8-bit RGB"),
            (encoded(smear()[..., 0].astype(np.float32), "TIFF"), "8-bit RGB"),
        ],
        ids=lambda value: value if isinstance(value, str) else f"{len(value)}-bytes",
    )
    def test_refuses(self, data: bytes, message: str) -> None:
        with pytest.raises(BadImage, match=message) as error:
            decode(data)
        assert "\n" not in str(error.value)

    def test_refuses_cmyk(self) -> None:
        buffer = io.BytesIO()
        Image.fromarray(smear()).convert("CMYK").save(buffer, "JPEG")
        with pytest.raises(BadImage, match="CMYK"):
            decode(buffer.getvalue())

    @pytest.mark.parametrize("kind", ["TIFF", "PNG"])
    def test_refuses_several_pictures(self, kind: str) -> None:
        buffer = io.BytesIO()
        Image.fromarray(smear(1)).save(buffer, kind, save_all=True, append_images=[Image.fromarray(smear(2))])
        with pytest.raises(BadImage, match="more than one picture"):
            decode(buffer.getvalue())

    @pytest.mark.filterwarnings("ignore::UserWarning")
    @pytest.mark.parametrize("encode", [png, jpeg, tiff, bmp])
    def test_no_truncated_file_gives_pixels(self, encode: Callable[..., bytes]) -> None:
        data = encode(seed=5, size=24)
        for length in range(0, len(data) - 1, 7):
            with pytest.raises(BadImage):
                decode(data[:length])
        # The very last byte may be padding that no reader needs; then the picture must be whole.
        for length in range(len(data) - 16, len(data)):
            try:
                pixels = decode(data[:length])
            except BadImage:
                continue
            np.testing.assert_array_equal(pixels, decode(data))

    def test_truncated_stays_refused_when_a_library_asks_pillow_to_accept_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        for data in (png(size=64), jpeg(size=64)):
            with pytest.raises(BadImage, match="truncated"):
                decode(data[: len(data) // 2])

    @pytest.mark.filterwarnings("ignore::UserWarning")
    @given(st.binary(max_size=400), st.sampled_from([png(), jpeg(), tiff(), bmp()]), st.data())
    def test_damaged_bytes_give_pixels_or_bad_image(self, noise: bytes, data: bytes, draw: st.DataObject) -> None:
        at = draw.draw(st.integers(0, len(data)))
        damaged = data[:at] + noise + data[at + len(noise) :]
        try:
            pixels = decode(damaged, max_pixels=1_000_000)
        except BadImage as error:
            assert "\n" not in str(error)
            return
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert min(pixels.shape[:2]) >= 16

    def test_the_bound_is_checked_before_decoding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def decoded(self: ImageFile.ImageFile) -> None:
            raise AssertionError("pixels were decoded")

        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decoded)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(BadImage, match="40000×30000 pixels, more than 64000000"):
                decode(_png_header(40_000, 30_000))

    def test_the_bound_counts_pixels(self) -> None:
        assert decode(png(size=32), max_pixels=32 * 32).shape == (32, 32, 3)
        with pytest.raises(BadImage, match="more than 1023"):
            decode(png(size=32), max_pixels=32 * 32 - 1)

    def test_pillows_process_wide_limit_is_neither_needed_nor_touched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        assert decode(png()).shape == (32, 32, 3)
        assert Image.MAX_IMAGE_PIXELS == 10

    def test_a_text_bomb_is_refused(self) -> None:
        info = PngImagePlugin.PngInfo()
        info.add_text("bomb", "a" * 20_000_000, zip=True)
        data = encoded(smear(), pnginfo=info)
        assert len(data) < 100_000
        with pytest.raises(BadImage, match="cannot be read"):
            decode(data)

    def test_exif_orientation_is_applied(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90° clockwise to see it upright
        data = encoded(smear(2, 32)[:24], exif=exif)
        np.testing.assert_array_equal(decode(data), np.rot90(smear(2, 32)[:24], -1))

    def test_transparency_is_laid_over_white(self) -> None:
        layered = np.dstack([smear(2), np.zeros((32, 32), np.uint8)])
        layered[:16, :, 3] = 255
        pixels = decode(encoded(layered))
        np.testing.assert_array_equal(pixels[:16], smear(2)[:16])
        assert (pixels[16:] == 255).all()

    def test_grey_and_palette_become_rgb(self) -> None:
        grey = smear()[..., 0]
        np.testing.assert_array_equal(decode(encoded(grey)), np.dstack([grey] * 3))
        buffer = io.BytesIO()
        Image.fromarray(smear()).quantize(16).save(buffer, "PNG")
        assert decode(buffer.getvalue()).shape == (32, 32, 3)


class TestToField:
    def test_identity_where_size_and_scale_match(self) -> None:
        pixels = smear(size=128)
        np.testing.assert_array_equal(to_field(pixels, FIELD, SCALE), pixels)
        np.testing.assert_array_equal(to_field(pixels, FIELD, 0.0), pixels)

    def test_crops_around_the_centre_without_resampling(self) -> None:
        pixels = smear(size=201)
        np.testing.assert_array_equal(to_field(pixels, FIELD, SCALE), pixels[36:164, 36:164])

    @pytest.mark.parametrize("size", [17, 40, 63, 127])
    def test_pads_by_reflection_as_often_as_needed(self, size: int) -> None:
        pixels = smear(size=size)
        before = (128 - size) // 2
        after = 128 - size - before
        wanted = np.pad(pixels, ((before, after), (before, after), (0, 0)), mode="reflect")
        np.testing.assert_array_equal(to_field(pixels, FIELD, SCALE), wanted)

    @pytest.mark.parametrize("shape", [(40, 300), (300, 40)])
    def test_crops_one_side_and_pads_the_other(self, shape: tuple[int, int]) -> None:
        pixels = smear(size=300)[: shape[0], : shape[1]]
        field = to_field(pixels, FIELD, SCALE)
        padded = tuple((44, 44) if side == 40 else (0, 0) for side in shape)
        wanted = np.pad(pixels, (*padded, (0, 0)), mode="reflect")
        top, left = ((side - 128) // 2 if side == 300 else 0 for side in shape)
        np.testing.assert_array_equal(field, wanted[top : top + 128, left : left + 128])

    @pytest.mark.parametrize("scale", [0.6, 0.7, 1.0, 1.37, 2.0, 4.0])
    @pytest.mark.parametrize("shape", [(257, 257), (120, 100), (90, 400)])
    def test_a_cell_keeps_its_size_and_its_roundness(self, scale: float, shape: tuple[int, int]) -> None:
        """A disc of 8 µm, at whatever scale and in whatever frame, spans 8 µm in both directions of the field."""
        pixel_um = SCALE * scale
        y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
        distance = np.hypot(y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2) * pixel_um
        pixels = np.repeat(np.where(distance < 4.0, 0, 255)[..., None], 3, axis=2).astype(np.uint8)
        field = to_field(pixels, FIELD, pixel_um)
        dark = field[..., 0] < 128
        middle = FIELD.height // 2
        row, column = dark[middle], dark[:, middle]
        run_x, run_y = (_run(line, middle) * SCALE for line in (row, column))
        assert run_x == pytest.approx(8.0, abs=3 * max(SCALE, pixel_um))
        assert run_y == pytest.approx(run_x, abs=2 * max(SCALE, pixel_um))
        assert dark[middle, middle]

    @pytest.mark.parametrize("shape", [(100, 200), (200, 100), (50, 60), (1000, 700)])
    def test_unknown_scale_fits_the_whole_picture_and_keeps_its_aspect(self, shape: tuple[int, int]) -> None:
        pixels = np.full((*shape, 3), 200, np.uint8)
        edge = max(2, min(shape) // 10)
        pixels[:edge], pixels[-edge:], pixels[:, :edge], pixels[:, -edge:] = 0, 0, 0, 0
        field = to_field(pixels, FIELD, 0.0)
        factor = 128 / max(shape)
        rows, columns = round(shape[0] * factor), round(shape[1] * factor)
        top, left = (128 - rows) // 2, (128 - columns) // 2
        assert field.shape == (128, 128, 3)
        assert (field[top, left : left + columns] < 40).all()
        assert (field[top + rows - 1, left : left + columns] < 40).all()
        assert (field[top : top + rows, left] < 40).all()
        assert (field[64, 64] > 190).all()

    def test_shrinking_averages_instead_of_aliasing(self) -> None:
        board = np.indices((512, 512)).sum(axis=0) % 2 * 255
        field = to_field(np.dstack([board] * 3).astype(np.uint8), FIELD, SCALE / 4)
        assert np.abs(field.astype(int) - 127).max() <= 12

    @pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), float("-inf")])
    def test_refuses_what_is_no_scale(self, bad: float) -> None:
        with pytest.raises(InvalidRequest, match="pixel_size_um"):
            to_field(smear(), FIELD, bad)

    @pytest.mark.parametrize("absurd", [5e-324, 1e-9, 1e-3, 1.3, 1e9, 1.7e308])
    def test_refuses_an_absurd_scale_without_resampling(self, absurd: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(Image.Image, "resize")
        with pytest.raises(InvalidRequest, match="check pixel_size_um"):
            to_field(smear(size=128), FIELD, absurd)

    def test_refuses_a_strip(self) -> None:
        with pytest.raises(InvalidRequest, match="too elongated"):
            to_field(np.zeros((20, 400, 3), np.uint8), FIELD, 0.0)

    @pytest.mark.parametrize(("crop", "shown"), [(0.5, 128), (0.75, 192), (64 / 256, 64)])
    def test_without_a_scale_the_central_share_is_fitted(self, crop: float, shown: int) -> None:
        pixels = smear(size=256)
        edge = (256 - shown) // 2
        wanted = to_field(pixels[edge : 256 - edge, edge : 256 - edge], FIELD, 0.0)
        seen = to_field(pixels, replace(FIELD, crop=crop), 0.0)
        # Resampling looks a little beyond a box that has pixels around it.
        np.testing.assert_allclose(seen[4:-4, 4:-4].astype(int), wanted[4:-4, 4:-4], atol=1)
        assert (seen != to_field(pixels, FIELD, 0.0)).any()

    def test_with_a_scale_the_share_says_nothing(self) -> None:
        pixels = smear(size=201)
        np.testing.assert_array_equal(to_field(pixels, replace(FIELD, crop=0.5), SCALE), to_field(pixels, FIELD, SCALE))

    def test_a_share_takes_the_padding_first(self) -> None:
        """Of 256 × 128 pixels half the window is 128 × 128: all real pixels, none mirrored."""
        pixels = smear(size=256)[:128]
        np.testing.assert_array_equal(to_field(pixels, replace(FIELD, crop=0.5), 0.0), pixels[:, 64:192])

    def test_refuses_a_share_of_a_handful_of_pixels(self) -> None:
        assert to_field(smear(size=20), replace(FIELD, crop=0.8), 0.0).shape == (128, 128, 3)
        with pytest.raises(InvalidRequest, match=r"central 70% .* 20×20: send a larger one"):
            to_field(smear(size=20), replace(FIELD, crop=0.7), 0.0)

    @pytest.mark.parametrize("crop", [0.0, -0.5, 1.01, float("nan")])
    def test_a_share_is_above_0_and_at_most_1(self, crop: float) -> None:
        with pytest.raises(ValueError, match="central share"):
            Field(crop=crop)

    @pytest.mark.parametrize("pixels", [np.zeros((32, 32), np.uint8), np.zeros((32, 32, 3), np.float32)])
    def test_refuses_other_arrays(self, pixels: Pixels) -> None:
        with pytest.raises(InvalidRequest, match="uint8"):
            to_field(pixels, FIELD, 0.0)

    @given(
        height=st.integers(16, 90),
        width=st.integers(16, 90),
        field_side=st.integers(16, 70),
        pixel_um=st.one_of(st.just(0.0), st.floats(1e-3, 10)),
        crop=st.one_of(st.just(1.0), st.floats(0, 1, exclude_min=True)),
    )
    def test_always_the_field_or_a_refusal(
        self, height: int, width: int, field_side: int, pixel_um: float, crop: float
    ) -> None:
        pixels = smear(size=90)[:height, :width]
        field = Field(field_side, field_side + 5, 20.0, crop)
        try:
            first = to_field(pixels, field, pixel_um)
        except InvalidRequest:
            return
        assert first.shape == (field_side, field_side + 5, 3)
        assert first.dtype == np.uint8
        assert first.flags.c_contiguous
        np.testing.assert_array_equal(first, to_field(pixels.copy(), field, pixel_um))

    def test_the_result_does_not_share_memory_with_the_input(self) -> None:
        pixels = smear(size=128)
        field = to_field(pixels, FIELD, SCALE)
        pixels[:] = 0
        assert field.max() > 0


REDUCED = replace(FIELD, reduced=True)


class TestReduced:
    """A JPEG decoded at a fraction of its size shows the same window at the same scale."""

    @pytest.mark.parametrize("size", [64, 128, 200, 255])
    @pytest.mark.parametrize("scale", [0.0, SCALE])
    def test_below_twice_the_field_nothing_changes(self, size: int, scale: float) -> None:
        data = jpeg(1, size=size)
        np.testing.assert_array_equal(load_field(data, REDUCED, scale), load_field(data, FIELD, scale))

    def test_nor_does_another_format(self) -> None:
        for data in (png(1, 600), tiff(1, 600), bmp(1, 600)):
            np.testing.assert_array_equal(load_field(data, REDUCED, 0.0), load_field(data, FIELD, 0.0))

    @pytest.mark.parametrize("size", [256, 257, 300, 511, 512, 777, 1024, 1031])
    @pytest.mark.parametrize("known", [True, False])
    def test_it_is_nearly_the_same_picture(self, size: int, known: bool) -> None:
        data = encoded(
            np.asarray(Image.fromarray(smear(3, 128)).resize((size, size), Image.Resampling.BICUBIC)), "JPEG"
        )
        scale = 20.0 / size if known else 0.0
        reduced, whole = load_field(data, REDUCED, scale), load_field(data, FIELD, scale)
        difference = np.abs(reduced.astype(int) - whole)
        assert 0 < difference.mean() < 2
        # Half a pixel aside, the edges of the cells would differ by far more.
        aside = np.abs(np.roll(whole, 1, axis=1).astype(int) - whole).mean()
        assert difference.mean() < aside / 4

    @pytest.mark.parametrize("size", [(515, 389), (257, 257), (1027, 1031)])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_it_is_upright_and_not_shifted(self, size: tuple[int, int], orientation: int) -> None:
        """Sizes that do not divide: the row or column that reaches beyond the picture is on another side each time."""
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = Image.fromarray(smear(3, 128)).resize(size, Image.Resampling.BICUBIC)
        data = encoded(np.asarray(picture), "JPEG", exif=exif)
        reduced, whole = (load_field(data, field, 0.0).astype(float) for field in (REDUCED, FIELD))
        assert np.abs(reduced - whole).mean() < 2
        assert np.abs(_shift(whole, reduced)).max() < 0.05  # pixels; half a pixel of the file would be 0.12 and more

    @pytest.mark.parametrize("mode", ["L", "CMYK", "YCbCr"])
    def test_other_colours(self, mode: str) -> None:
        buffer = io.BytesIO()
        picture = Image.fromarray(smear(3, 128)).resize((512, 512), Image.Resampling.BICUBIC)
        (picture if mode == "YCbCr" else picture.convert(mode)).save(buffer, "JPEG", quality=90)
        data = buffer.getvalue()
        try:
            whole = load_field(data, FIELD, 0.0)
        except BadImage:
            with pytest.raises(BadImage):
                load_field(data, REDUCED, 0.0)
            return
        assert np.abs(load_field(data, REDUCED, 0.0).astype(int) - whole).mean() < 2

    @pytest.mark.parametrize("side", [400, 1001])
    def test_a_disc_keeps_its_size_in_micrometres(self, side: int) -> None:
        """8 µm are 51 pixels of the field."""
        scale = 20.0 / side
        down, right = np.mgrid[0:side, 0:side] - (side - 1) / 2
        pixels = np.full((side, side, 3), 240, np.uint8)
        pixels[np.hypot(down, right) < 8.0 / scale / 2] = (90, 40, 140)
        seen = load_field(encoded(pixels, "JPEG", quality=95), REDUCED, scale)
        dark = seen[..., 1] < 140
        assert abs(_run(dark[64], 64) - 8.0 / SCALE) <= 1
        assert abs(_run(dark[:, 64], 64) - 8.0 / SCALE) <= 1

    def test_what_is_refused_is_refused_alike(self) -> None:
        for data in (jpeg(1, 400)[:2000], jpeg(1, 400)[:-2], b"\xff\xd8\xff\xd9"):
            messages = []
            for field in (FIELD, REDUCED):
                with pytest.raises(BadImage) as caught:
                    load_field(data, field, 0.0)
                messages.append(str(caught.value))
            assert messages[0] == messages[1]


def _shift(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By how many pixels (across, down) `other` is shifted against `one`, by least squares over the gradient."""
    inner = slice(8, -8)
    slopes = [(np.roll(one, -1, axis) - np.roll(one, 1, axis))[inner, inner].ravel() / 2 for axis in (1, 0)]
    found, *_ = np.linalg.lstsq(np.stack(slopes, axis=1), (one - other)[inner, inner].ravel(), rcond=None)
    return np.asarray(found)


def _run(line: np.ndarray, middle: int) -> int:
    left = right = middle
    while left > 0 and line[left - 1]:
        left -= 1
    while right < len(line) - 1 and line[right + 1]:
        right += 1
    return right - left + 1


def test_load_field_is_decode_then_to_field() -> None:
    np.testing.assert_array_equal(load_field(png(2, 99), FIELD, 0.2), to_field(smear(2, 99), FIELD, 0.2))


def test_png_round_trip_is_exact_repeatable_and_bare() -> None:
    pixels = smear(4, 77)
    data = encode_png(pixels)
    np.testing.assert_array_equal(decode(data), pixels)
    assert data == encode_png(pixels.copy())
    assert Image.open(io.BytesIO(data)).info == {}


def test_hashes_tell_content_and_shape_apart() -> None:
    pixels = smear(size=32)
    assert pixels_sha256(pixels) == pixels_sha256(pixels.copy())
    assert pixels_sha256(pixels) == pixels_sha256(np.asfortranarray(pixels))
    assert pixels_sha256(pixels) != pixels_sha256(pixels.reshape(16, 64, 3))
    changed = pixels.copy()
    changed[0, 0, 0] ^= 1
    assert pixels_sha256(pixels) != pixels_sha256(changed)
    assert image_sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class TestRowCheck:
    def test_the_formula(self) -> None:
        batch = np.stack([smear(seed) for seed in range(3)])
        wanted = [
            sum(x * (i * image.CHECK_MULTIPLIER % image.CHECK_MODULUS + 1) for i, x in enumerate(row))
            for row in batch.reshape(3, -1).tolist()
        ]
        assert row_check(batch).tolist() == wanted
        assert row_check(batch).dtype == np.int64

    def test_exact_at_its_largest(self) -> None:
        batch = np.full((1, 512, 512, 3), 255, np.uint8)
        weights = np.arange(512 * 512 * 3, dtype=object) * image.CHECK_MULTIPLIER % image.CHECK_MODULUS + 1
        assert int(row_check(batch)[0]) == 255 * int(weights.sum())

    @given(st.integers(0, 32 * 32 * 3 - 1), st.integers(1, 255))
    def test_sees_any_single_changed_byte(self, at: int, by: int) -> None:
        batch = np.stack([smear(1), smear(1)])
        batch[1].reshape(-1)[at] = (int(batch[0].reshape(-1)[at]) + by) % 256
        first, second = row_check(batch)
        assert first != second

    def test_sees_two_swapped_pixels(self) -> None:
        batch = np.stack([smear(1), smear(1)])
        batch[1, 3, 4], batch[1, 20, 9] = batch[0, 20, 9].copy(), batch[0, 3, 4].copy()
        first, second = row_check(batch)
        assert first != second


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "pattern"), [("tecom_wbc", "*.bmp"), ("bccd", "JPEGImages/*.jpg")])
def test_real_pictures_are_read(name: str, pattern: str) -> None:
    paths: list[Path] = sorted(data_folder(name).glob(pattern))[:40]
    assert len(paths) == 40
    for path in paths:
        assert load_field(path.read_bytes(), FIELD, 0.0).std() > 5
