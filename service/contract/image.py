"""Bytes → checked, decoded pixels of the model's field. Training and service share it, so there is nothing to skew.

Size is morphology: a cell's size in µm tells subtypes apart, so a picture is never stretched. It is brought to the
field's physical scale and cropped or padded around its centre; where its scale is unknown, the whole picture is fitted,
or its central share where a model asks for that. A JPEG may be decoded at a fraction of its size on the way.
"""

import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from service.contract.errors import BadImage, BlastwatchError, InvalidRequest

MAX_PIXELS = 64_000_000
MIN_SIDE = 16
MIN_SHARE = 1 / 8  # of the field's side that a picture must show; 2.5 µm of 20 µm is less than a red cell
CHECK_MULTIPLIER = 40503
CHECK_MODULUS = 65521

Pixels = npt.NDArray[np.uint8]

# Chosen by the file's first bytes and opened through the class itself: Image.open would consult process-wide limits.
_FORMATS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"II*\x00", TiffImageFile),
    (b"MM\x00*", TiffImageFile),
    (b"BM", BmpImageFile),
)
# Both end a complete file; Pillow does not miss them when all pixels are there.
_END_MARKS: dict[type[ImageFile.ImageFile], bytes] = {PngImageFile: b"IEND", JpegImageFile: b"\xff\xd9"}
_EIGHT_BIT_MODES = {"1", "L", "P", "RGB", "RGBX", "YCbCr"}
_ALPHA_MODES = {"RGBA", "LA", "PA", "La", "RGBa"}
_REDUCTIONS = (8, 4, 2)  # what libjpeg computes straight from the coefficients, largest first
# EXIF orientations that turn a picture on its side, or put its stored right or lower edge on the left or on top.
_ON_SIDE, _LEFT, _TOP = {5, 6, 7, 8}, {2, 3, 6, 7}, {3, 4, 7, 8}


@dataclass(frozen=True)
class _Picture:
    """Upright pixels, and the picture that they show: `height` × `width` of its own pixels, `reduction` for one here.

    Where that does not divide, the outermost row or column reaches beyond the picture: `top` and `left` are by how much
    of a pixel here it does so on these sides.
    """

    pixels: Pixels
    height: int
    width: int
    reduction: int = 1
    top: float = 0.0
    left: float = 0.0


@dataclass(frozen=True)
class Field:
    """What a model sees: `height` × `width` pixels that show `field_um` µm across the width, square pixels.

    `crop` is for pictures of unknown scale: the share that is fitted of the window that shows the whole picture.
    `reduced`: a JPEG with at least twice (4, 8 times) the pixels a side that the field needs is decoded at 1/2 (1/4,
    1/8) of its size, which is cheaper and gives slightly other pixels than shrinking the whole of it.
    """

    height: int = 128
    width: int = 128
    field_um: float = 20.0
    crop: float = 1.0
    reduced: bool = False

    def __post_init__(self) -> None:
        """Refuse a share that nothing can be seen in. Raises ValueError."""
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop is {self.crop}: it is the central share of a picture, above 0 and at most 1")

    @property
    def pixel_size_um(self) -> float:
        """µm per pixel."""
        return self.field_um / self.width


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """PNG, JPEG, TIFF or BMP bytes → RGB, uint8 [h, w, 3], upright, with transparency laid over white.

    The picture's size is read from the header and checked before any pixel is decoded. Raises BadImage for anything
    that is empty, truncated, no picture, under 16 pixels on a side, over `max_pixels`, not 8 bits a channel in grey or
    RGB, or has more than one picture in it.
    """
    return _decoded(data, max_pixels, lambda _height, _width: 1).pixels


def _decoded(data: bytes, max_pixels: int, wanted: Callable[[int, int], int]) -> _Picture:
    """`decode`, a JPEG at 1 / `wanted(height, width)` of its size; what is refused does not depend on that."""
    if not data:
        raise BadImage("the image is empty: send the bytes of a PNG, JPEG, TIFF or BMP file")
    kind = next((kind for magic, kind in _FORMATS if data.startswith(magic)), None)
    if kind is None:
        raise BadImage("not a PNG, JPEG, TIFF or BMP image: convert it to one of these")
    if kind in _END_MARKS and _END_MARKS[kind] not in data:
        raise BadImage("the image is truncated: send the whole file")
    try:
        with kind(io.BytesIO(data)) as picture:
            _check_header(picture, max_pixels)
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) if kind is JpegImageFile else 1
            width, height = picture.size
            if turned in _ON_SIDE:
                width, height = height, width
            reduction = _drafted(picture, wanted(height, width))
            pixels = np.asarray(_to_rgb(picture), dtype=np.uint8)
            if reduction == 1:
                return _Picture(pixels, *pixels.shape[:2])
            top, left = pixels.shape[0] - height / reduction, pixels.shape[1] - width / reduction
            return _Picture(
                pixels, height, width, reduction, top if turned in _TOP else 0.0, left if turned in _LEFT else 0.0
            )
    except BlastwatchError:
        raise
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, struct.error, ValueError, zlib.error, MemoryError and more on
        # hostile bytes; all of them mean the same to the caller.
        raise BadImage(f"the image cannot be read, it is damaged or truncated ({_one_line(error)})") from error


def to_field(rgb: Pixels, field: Field, pixel_size_um: float) -> Pixels:
    """RGB uint8 [h, w, 3] → the model's field, uint8 [H, W, 3], without stretching.

    With `pixel_size_um` > 0 (µm per pixel of `rgb`) the picture is resampled to the field's scale, then cropped around
    its centre or padded there by reflection. With 0 (unknown) the whole picture is fitted and padded; with a
    `field.crop` below 1 it is that share, around the centre, of the window that shows the whole picture, so that a
    picture which is not square loses padding before it loses pixels. A picture that already has the field's scale is
    not resampled. Raises InvalidRequest for a negative or non-finite scale, and for one (or a crop) at which the
    picture shows hardly anything or the field would be a handful of pixels.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise InvalidRequest(f"expected pixels as uint8 [h, w, 3], not {rgb.dtype} {list(rgb.shape)}")
    return _in_field(_Picture(rgb, *rgb.shape[:2]), field, pixel_size_um)


def _in_field(picture: _Picture, field: Field, pixel_size_um: float) -> Pixels:
    """`to_field`. All geometry is that of the whole picture, so that a reduced one shows the same window of it."""
    if not math.isfinite(pixel_size_um) or pixel_size_um < 0:
        raise InvalidRequest(f"pixel_size_um is {pixel_size_um}: give µm per pixel, or 0 when it is not known")
    rgb, height, width, reduction = picture.pixels, picture.height, picture.width, picture.reduction
    factor = _factor(height, width, field, pixel_size_um)
    _check_scale(height, width, field, factor, pixel_size_um)
    if reduction == 1 and pixel_size_um > 0 and math.isclose(factor, 1.0, rel_tol=1e-9):
        row, column = max(0, (height - field.height) // 2), max(0, (width - field.width) // 2)
        resampled = rgb[row : row + field.height, column : column + field.width]
    else:
        high, top, bottom = _axis(height, field.height, factor)
        wide, left, right = _axis(width, field.width, factor)
        across, down = (left / reduction, right / reduction), (top / reduction, bottom / reduction)
        box = (picture.left + across[0], picture.top + down[0], picture.left + across[1], picture.top + down[1])
        # Pillow widens its kernel when it shrinks, so fine texture is averaged rather than aliased.
        resampled = np.asarray(Image.fromarray(rgb).resize((wide, high), Image.Resampling.BICUBIC, box=box))
    if resampled.shape[:2] == (field.height, field.width):
        return np.array(resampled, order="C")
    rows, columns = _reflected(resampled.shape[0], field.height), _reflected(resampled.shape[1], field.width)
    return np.ascontiguousarray(resampled[rows[:, None], columns])


def load_field(data: bytes, field: Field, pixel_size_um: float) -> Pixels:
    """Bytes → the model's field, uint8 [H, W, 3]: `decode`, then `to_field`. The one function both sides call.

    With `field.reduced` a JPEG that is large enough is decoded at a fraction of its size in between.
    """
    return load_field_and_size(data, field, pixel_size_um)[0]


def load_field_and_size(data: bytes, field: Field, pixel_size_um: float) -> tuple[Pixels, int, int]:
    """`load_field`, and the height and width of the picture itself, upright, in its own pixels."""

    def reduction(height: int, width: int) -> int:
        factor = _factor(height, width, field, pixel_size_um)
        # Never below the field's resolution: that would have to be made up.
        fitting = (n for n in _REDUCTIONS if factor * n <= 1 + 1e-9) if field.reduced else iter(())
        return next(fitting, 1)

    picture = _decoded(data, MAX_PIXELS, reduction)
    return _in_field(picture, field, pixel_size_um), picture.height, picture.width


def encode_png(pixels: Pixels, *, level: int = 6) -> bytes:
    """uint8 [h, w, 3] → PNG without metadata; the same pixels and level (zlib's, 0…9) give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()


def pixels_sha256(pixels: Pixels) -> str:
    """Hex SHA-256 over the shape and the bytes, so that equal content in another shape is something else."""
    digest = hashlib.sha256("x".join(map(str, pixels.shape)).encode() + b";")
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def image_sha256(data: bytes) -> str:
    """Hex SHA-256 of the bytes as received."""
    return hashlib.sha256(data).hexdigest()


def row_check(batch: Pixels) -> npt.NDArray[np.int64]:
    """Position-weighted checksum of each row of uint8 [n, H, W, 3] → int64 [n]; the graph computes the same.

    Σ x·w over the flattened row, w = (i · 40503 mod 65521) + 1.
    """
    flat = batch.reshape(len(batch), -1).astype(np.float64)
    # In float64 the product goes through BLAS and is exact: every partial sum is an integer below 2^53.
    return (flat @ _check_weights(flat.shape[1])).astype(np.int64)


@lru_cache(maxsize=8)
def _check_weights(length: int) -> npt.NDArray[np.float64]:
    weights = (np.arange(length, dtype=np.int64) * CHECK_MULTIPLIER % CHECK_MODULUS + 1).astype(np.float64)
    weights.flags.writeable = False
    return weights


def _check_header(picture: ImageFile.ImageFile, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise BadImage(f"the image has {width}×{height} pixels, more than {max_pixels}: send a smaller one or a crop")
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"the image has {width}×{height} pixels: each side must have at least {MIN_SIDE}")
    if picture.mode not in _EIGHT_BIT_MODES | _ALPHA_MODES:
        raise BadImage(f"the image's colours are stored as {picture.mode}: convert it to 8-bit RGB")
    if _has_second_frame(picture):
        raise BadImage("the file has more than one picture in it: send one")


def _has_second_frame(picture: ImageFile.ImageFile) -> bool:
    if not isinstance(picture, TiffImageFile):
        return int(getattr(picture, "n_frames", 1)) > 1
    # A TIFF's n_frames walks every directory of the file; the second one is enough to know.
    try:
        picture.seek(1)
    except EOFError:
        return False
    return True


def _drafted(picture: ImageFile.ImageFile, reduction: int) -> int:
    """Have a JPEG decoded at 1 / `reduction` of its size, in its own mode; → the reduction that it will have."""
    if reduction == 1 or not isinstance(picture, JpegImageFile):
        return 1
    width, height = picture.size
    return reduction if picture.draft(picture.mode, (width // reduction, height // reduction)) else 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in _ALPHA_MODES or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return upright.convert("RGB")


def _factor(height: int, width: int, field: Field, pixel_size_um: float) -> float:
    """Pixels of the field for one of the picture, along a side."""
    if pixel_size_um > 0:
        return pixel_size_um / field.pixel_size_um
    return min(field.height / height, field.width / width) / field.crop


def _check_scale(height: int, width: int, field: Field, factor: float, pixel_size_um: float) -> None:
    if min(height / field.height, width / field.width) * factor < MIN_SHARE:
        if pixel_size_um == 0:
            raise InvalidRequest(f"the image is {width}×{height}: too elongated for one cell, send a crop around it")
        raise InvalidRequest(
            f"at {pixel_size_um:g} µm a pixel the {width}×{height} image shows less than {MIN_SHARE:.0%} of the "
            f"{field.field_um:g} µm field: check pixel_size_um"
        )
    if pixel_size_um > 0 and min(field.height, field.width) / factor < MIN_SIDE:
        raise InvalidRequest(
            f"at {pixel_size_um:g} µm a pixel the {field.field_um:g} µm field has fewer than {MIN_SIDE} pixels: "
            "check pixel_size_um"
        )
    if pixel_size_um == 0 and field.crop < 1 and min(field.height, field.width) / factor < MIN_SIDE:
        raise InvalidRequest(
            f"the model looks at the central {field.crop:.0%} of a picture, which has fewer than {MIN_SIDE} pixels a "
            f"side in one of {width}×{height}: send a larger one"
        )


def _axis(size: int, wanted: int, factor: float) -> tuple[int, float, float]:
    """Along one axis: pixels to resample to (at most `wanted`), and the centred part of the source that fills them."""
    scaled = size * factor
    if scaled > wanted + 0.5:
        span = wanted / factor
        return wanted, (size - span) / 2, (size + span) / 2
    return min(wanted, max(1, round(scaled))), 0.0, float(size)


def _reflected(size: int, wanted: int) -> npt.NDArray[np.intp]:
    """Indices that centre `size` pixels in `wanted`, mirrored at the edges (edge not repeated) as often as needed."""
    index = np.arange(wanted) - (wanted - size) // 2
    period = max(1, 2 * (size - 1))
    index = index % period
    return np.minimum(index, period - index) if size > 1 else np.zeros(wanted, dtype=np.intp)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
