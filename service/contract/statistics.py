"""Five plain numbers of a picture: what a person would name when a scanner or a stain changes.

They go into every record, into the data set's manifest and into the artifact's reference, from this one function.
"""

import math

import numpy as np
import numpy.typing as npt

from service.contract.image import Pixels

STATISTICS = ("brightness", "contrast", "sharpness", "hue", "saturation")

Floats = npt.NDArray[np.float32]

STAINED_SATURATION = 0.15
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_EPSILON = 1e-4


def statistics(pixels: Pixels) -> dict[str, float]:
    """uint8 [H, W, 3] RGB → {name: value}, in the order of STATISTICS; every value is finite.

    brightness  mean luma, 0…1
    contrast    standard deviation of luma, 0…0.5
    sharpness   variance of luma's Laplacian over the variance of luma: what blur lowers and contrast does not change
    hue         circular mean over the stained area, weighted by chroma, in turns from red: −0.5…0.5, purple about −0.2.
                The cut lies at cyan, where no stain is, so that pinks on both sides of red stay neighbours
    saturation  mean over the stained area, 0…1
    Stained is what has a saturation above 0.15; without any, hue and saturation are 0.
    """
    # One plane a channel: numpy is several times faster along long axes than along an axis of three.
    red, green, blue = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
    luma: Floats = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    variance = float(luma.var())
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    saturation = (highest - lowest) / np.maximum(highest, np.float32(_EPSILON))
    stained = (saturation > STAINED_SATURATION).astype(np.float32)
    area = float(stained.sum())
    hue, mean_saturation = 0.0, 0.0
    if area:
        r, g, b = (float(np.vdot(plane, stained)) / area for plane in (red, green, blue))
        hue = math.atan2(math.sqrt(3) / 2 * (g - b), r - (g + b) / 2) / math.tau
        mean_saturation = float(np.vdot(saturation, stained)) / area
    return {
        "brightness": float(luma.mean()),
        "contrast": math.sqrt(variance),
        "sharpness": _laplacian_variance(luma) / (variance + _EPSILON),
        "hue": hue,
        "saturation": mean_saturation,
    }


def statistics_array(pixels: Pixels) -> Floats:
    """The same as float32 [5], in the order of STATISTICS."""
    values = statistics(pixels)
    return np.array([values[name] for name in STATISTICS], dtype=np.float32)


def _laplacian_variance(luma: Floats) -> float:
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - np.float32(4) * luma[1:-1, 1:-1]
    return float(laplacian.var())
