"""Scanners: how light that passed a smear becomes 8-bit pixels."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import fft

from training.datasets.smear.canvas import CANVAS, MARGIN, SIDE
from training.datasets.smear.dice import Dice, Floats
from training.datasets.smear.texture import Image32, frequencies

_LEVELS = 4096


@dataclass(frozen=True)
class Scanner:
    """A microscope, its camera and its software. Lengths in pixels of the picture."""

    name: str
    blur: float = 0.9
    """SD of the optics' point spread."""
    defocus: float = 0.35
    """SD of further blur, from cell to cell."""
    sharpen: float = 0.4
    """Strength of the unsharp mask; 0 is none."""
    sharpen_radius: float = 1.5
    noise: float = 0.010
    """SD of sensor noise in the final picture, full scale 1."""
    grain: float = 0.3
    """Share of the noise that neighbouring pixels have in common (demosaicing)."""
    gamma: float = 2.2
    """Of the tone curve: pixel = light ^ (1 / gamma)."""
    white: tuple[float, float, float] = (0.93, 0.90, 0.85)
    """Empty glass in the picture, R, G, B."""
    balance_sd: float = 0.03
    """SD of each channel's white, from slide to slide, in logarithms of light."""
    exposure_sd: float = 0.14
    """SD of the exposure, from cell to cell, in logarithms of light."""
    shading: float = 0.06
    """SD of the illumination's slope over the picture."""
    saturation: float = 1.0
    """Colour relative to grey, in the final picture."""
    jpeg_quality: int = 92
    """0 stores PNG."""
    chroma_subsampling: bool = False


@dataclass(frozen=True)
class Exposure:
    """How n cells were taken."""

    blur: Floats
    sharpen: Floats
    noise: Floats
    light: Floats  # [n, 3]
    slope: Floats  # [n, 2]
    bowl: Floats


def draw_exposure(scanner: Scanner, balance: Floats, dice: Dice) -> Exposure:
    """Random effects of the single picture; `balance` [n, 3] is its slide's, in logarithms of light."""
    white = np.log(np.asarray(scanner.white)) * scanner.gamma
    return Exposure(
        blur=np.hypot(scanner.blur, np.abs(dice.normal(0.0, scanner.defocus)) * 2),
        sharpen=scanner.sharpen * np.exp(dice.normal(0.0, 0.15)),
        noise=scanner.noise * np.exp(dice.normal(0.0, 0.15)),
        light=np.exp(white + balance + dice.normal(0.0, scanner.exposure_sd)[:, None]),
        slope=dice.normal(0.0, scanner.shading, 2),
        bowl=np.abs(dice.normal(0.0, scanner.shading)),
    )


def expose(density: Image32, scanner: Scanner, exposure: Exposure, noise: Image32) -> npt.NDArray[np.uint8]:
    """Optical density [n, 3, CANVAS, CANVAS] and white noise [n, 3, SIDE, SIDE] → RGB, uint8 [n, SIDE, SIDE, 3]."""
    # Blur and the unsharp mask are linear: one transfer function, one Fourier round trip.
    square = frequencies(CANVAS) ** 2 * np.float32(-2 * np.pi**2)
    blur = np.exp(square * (exposure.blur**2).astype(np.float32)[:, None, None])
    mask = 1 - np.exp(square * np.float32(scanner.sharpen_radius**2))
    transfer = blur * (1 + exposure.sharpen.astype(np.float32)[:, None, None] * mask)
    spectrum = fft.rfft2(np.exp(-density), axes=(2, 3))
    spectrum *= transfer[:, None]
    light = fft.irfft2(spectrum, s=(CANVAS, CANVAS), axes=(2, 3))[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]

    axis = np.linspace(-1, 1, SIDE, dtype=np.float32)
    slope, bowl = exposure.slope.astype(np.float32), exposure.bowl.astype(np.float32)
    shade = 1 + slope[:, :1, None] * axis[None, None, :] + slope[:, 1:, None] * axis[None, :, None]
    shade = shade - bowl[:, None, None] * (axis[None, None, :] ** 2 + axis[None, :, None] ** 2) / 2
    light = light * shade[:, None]
    light *= exposure.light.astype(np.float32)[:, :, None, None]

    curve = (np.arange(_LEVELS, dtype=np.float64) / (_LEVELS - 1)) ** (1 / scanner.gamma)
    picture = curve.astype(np.float32)[
        (np.clip(light, 0, 1) * np.float32(_LEVELS - 1) + np.float32(0.5)).astype(np.int32)
    ]
    if scanner.saturation != 1:
        grey = (picture[:, 0] * 0.299 + picture[:, 1] * 0.587 + picture[:, 2] * 0.114)[:, None]
        picture = grey + (picture - grey) * np.float32(scanner.saturation)
    shared = (noise + np.roll(noise, 1, axis=2) + np.roll(noise, 1, axis=3)) * np.float32(3**-0.5)
    mixed = noise * np.float32(np.sqrt(1 - scanner.grain)) + shared * np.float32(np.sqrt(scanner.grain))
    picture = picture + mixed * exposure.noise.astype(np.float32)[:, None, None, None]
    eight_bit = (np.clip(picture, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return np.ascontiguousarray(eight_bit.transpose(0, 2, 3, 1))


def stored(pixels: npt.NDArray[np.uint8], scanner: Scanner) -> bytes:
    """The file that the scanner writes for one picture [H, W, 3]: JPEG at its quality, else PNG."""
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    if scanner.jpeg_quality:
        subsampling = 2 if scanner.chroma_subsampling else 0
        picture.save(buffer, format="JPEG", quality=scanner.jpeg_quality, subsampling=subsampling)
    else:
        picture.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()
