"""Days of a hospital: a weekly rhythm, patients who come again, and a case mix that wanders."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.simulation.hospital import Cells, Change, Floats, Population

DAY = 86_400.0


@dataclass(frozen=True)
class Rhythm:
    """Assumptions of the simulation, all of them; numbers a person may doubt and change.

    workday, weekend  visits a day, Poisson
    cells             of a visit, on average; 3 at least, negative binomial with this many as its mean and 4 as its size
    again             further visits of a patient, Poisson, about a week apart
    wander            how far the log-shares of the kinds wander (standard deviation; a correlation time of ten weeks)
    season            yearly swing of the leukemic kinds' log-shares
    """

    workday: float = 6.0
    weekend: float = 1.5
    cells: float = 15.0
    again: float = 0.7
    wander: float = 0.12
    season: float = 0.08


@dataclass(frozen=True, eq=False)
class Visit:
    """Cells of one patient on one day; `time` in seconds from the start, `person` a number for the whole run."""

    time: float
    person: int
    cells: Cells


def visits(
    population: Population,
    rng: np.random.Generator,
    days: int,
    rhythm: Rhythm,
    *,
    change: "Changes | None" = None,
) -> Iterator[Visit]:
    """Visits of so many days in the order of time; `change` says what is different on which day."""
    known: dict[int, tuple[int, Floats]] = {}
    due: dict[int, list[int]] = {}
    mix = np.zeros(population.classes)
    persons = 0
    keep = np.exp(-1 / 70)
    for day in range(days):
        mix = keep * mix + rhythm.wander * np.sqrt(1 - keep**2) * rng.normal(size=len(mix))
        log = np.log(population.kinds) + mix
        log[1:] += rhythm.season * np.sin(2 * np.pi * day / 365)
        today, factors = (change or Changes()).on(day)
        shares = np.exp(log) * (1 if factors is None else factors)
        shares /= shares.sum()
        expected = rhythm.workday if day % 7 < 5 else rhythm.weekend
        who = due.pop(day, [])
        # Those who come again take places of the day.
        for _ in range(max(0, int(rng.poisson(expected)) - len(who))):
            kinds, effects = population.patients(rng, 1, shares)
            known[persons] = int(kinds[0]), effects
            for k in range(int(rng.poisson(rhythm.again))):
                due.setdefault(day + 7 * (k + 1) + int(rng.integers(-2, 3)), []).append(persons)
            who.append(persons)
            persons += 1
        for number, person in enumerate(who):
            kind, effects = known[person]
            count = 3 + int(rng.negative_binomial(4, 4 / (1 + rhythm.cells)))
            drawn = population.draw(rng, (np.array([kind]), effects), count, today)
            yield Visit(day * DAY + 28_800 + 30_000 * (number + 1) / (len(who) + 1), person, drawn)


class Changes:
    """Nothing changes."""

    def on(self, day: int) -> tuple[Change, Floats | None]:
        """The change of the cells on a day, and factors [C] of the kinds' shares."""
        return Change(), None
