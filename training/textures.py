"""Tissue that is no smear, drawn from noise: amounts of a nuclear and of another dye, in units of a stained cell's.

Each returns two maps [H, W] for a field of `shape`. None of it is a likeness of any organ; it is what a section has and
a smear has not: nuclei all over the field, fibres in a direction, large empty cells with thin walls, rings around a
lumen.
"""

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float64]
Shape = tuple[int, int]


def pink_noise(shape: Shape, rng: np.random.Generator, exponent: float) -> Image:
    """Noise of mean 0 and SD 1 whose amplitude falls with frequency to the power of `exponent`."""
    y, x = np.meshgrid(np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1]), indexing="ij")
    frequency = np.hypot(y, x)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=shape)) / frequency**exponent
    clouds = np.fft.irfft2(spectrum, s=shape)
    found: Image = (clouds - clouds.mean()) / max(float(clouds.std()), 1e-12)
    return found


def packed_nuclei(shape: Shape, rng: np.random.Generator) -> tuple[Image, Image]:
    """Nuclei side by side on a background of cytoplasm."""
    spacing = rng.uniform(0.13, 0.2) * shape[1]
    nuclei = _spots(shape, rng, spacing, 0.33)
    return nuclei * _uneven(shape, rng), 0.6 + 0.2 * pink_noise(shape, rng, 1.0)


def fibres(shape: Shape, rng: np.random.Generator) -> tuple[Image, Image]:
    """Wavy stripes in one direction with a few flat nuclei."""
    y, x = _turned(shape, rng.uniform(0, np.pi))
    wave = y + 0.05 * np.sin(2 * np.pi * (2 * x + rng.random())) + 0.03 * pink_noise(shape, rng, 1.5)
    stripes = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(6, 12) * wave)
    nuclei = ((x / 0.12 - rng.uniform(-3, 3)) ** 2 + (y / 0.03 - rng.uniform(-6, 6)) ** 2 < 1).astype(np.float64)
    return nuclei, 0.3 + 0.9 * stripes


def fat(shape: Shape, rng: np.random.Generator) -> tuple[Image, Image]:
    """Large empty cells: thin walls between the cells of a random pattern."""
    edges = _edges(shape, rng, rng.uniform(0.3, 0.45) * shape[1])
    walls = np.exp(-((edges / (0.012 * shape[1])) ** 2))
    return np.zeros(shape), 0.9 * walls


def glands(shape: Shape, rng: np.random.Generator) -> tuple[Image, Image]:
    """Rings of nuclei around an empty lumen, in fibrous tissue."""
    y, x = _turned(shape, rng.uniform(0, np.pi))
    radius = np.hypot(y - rng.uniform(-0.2, 0.2), x - rng.uniform(-0.2, 0.2))
    lumen = rng.uniform(0.1, 0.16)
    ring = np.exp(-(((radius - lumen - 0.12) / 0.05) ** 2))
    nuclei = ring * _spots(shape, rng, 0.1 * shape[1], 0.45)
    tissue = np.where(radius < lumen, 0.0, 0.7 + 0.15 * pink_noise(shape, rng, 1.2))
    outside = (radius > lumen + 0.25) * _spots(shape, rng, 0.22 * shape[1], 0.2)
    return (nuclei + outside) * _uneven(shape, rng), tissue


def _uneven(shape: Shape, rng: np.random.Generator) -> Image:
    """How dense chromatin is, from place to place."""
    grain: Image = np.clip(0.9 + 0.2 * pink_noise(shape, rng, 0.7), 0.2, 1.6)
    return grain


def _spots(shape: Shape, rng: np.random.Generator, spacing: float, share: float) -> Image:
    """Soft discs of radius share · spacing on a shaken grid."""
    distance, _ = _nearest(shape, rng, spacing)
    return 1 / (1 + np.exp(np.clip((distance - share * spacing) / 0.7, -40, 40)))


def _edges(shape: Shape, rng: np.random.Generator, spacing: float) -> Image:
    """How much farther the second-nearest point of a shaken grid is than the nearest: 0 on the walls between cells."""
    first, second = _nearest(shape, rng, spacing)
    return second - first


def _nearest(shape: Shape, rng: np.random.Generator, spacing: float) -> tuple[Image, Image]:
    """Distances to the nearest and the second-nearest point of a shaken grid, in pixels."""
    rows, columns = (np.arange(-spacing, side + 2 * spacing, spacing) for side in shape)
    points = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    points = points + rng.uniform(-0.35, 0.35, points.shape) * spacing
    y, x = np.mgrid[: shape[0], : shape[1]]
    distances = np.hypot(y[..., None] - points[:, 0], x[..., None] - points[:, 1])
    ordered = np.partition(distances, 1, axis=2)
    return ordered[..., 0], ordered[..., 1]


def _turned(shape: Shape, angle: float) -> tuple[Image, Image]:
    """Coordinates in widths of the field around its middle, turned."""
    y, x = ((np.arange(side) - (side - 1) / 2) / shape[1] for side in shape)
    rows, columns = np.meshgrid(y, x, indexing="ij")
    return (
        np.cos(angle) * rows - np.sin(angle) * columns,
        np.sin(angle) * rows + np.cos(angle) * columns,
    )
