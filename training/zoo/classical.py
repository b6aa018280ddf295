"""Cells cut out by a marker watershed and described by texture: the systems before deep learning (references 6, 7)."""

import numpy as np
import numpy.typing as npt

from service.contract.image import Pixels
from training.figures import Flags, Floats

LEVELS = 16
_DISTANCES = (1, 2, 4)
_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "ASM")
_LONGEST = 16


def central_nucleus(image: Pixels) -> Flags:
    """Mask [H, W] of the region in the middle of uint8 [H, W, 3], by a marker-controlled watershed.

    Markers are the peaks of the distance transform of Otsu's mask of the green channel, which nuclei absorb most
    (Mishra, Majhi and Sa, reference 6). The whole picture when nothing stands out.
    """
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.segmentation import watershed

    green = gaussian(image[..., 1].astype(np.float64), 1)
    if green.max() - green.min() < 1:
        return np.ones(green.shape, dtype=bool)
    mask = green < threshold_otsu(green)
    distance = ndimage.distance_transform_edt(mask)
    parts, _ = ndimage.label(mask)
    peaks = peak_local_max(
        distance, min_distance=max(3, min(image.shape[:2]) // 12), labels=parts, exclude_border=False
    )
    if len(peaks) == 0:
        return np.ones(green.shape, dtype=bool)
    markers = np.zeros(mask.shape, dtype=np.int64)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    regions = watershed(-distance, markers, mask=mask)
    middle = (np.array(mask.shape) - 1) / 2
    # A speck in the middle is not the nucleus: deep inside counts as near.
    nearest = int(np.argmin(np.hypot(*(peaks - middle).T) - distance[tuple(peaks.T)]))
    found: Flags = np.asarray(regions == nearest + 1)
    return found


def glcm_features(images: Pixels) -> Floats:
    """Haralick's properties of the central nucleus at three distances, mean and range over four directions, [n, 36]."""
    return np.array([_glcm(image) for image in images], dtype=np.float64)


def glrlm_features(images: Pixels) -> Floats:
    """Galloway's run-length figures of the central nucleus in two directions, [n, 22]."""
    return np.array([_glrlm(image) for image in images], dtype=np.float64)


def _levels(image: Pixels) -> tuple[npt.NDArray[np.uint8], Flags]:
    """Grey levels 1…LEVELS inside the nucleus's box, 0 outside the nucleus; and its mask there."""
    mask = central_nucleus(image)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    grey = image[box].mean(axis=2)
    levels = (np.minimum(grey * LEVELS / 256, LEVELS - 1).astype(np.uint8) + 1) * mask[box]
    return levels.astype(np.uint8), mask[box]


def _glcm(image: Pixels) -> Floats:
    from skimage.feature import graycomatrix, graycoprops

    levels, _ = _levels(image)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    pairs = graycomatrix(levels, _DISTANCES, angles, levels=LEVELS + 1, symmetric=True).astype(np.float64)
    pairs = pairs[1:, 1:]  # pairs with the outside do not count
    pairs = pairs / np.maximum(pairs.sum(axis=(0, 1), keepdims=True), 1)
    found = [graycoprops(pairs, name) for name in _PROPERTIES]  # (distances, angles) each
    return np.concatenate([np.concatenate([values.mean(axis=1), np.ptp(values, axis=1)]) for values in found])


def _glrlm(image: Pixels) -> Floats:
    """Galloway, Computer Graphics and Image Processing 4 (1975) 172–179, and the six figures that were added since."""
    levels, mask = _levels(image)
    return np.concatenate([_run_figures(_runs(part), int(mask.sum())) for part in (levels, levels.T)])


def _runs(levels: npt.NDArray[np.uint8]) -> Floats:
    """Counts [LEVELS, _LONGEST] of runs of equal grey along the rows; longer ones count as the longest."""
    # A zero between rows ends every run there.
    line = np.pad(levels, ((0, 0), (0, 1))).ravel().astype(np.int64)
    starts = np.flatnonzero(np.diff(line, prepend=-1) != 0)
    length = np.diff(np.append(starts, len(line)))
    grey = line[starts]
    inside = grey > 0
    counts = np.zeros((LEVELS, _LONGEST))
    np.add.at(counts, (grey[inside] - 1, np.minimum(length[inside], _LONGEST) - 1), 1)
    return counts


def _run_figures(counts: Floats, pixels: int) -> Floats:
    runs = max(counts.sum(), 1.0)
    grey, length = np.arange(1, LEVELS + 1)[:, None], np.arange(1, _LONGEST + 1)[None, :]
    weighted = [
        1 / length**2, length**2, 1 / grey**2, grey**2, 1 / (grey**2 * length**2), grey**2 / length**2,
        length**2 / grey**2, grey**2 * length**2,
    ]  # fmt: skip
    by_grey, by_length = (counts.sum(axis=1) ** 2).sum(), (counts.sum(axis=0) ** 2).sum()
    return np.array([*((counts * w).sum() / runs for w in weighted), by_grey / runs, by_length / runs, runs / pixels])
