"""What may happen to a hospital, small, medium and large.

Covariate changes are measured in patient-level standard deviations: 0.75, 1.5, 3. What each costs in balanced accuracy
is in the result's table; the sizes of a changed concept are chosen by it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.simulation.hospital import Change, Floats, Population
from benchmarks.simulation.traffic import Changes
from service.contract.statistics import STATISTICS

SIZES = ("small", "medium", "large")
LENGTH = dict(zip(SIZES, (0.75, 1.5, 3.0), strict=True))
RAMP_DAYS = 60


@dataclass
class Onset(Changes):
    """A change that begins on day `start`, at once or over `ramp` days."""

    start: int
    change: Change
    factors: Floats | None = None
    ramp: int = 0

    def on(self, day: int) -> tuple[Change, Floats | None]:
        """See Changes."""
        if day < self.start:
            return Change(), None
        part = 1.0 if not self.ramp else min(1.0, (day - self.start + 1) / self.ramp)
        return replace(self.change, shift=np.asarray(self.change.shift) * part), self.factors


Make = Callable[[Population, np.random.Generator, str, int], Onset]


def new_stain(population: Population, rng: np.random.Generator, size: str, start: int) -> Onset:
    """Another stain: embedding, hue and saturation."""
    return Onset(start, Change(shift=LENGTH[size] * population.unit(rng, statistics=("hue", "saturation"))))


def new_scanner(population: Population, rng: np.random.Generator, size: str, start: int) -> Onset:
    """Another scanner: embedding, brightness, contrast and sharpness."""
    seen = ("brightness", "contrast", "sharpness")
    return Onset(start, Change(shift=LENGTH[size] * population.unit(rng, statistics=seen)))


def embedding_only(population: Population, rng: np.random.Generator, size: str, start: int) -> Onset:
    """A change that no image statistic shows: the hardest for the monitor."""
    return Onset(start, Change(shift=LENGTH[size] * population.unit(rng)))


def blur(population: Population, rng: np.random.Generator, size: str, start: int) -> Onset:
    """Out of focus: less sharpness, a moved embedding, and cells that look more alike."""
    change = population.unit(rng, statistics=("sharpness",))
    at = population.size + STATISTICS.index("sharpness")
    change[at] = -abs(change[at])
    return Onset(start, Change(shift=LENGTH[size] * change, noise=1 - 0.1 * LENGTH[size]))


def slow_drift(population: Population, rng: np.random.Generator, size: str, start: int) -> Onset:
    """A stain that fades over 60 days."""
    found = new_stain(population, rng, size, start)
    found.ramp = RAMP_DAYS
    return found


def prior_shift(population: Population, rng: np.random.Generator, size: str, start: int) -> Onset:
    """One leukemic kind comes 1.5, 3 or 6 times as often; the cells of each kind stay what they were."""
    factors = np.ones(population.classes)
    factors[int(rng.integers(1, 3))] = dict(zip(SIZES, (1.5, 3.0, 6.0), strict=True))[size]
    return Onset(start, Change(), factors)


def new_subtype(population: Population, rng: np.random.Generator, size: str, start: int) -> Onset:
    """5, 15 or 40 % of the patients have cells that no training patient had, 5 standard deviations from a known
    kind's: the kinds themselves lie 14 or more from each other.
    """
    share = dict(zip(SIZES, (0.05, 0.15, 0.4), strict=True))[size]
    return Onset(start, Change(share=share, place=5.0 * population.unit(rng), of=2))


def concept(population: Population, rng: np.random.Generator, size: str, start: int) -> Onset:
    """The readers call a part of one kind by another name: only reviews show it."""
    share = dict(zip(SIZES, (0.04, 0.14, 0.5), strict=True))[size]
    return Onset(start, Change(of=1, confuse=share))


EVERY_READ = "concept change, every cell read"
SHIFTS: dict[str, Make] = {
    "new stain": new_stain,
    "new scanner": new_scanner,
    "embedding only": embedding_only,
    "blur": blur,
    "slow drift, 60 days": slow_drift,
    "new subtype": new_subtype,
    "concept change": concept,
    EVERY_READ: concept,
    "class prior × 1.5, 3, 6": prior_shift,
}
