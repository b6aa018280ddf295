"""What decoding JPEGs at a fraction of their size saves and changes: `python -m benchmarks.reduced_decode`.

The artifact answers each picture twice, from pixels decoded whole and from pixels decoded reduced: time of
`load_field` on one thread, labels and referrals that change, and the largest change of a probability. Generated cells
as JPEG in three sizes; --images adds the pictures of a folder, encoded as JPEG where they are not. Writes
benchmarks/results/reduced_decode.md.
"""

import argparse
import io
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.peer_processes import ROOT
from service.contract.artifact import read_artifact
from service.contract.decision import decide
from service.contract.files import write_atomic
from service.contract.image import load_field
from service.contract.predictor import Predictor
from training.datasets.smear.generator import Spec
from training.datasets.smear.kinds import KIND_NAMES
from training.datasets.synthetic import SITES, draw_stored

RESULT = ROOT / "benchmarks" / "results" / "reduced_decode.md"
SIDES = (256, 400, 1024)
CELLS = 200
QUALITY = 90
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


def generated(side: int, seed: int = 0) -> Iterator[bytes]:
    """Cells of a patient each few, as a camera's crop of that many pixels a side."""
    specs = [Spec(f"benchmark-{k // 8}", k, KIND_NAMES[k % len(KIND_NAMES)]) for k in range(CELLS)]
    for cell in draw_stored(SITES["site-a"], seed, specs):
        with Image.open(io.BytesIO(cell.image)) as picture:
            yield _jpeg(picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def found(folder: Path) -> Iterator[bytes]:
    """The pictures below a folder: JPEGs as they are, others encoded."""
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        data = path.read_bytes()
        if data.startswith(b"\xff\xd8"):
            yield data
        else:
            with Image.open(io.BytesIO(data)) as picture:
                yield _jpeg(picture.convert("RGB"))


def compare(name: str, images: list[bytes], predictor: Predictor, pixel_size_um: float) -> str:
    """A line of the table."""
    whole = replace(predictor.manifest.field, reduced=False)
    reduced = replace(whole, reduced=True)
    times: dict[bool, list[float]] = {False: [], True: []}
    answers = []
    for image in images:
        rows = []
        for field in (whole, reduced, whole, reduced):  # the second time round the picture is in the cache for both
            began = time.perf_counter()
            pixels = load_field(image, field, pixel_size_um)
            times[field.reduced].append(time.perf_counter() - began)
            rows.append(pixels)
        outputs = predictor.predict(np.stack(rows[:2]))
        decisions = [
            decide(predictor.manifest, outputs.probabilities[k], float(outputs.ood_score[k]), pixel_size_um > 0)
            for k in range(2)
        ]
        answers.append((decisions, float(np.abs(outputs.probabilities[0] - outputs.probabilities[1]).max())))
    labels = sum(one.label != other.label for (one, other), _ in answers)
    referrals = sum(one.refer != other.refer for (one, other), _ in answers)
    both = sum(one.label != other.label and not (one.refer or other.refer) for (one, other), _ in answers)
    changes = [change for _, change in answers]
    cost = [1e6 * statistics.median(times[key]) for key in (False, True)]
    return (
        f"| {name} | {len(images)} | {cost[0]:.0f} | {cost[1]:.0f} | {labels} | {both} | {referrals} | "
        f"{statistics.median(changes):.4f} | {max(changes):.3f} |"
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, write, say; 2 without an artifact."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reduced_decode",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--artifact", type=Path, default=ROOT / "build" / "artifact", help="default: build/artifact")
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures of one cell each, of unknown scale")
    arguments = parser.parse_args(argv)
    if not (arguments.artifact / "serve").is_dir():
        print(f"error: no artifact in {arguments.artifact}: run `dvc repro`, or give --artifact", file=sys.stderr)
        return 2
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    predictor = Predictor(read_artifact(arguments.artifact))
    field = predictor.manifest.field
    lines = [
        "# JPEGs decoded at a fraction of their size\n",
        f"`python -m benchmarks.reduced_decode`, {datetime.now(UTC):%Y-%m-%d}, one core, model {predictor.version}, "
        f"field {field.width}×{field.height}, JPEG of quality {QUALITY} where it was encoded here. Median times of "
        "`load_field`.\n",
        "| pictures | n | whole, µs | reduced, µs | other label | of these answered both times | other referral "
        "| change of p, median | largest |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for side in SIDES:
        images = list(generated(side))
        lines.append(compare(f"generated, {side}×{side}", images, predictor, field.field_um / side))
    if arguments.images is not None:
        images = list(found(arguments.images))
        lines.append(compare(arguments.images.name, images, predictor, 0.0))
    text = "\n".join(lines) + "\n"
    write_atomic(RESULT, text)
    print(text)
    return 0


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
