"""Pictures that no answer should be given for, made from the test cells and from procedural textures.

Six kinds, each in a few variants, so that a detector cannot pass by knowing one of them. Where a camera would add
noise after the fault, it is added: a defocused picture is smooth, but the sensor's noise on it is not. Light is worked
with as optical density, in which amounts of dye add up (Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23 (2001)
291–299, where the dyes' vectors are from too).
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

from service.contract.image import Pixels
from training.textures import Image, fat, fibres, glands, packed_nuclei, pink_noise

KINDS = ("blank", "blurred", "defocused", "wrong stain", "other tissue", "noise")

Maker = Callable[[Image, np.random.Generator], Image]

_SENSOR = 2.0  # grey levels, SD: what any camera adds
HAEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)
DAB = (0.268, 0.570, 0.776)
METHYL_GREEN = (0.980, 0.144, 0.133)
PERIODIC_ACID_SCHIFF = (0.175, 0.972, 0.155)
SILVER = (0.577, 0.577, 0.577)


def suite(cells: Pixels, number: int, seed: int) -> dict[str, tuple[Pixels, npt.NDArray[np.str_]]]:
    """By kind: `number` pictures uint8 [number, H, W, 3] and the variant of each, [number].

    Made from cells uint8 [n, H, W, 3], n ≥ 1, taken in a random order and again from the start when they run out.
    Deterministic by seed.
    """
    rng = np.random.default_rng(seed)
    order = np.resize(rng.permutation(len(cells)), number)
    found = {}
    for kind, variants in VARIANTS.items():
        names = np.resize(np.array(list(variants), dtype=np.str_), number)
        pictures = [
            _pixels(variants[name](cells[index].astype(np.float64), rng))
            for name, index in zip(names.tolist(), order.tolist(), strict=True)
        ]
        found[kind] = (np.stack(pictures), names)
    return found


def glass(cell: Image) -> Image:
    """The colour of empty glass beside a cell, [3]: what is brighter than nearly all of the picture."""
    colour: Image = np.quantile(cell.reshape(-1, 3), 0.95, axis=0)
    return colour


def density(cell: Image) -> Image:
    """Grey levels 0–255 → natural optical density, [H, W, 3], of which the glass has none."""
    found: Image = np.maximum(np.log(glass(cell) + 1) - np.log(cell + 1), 0.0)
    return found


def _empty(cell: Image, rng: np.random.Generator) -> Image:
    return _shaded(np.broadcast_to(glass(cell), cell.shape), rng)


def _overexposed(cell: Image, rng: np.random.Generator) -> Image:
    return _shaded(np.full(cell.shape, 252.0), rng, slope=0.01)


def _dark(cell: Image, rng: np.random.Generator) -> Image:
    return _shaded(np.full(cell.shape, rng.uniform(2, 40)), rng)


def _dirt(cell: Image, rng: np.random.Generator) -> Image:
    """Empty glass with a few specks out of focus on it."""
    specks = ndimage.gaussian_filter((rng.random(cell.shape[:2]) < 3e-4).astype(np.float64), cell.shape[1] / 40)
    return _shaded(glass(cell) * np.exp(-20 * specks[..., None]), rng)


def _shaded(light: Image, rng: np.random.Generator, slope: float = 0.04) -> Image:
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in light.shape[:2]), indexing="ij")
    tilt = 1 + rng.normal(0, slope) * y + rng.normal(0, slope) * x
    shaded: Image = light * tilt[..., None]
    return shaded


def _gaussian(cell: Image, rng: np.random.Generator) -> Image:
    spread = rng.uniform(0.03, 0.06) * cell.shape[1]
    return np.asarray(ndimage.gaussian_filter(cell, (spread, spread, 0), mode="reflect"))


def _moved(cell: Image, rng: np.random.Generator) -> Image:
    """The stage moved while the shutter was open."""
    length, angle = rng.uniform(0.12, 0.2) * cell.shape[1], rng.uniform(0, np.pi)
    steps = np.linspace(-0.5, 0.5, max(9, int(2 * length))) * length
    kernel = np.zeros((_odd(length), _odd(length)))
    middle = len(kernel) // 2
    rows, columns = (np.rint(middle + steps * part).astype(int) for part in (np.sin(angle), np.cos(angle)))
    np.add.at(kernel, (rows, columns), 1.0)
    return _filtered(cell, kernel)


def _defocused(cell: Image, rng: np.random.Generator) -> Image:
    """A point becomes a disc: geometric optics of a lens out of focus."""
    radius = rng.uniform(0.04, 0.08) * cell.shape[1]
    y, x = np.mgrid[: _odd(2 * radius), : _odd(2 * radius)] - _odd(2 * radius) // 2
    return _filtered(cell, np.clip(radius + 0.5 - np.hypot(y, x), 0, 1))


def _odd(length: float) -> int:
    return 2 * int(np.ceil(length / 2)) + 1


def _filtered(cell: Image, kernel: Image) -> Image:
    reach = len(kernel) // 2
    padded = np.pad(cell, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    # By Fourier transform: these kernels are large.
    return np.asarray(signal.fftconvolve(padded, (kernel / kernel.sum())[..., None], mode="valid", axes=(0, 1)))


def _dyed(nuclear: tuple[float, float, float], other: tuple[float, float, float]) -> Maker:
    """The cell's own dyes, of which the nuclear one takes away red light, replaced by two others."""

    def make(cell: Image, rng: np.random.Generator) -> Image:
        own = density(cell)
        core, rest = own[..., 0], np.maximum(own[..., 1] - own[..., 0], 0.0)
        strength = rng.uniform(1.2, 1.8, 2)
        dyes = strength[0] * core[..., None] * np.array(nuclear) + strength[1] * rest[..., None] * np.array(other)
        return np.asarray(245.0 * np.exp(-dyes))

    return make


def _fluorescent(cell: Image, rng: np.random.Generator) -> Image:
    """Nuclei shine blue in the dark, as with DAPI."""
    own = density(cell)[..., 0]
    shine = np.clip(own / max(float(own.max()), 1e-6), 0, 1)[..., None]
    light: Image = 6 + shine * np.array([20, 60, rng.uniform(180, 250)])
    return light


def _unstained(cell: Image, rng: np.random.Generator) -> Image:
    """Bleached: what is left of the dyes is a grey shadow."""
    shadow = density(cell).mean(axis=2, keepdims=True) * rng.uniform(0.05, 0.15)
    return np.asarray(np.full(3, 235.0) * np.exp(-shadow), dtype=np.float64)


def _tissue(draw: Callable[[tuple[int, int], np.random.Generator], tuple[Image, Image]]) -> Maker:
    """Nuclear and other dye of a section, in the smear's own colours in half of the pictures, else in H and E's."""

    def make(cell: Image, rng: np.random.Generator) -> Image:
        nuclear, other = draw((cell.shape[0], cell.shape[1]), rng)
        own = density(cell).reshape(-1, 3)
        if rng.random() < 0.5:
            darkest = own[:, 0] >= np.quantile(own[:, 0], 0.95)
            pinkest = own[:, 1] - own[:, 0] >= np.quantile(own[:, 1] - own[:, 0], 0.9)
            dyes = own[darkest].mean(axis=0), own[pinkest].mean(axis=0)
        else:
            dyes = 1.3 * np.array(HAEMATOXYLIN), 0.7 * np.array(EOSIN)
        return np.asarray(glass(cell) * np.exp(-(nuclear[..., None] * dyes[0] + other[..., None] * dyes[1])))

    return make


def _white_noise(cell: Image, rng: np.random.Generator) -> Image:
    noise: Image = cell.mean() + rng.uniform(25, 80) * rng.normal(size=cell.shape)
    return noise


def _coloured_noise(cell: Image, rng: np.random.Generator) -> Image:
    """The cell's own colours and contrast, but clouds where the cell was."""
    clouds = np.stack([pink_noise((cell.shape[0], cell.shape[1]), rng, 1.0) for _ in range(3)], axis=2)
    return np.asarray(cell.mean(axis=(0, 1)) + cell.std(axis=(0, 1)) * clouds)


def _grainy(cell: Image, rng: np.random.Generator) -> Image:
    return cell + rng.uniform(30, 60) * rng.normal(size=cell.shape)


def _shuffled(cell: Image, rng: np.random.Generator) -> Image:
    """A damaged file: the picture's own blocks in another order."""
    side = max(4, cell.shape[1] // 16)
    rows, columns = cell.shape[0] // side, cell.shape[1] // side
    blocks = cell[: rows * side, : columns * side].reshape(rows, side, columns, side, 3).swapaxes(1, 2)
    mixed = rng.permutation(blocks.reshape(-1, side, side, 3)).reshape(rows, columns, side, side, 3)
    result = cell.copy()
    result[: rows * side, : columns * side] = mixed.swapaxes(1, 2).reshape(rows * side, columns * side, 3)
    return result


def _seen(make: Maker) -> Maker:
    """Through a camera: with its noise on top."""

    def with_noise(cell: Image, rng: np.random.Generator) -> Image:
        light = make(cell, rng)
        return light + _SENSOR * rng.normal(size=light.shape)

    return with_noise


def _pixels(light: Image) -> Pixels:
    pixels: Pixels = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    return pixels


VARIANTS: Mapping[str, Mapping[str, Maker]] = {
    "blank": {name: _seen(make) for name, make in {
        "empty glass": _empty, "overexposed": _overexposed, "dark": _dark, "dirty glass": _dirt,
    }.items()},
    "blurred": {"gaussian": _seen(_gaussian), "moved": _seen(_moved)},
    "defocused": {"disc": _seen(_defocused)},
    "wrong stain": {name: _seen(make) for name, make in {
        "haematoxylin and DAB": _dyed(HAEMATOXYLIN, DAB),
        "methyl green and DAB": _dyed(METHYL_GREEN, DAB),
        "methyl green and PAS": _dyed(METHYL_GREEN, PERIODIC_ACID_SCHIFF),
        "silver": _dyed(SILVER, SILVER),
        "fluorescence": _fluorescent,
        "unstained": _unstained,
    }.items()},
    "other tissue": {name: _seen(_tissue(draw)) for name, draw in {
        "packed nuclei": packed_nuclei, "fibres": fibres, "fat": fat, "glands": glands,
    }.items()},
    "noise": {
        "white": _white_noise, "coloured": _coloured_noise, "grainy": _grainy, "shuffled blocks": _shuffled,
    },
}  # fmt: skip
