"""Does the network look at the cell? Integrated gradients, and how much of them lies inside the cells' masks.

`python -m training.attribution` asks the network of the stage `train` about the test cells whose set comes with masks
(training.datasets.masks) and writes reports/attribution.json and a picture for people. It is no stage of the default
pipeline, whose generated cells have no masks. Sundararajan et al., "Axiomatic attribution for deep networks", arXiv
1703.01365, section 3.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.contract.errors import CommandParser, run_command
from service.contract.image import Field, Pixels
from training.datasets.masks import NUCLEUS, REST, mask_of
from training.figures import Floats, Integers
from training.io import read_json, read_params, read_parquet, write_json
from training.pixels import PREPARED, TEST, cells

REPORT = Path("reports/attribution.json")
PICTURE = Path("reports/attribution.png")
STEPS = 64
SHOWN = 6

Mask = npt.NDArray[np.uint8]


def integrated_gradients(network: Callable[..., Any], images: Pixels, target: Integers, steps: int = STEPS) -> Floats:
    """How much each pixel speaks for the logit of `target` [n]: [n, H, W] of uint8 [n, H, W, 3], channels added up.

    Along the straight line of stain densities from an empty field to the picture; the baseline is the picture's own
    glass, its least dense 5 %, so that "nothing there" is not black.
    """
    import torch

    from training.models.stain import optical_density

    found = []
    for image, wanted in zip(images, target.tolist(), strict=True):
        density = optical_density(torch.from_numpy(image[None].copy()))  # (1, 3, H, W)
        glass = torch.quantile(density.flatten(2), 0.05, dim=2)[..., None, None]
        # The middle of each step. Contrast is standardised, so nearly all that happens happens close to the empty
        # field: the steps are short there (share = u³, so that d share = 3u² du).
        middle = ((torch.arange(steps) + 0.5) / steps).reshape(-1, 1, 1, 1)
        share, weight = middle**3, 3 * middle**2
        path = (glass + share * (density - glass)).requires_grad_()
        logits, _ = network(path)
        (slope,) = torch.autograd.grad(logits[:, wanted].sum(), path)
        found.append(((density - glass)[0] * (weight * slope).mean(dim=0)).sum(dim=0).numpy())
    return np.stack(found).astype(np.float64)


def inside(attribution: Floats, masks: Sequence[Mask]) -> dict[str, Floats]:
    """Of n cells' attribution [n, H, W] and masks [H, W]: shares of what speaks for the label, and of the area; [n].

    `cell` and `nucleus` are shares of the positive attribution; `cell_area` and `nucleus_area` are what a network that
    looks everywhere alike would have.
    """
    shares: dict[str, list[float]] = {"cell": [], "cell_area": [], "nucleus": [], "nucleus_area": []}
    for values, mask in zip(attribution, masks, strict=True):
        positive = np.maximum(values, 0.0)
        total = float(positive.sum())
        for name, region in (("cell", mask != REST), ("nucleus", mask == NUCLEUS)):
            shares[name].append(float(positive[region].sum()) / total if total > 0 else float("nan"))
            shares[f"{name}_area"].append(float(region.mean()))
    return {name: np.array(values) for name, values in shares.items()}


def report(found: dict[str, Floats], unit: npt.NDArray[np.str_], *, draws: int = 1000, seed: int = 0) -> dict[str, Any]:
    """reports/attribution.json from the shares of n cells: means, and intervals by resampling units [n]."""
    there = np.isfinite(found["cell"])
    names, row = np.unique(unit[there], return_inverse=True)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)[:, row].astype(np.float64)

    def mean(values: Floats) -> dict[str, Any]:
        drawn = (times @ values[there]) / times.sum(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return {
            "value": round(float(values[there].mean()), 6),
            "interval": [round(float(low), 6), round(float(high), 6)],
        }

    return {
        "state": "measured",
        "cells": int(there.sum()),
        "without_positive_attribution": int((~there).sum()),
        **{name: mean(values) for name, values in found.items()},
        "cell_over_area": mean(found["cell"] / np.maximum(found["cell_area"], 1e-9)),
        "method": f"integrated gradients, {STEPS} steps from the picture's glass (arXiv 1703.01365)",
    }


def draw(path: Path, images: Pixels, attribution: Floats, masks: Sequence[Mask]) -> None:
    """Pictures with what speaks for the label laid over them, the cell's mask outlined."""
    import io

    from matplotlib.figure import Figure

    from service.contract.files import write_atomic

    figure = Figure(figsize=(2 * len(images), 2.3), dpi=120, layout="constrained")
    for k, (image, values, mask) in enumerate(zip(images, attribution, masks, strict=True)):
        axes = figure.add_subplot(1, len(images), k + 1)
        axes.imshow(image)
        positive = np.maximum(values, 0)
        brightest = max(float(np.quantile(positive, 0.995)), 1e-12)
        axes.imshow(positive / brightest, cmap="inferno", alpha=0.55, vmin=0, vmax=1)
        axes.contour(mask != REST, levels=[0.5], colors="white", linewidths=1)
        axes.set_axis_off()
    figure.suptitle("What speaks for the answered label (bright); white: the cell's mask")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def main(argv: list[str] | None = None) -> int:
    """Measure the attribution of the trained network on the test cells that have masks."""
    CommandParser(prog="python -m training.attribution", description=main.__doc__).parse_args(argv)
    from training.models import inference

    sources, field = read_params("data", "sources"), Field(**read_params("field"))
    labels = tuple(read_json(PREPARED / "dataset.json")["labels"])
    test = cells(read_parquet(PREPARED / "manifest.parquet"), read_parquet(PREPARED / "split.parquet"), labels).only(
        TEST
    )
    names, scales = test.column("source").tolist(), test.table["pixel_size_um"].tolist()
    masks = [
        next((mask for config in sources if (mask := mask_of(config, name, field, scale)) is not None), None)
        for name, scale in zip(names, scales, strict=True)
    ]
    known = [(k, mask) for k, mask in enumerate(masks) if mask is not None]
    if not known:
        write_json(REPORT, {"state": "not applicable", "reason": "no test cell's set comes with masks"})
        print("not applicable: no test cell's set comes with masks")
        return 0
    index, kept = [k for k, _ in known], [mask for _, mask in known]
    images, network = test.load()[index], inference.load()
    called = inference.outputs(network, images).logits.argmax(axis=1).astype(np.int64)
    attribution = integrated_gradients(network, images, called)
    found = report(inside(attribution, kept), test.column("unit")[index])
    write_json(REPORT, found)
    draw(PICTURE, images[:SHOWN], attribution[:SHOWN], kept[:SHOWN])
    print(
        f"{found['cell']['value']:.1%} of the attribution lies in the cell, which is {found['cell_area']['value']:.1%}"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
