"""Random textures of a chosen wavelength, shaped in the Fourier domain."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft

Image32 = npt.NDArray[np.float32]
Spectrum = npt.NDArray[np.complex64]


@lru_cache(maxsize=4)
def frequencies(side: int) -> Image32:
    """Radial frequency of `rfft2` bins of a side × side picture, cycles per pixel: [side, side // 2 + 1]."""
    rows, columns = np.fft.fftfreq(side), np.fft.rfftfreq(side)
    return np.asarray(np.hypot(rows[:, None], columns[None, :]), dtype=np.float32)


def band(spectrum: Spectrum, wavelength_px: npt.NDArray[np.float64], octaves: float) -> Image32:
    """White spectra [n, side, side // 2 + 1] → textures [n, side, side] around a wavelength, mean 0, SD about 1."""
    side = spectrum.shape[1]
    radial = frequencies(side)
    with np.errstate(divide="ignore"):
        log_radial = np.log2(radial)
    target = -np.log2(wavelength_px).astype(np.float32)[:, None, None]
    gain = np.exp(-0.5 * ((log_radial - target) / np.float32(octaves)) ** 2)
    texture = fft.irfft2(spectrum * gain, s=(side, side), axes=(1, 2))
    flat = texture.reshape(len(texture), -1)
    return np.asarray(texture / flat.std(axis=1)[:, None, None], dtype=np.float32)


def white(generator: np.random.Generator, side: int) -> Spectrum:
    """A white spectrum for `band`, [side, side // 2 + 1]."""
    parts = generator.standard_normal((side, side // 2 + 1, 2), dtype=np.float32)
    return np.asarray(parts.view(np.complex64)[:, :, 0])
