"""How fast synthetic cells are drawn and stored: images of 128 × 128 per second of one core.

    OMP_NUM_THREADS=1 python -m benchmarks.generator [--cells 640]

Counts processor time, so that other work on the machine does not show.
"""

import argparse
import time

from training.datasets.smear.generator import Spec
from training.datasets.smear.kinds import KIND_NAMES
from training.datasets.synthetic import SITES, draw_stored


def rate(site: str, cells: int) -> float:
    """Images per second of processor time, all kinds of cells in turn, 20 cells a patient."""
    specs = [Spec(f"benchmark-{k // 20}", k, KIND_NAMES[k % len(KIND_NAMES)]) for k in range(cells)]
    start = time.process_time()
    drawn = sum(1 for _ in draw_stored(SITES[site], 0, specs))
    return drawn / (time.process_time() - start)


def main() -> None:
    """Print the rate for each site."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generator", description=__doc__)
    parser.add_argument("--cells", type=int, default=640, help="cells to draw at each site (default: %(default)s)")
    cells = parser.parse_args().cells
    rate("site-a", 32)  # imports and caches
    for site in SITES:
        print(f"{site}: {rate(site, cells):.0f} images of 128×128 a second on one core (target: 100)")


if __name__ == "__main__":
    main()
