"""What can be had without looking at the cell: forests on a few numbers, to hold the network against.

A network that does no better than six colour numbers may be reading the stain; one that does no better than two areas
may be measuring size alone; one that does no better than the source's size, its file's bytes or the picture's border
may be reading how the set was put together.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy import ndimage

from service.contract.image import Pixels
from training.figures import Floats, Integers

LEVELS = 64
PLACES = 16  # a side, of the small picture whose outermost places are the border


def colour_features(images: Pixels) -> Floats:
    """Mean and standard deviation of red, green and blue, float64 [n, 6] of uint8 [n, H, W, 3]."""
    channels = (image.reshape(-1, 3).astype(np.float32) for image in images)  # one at a time: a copy of all is large
    return np.array([np.concatenate([image.mean(axis=0), image.std(axis=0)]) for image in channels], dtype=np.float64)


def size_features(images: Pixels) -> Floats:
    """Areas of the stained cell in the middle and of its nucleus, as shares of the field; float64 [n, 2].

    Blue and purple take away red light and red cells hardly do, so both are thresholds on red: Otsu's for the
    nucleus, and halfway between that and the background for the cell.
    """
    # Every other pixel is plenty for an area.
    return np.array([_areas(image[::2, ::2, 0]) for image in images], dtype=np.float64).reshape(-1, 2)


def border_features(images: Pixels) -> Floats:
    """The outermost places of each picture shrunk to 16 × 16, float64 [n, 180] of uint8 [n, H, W, 3]: no cell in it."""
    small = np.stack([_shrunk(image) for image in images]).astype(np.float64)  # (n, 16, 16, 3)
    at = np.arange(PLACES)
    edge = (at == 0) | (at == PLACES - 1)
    return small[:, edge[:, None] | edge[None]].reshape(len(images), -1)


def source_size_features(table: pd.DataFrame) -> Floats | None:
    """Width, height and aspect of the source's picture, float64 [n, 3]; None where the manifest does not know them."""
    if not {"width", "height"} <= set(table.columns):
        return None
    width, height = (table[name].to_numpy(dtype=np.float64) for name in ("width", "height"))
    return np.stack([width, height, width / np.maximum(height, 1)], axis=1)


def file_size_features(table: pd.DataFrame) -> Floats | None:
    """Bytes of the source's file, float64 [n, 1]; None where the manifest does not know them."""
    if "file_bytes" not in table.columns:
        return None
    return table[["file_bytes"]].to_numpy(dtype=np.float64)


def forest_predictions(
    features: Floats, label: Integers, test_features: Floats, *, trees: int, seed: int
) -> npt.NDArray[np.int64]:
    """Labels [m] of test features [m, d] by a class-weighted forest trained on features [n, d] and label [n]."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(trees, min_samples_leaf=2, class_weight="balanced_subsample", random_state=seed)
    forest.fit(features, label)
    return np.asarray(forest.predict(test_features), dtype=np.int64)


def _shrunk(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((PLACES, PLACES), Image.Resampling.BOX), dtype=np.uint8)


def _areas(red: npt.NDArray[np.uint8]) -> tuple[float, float]:
    density = -np.log((red.astype(np.float64) + 1) / 256)
    dense = _otsu(density)
    background = float(np.quantile(density, 0.1))
    return _central_area(density > (dense + background) / 2), _central_area(density > dense)


def _otsu(values: Floats) -> float:
    """The threshold that parts two groups best (Otsu, IEEE Trans. SMC 9 (1979) 62–66)."""
    count, edges = np.histogram(values, bins=LEVELS)
    middle = (edges[:-1] + edges[1:]) / 2
    below, sum_below = np.cumsum(count), np.cumsum(count * middle)
    above, sum_above = below[-1] - below, sum_below[-1] - sum_below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sum_below / below - sum_above / above) ** 2
    return float(edges[1 + int(np.nanargmax(np.where(np.isfinite(between), between, -1.0)))])


def _central_area(mask: npt.NDArray[np.bool_]) -> float:
    """Share of the field that the part nearest to the middle covers, holes filled; 0 where there is none."""
    parts, number = ndimage.label(mask)
    if number == 0:
        return 0.0
    middle = [(side - 1) / 2 for side in mask.shape]
    row, column = np.nonzero(mask)
    nearest = np.hypot(row - middle[0], column - middle[1]).argmin()
    chosen = parts == parts[row[nearest], column[nearest]]
    return float(ndimage.binary_fill_holes(chosen).mean())
