"""Repeated, stratified, grouped k-fold: who is tested when, and how two systems on the same folds are compared.

A unit (training.units: a patient, or pictures that belong together) is never divided. Within a repeat every cell is
tested once. Units are spread over the folds class by class, the largest first into the emptiest fold, so that the folds
hold about as many cells of each class; ties fall by a seeded shuffle, which is what makes repeats differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.contract.errors import ConfigError
from training import bootstrap
from training.figures import Floats, Integers, accuracy, balanced_accuracy
from training.units import main_class

Names = npt.NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold: row indices that it trains and tests on, int64, ascending."""

    repeat: int
    number: int
    train: Integers
    test: Integers


def folds(unit: Names, label: Integers, *, folds: int, repeats: int, seed: int) -> Iterator[Fold]:
    """`folds` × `repeats` folds of n cells with units [n] and labels [n]; the same for the same seed.

    Raises ConfigError for fewer than two folds, no repeat, or a class with fewer units than folds.
    """
    if folds < 2 or repeats < 1:
        raise ConfigError(f"params.yaml: evaluate asks for {folds} folds and {repeats} repeats: at least 2 and 1")
    classes = int(label.max(initial=0)) + 1
    for wanted in range(classes):
        units = len(np.unique(unit[label == wanted]))
        if 0 < units < folds:
            raise ConfigError(
                f"a class has cells of {units} patients or pictures, fewer than the {folds} folds: ask for fewer "
                "(evaluate.folds), or add data"
            )
    for repeat in range(repeats):
        place = _places(unit, label, folds, np.random.default_rng([seed, repeat]))
        for number in range(folds):
            tested = place == number
            yield Fold(repeat, number, np.flatnonzero(~tested), np.flatnonzero(tested))


def inner_validation(
    unit: Names, label: Integers, train: Integers, share: float, seed: int
) -> tuple[Integers, Integers]:
    """A fold's training rows as (train, validation), units whole and classes spread.

    Validation says when to stop and how to calibrate; the fold's test cells have no say in either.

    `share` is about what part validates: the nearest 1/k, k ≥ 2. Raises ConfigError when a class has one unit only.
    """
    parts = max(2, round(1 / share))
    units_of_rarest = min(len(np.unique(unit[train][label[train] == k])) for k in np.unique(label[train]))
    if units_of_rarest < 2:
        raise ConfigError("a class has one patient or picture among the training cells: none is left to validate with")
    place = _places(unit[train], label[train], min(parts, units_of_rarest), np.random.default_rng([seed, 1]))
    return train[place != 0], train[place == 0]


def part_of_units(unit: Names, label: Integers, train: Integers, share: float, seed: int) -> Integers:
    """About `share` of the training rows, units whole and of every class at least two; nested for falling shares."""
    stands_for = main_class(unit[train], label[train], int(label.max(initial=0)) + 1)
    order = _shuffled(sorted(stands_for), np.random.default_rng([seed, 2]))
    kept: set[str] = set()
    for wanted in sorted(set(stands_for.values())):
        members = [name for name in order if stands_for[name] == wanted]
        kept |= set(members[: max(min(2, len(members)), round(share * len(members)))])
    return train[np.isin(unit[train], sorted(kept))]


def _places(unit: Names, label: Integers, parts: int, rng: np.random.Generator) -> Integers:
    """The part [n] of each cell."""
    classes = int(label.max(initial=0)) + 1
    stands_for = main_class(unit, label, classes)
    names, row = np.unique(unit, return_inverse=True)
    held = np.zeros((len(names), classes), dtype=np.int64)
    np.add.at(held, (row, label), 1)
    of = {name: held[k] for k, name in enumerate(names.tolist())}
    filled = np.zeros((parts, classes), dtype=np.int64)
    place: dict[str, int] = {}
    for wanted in range(classes):
        members = _shuffled(sorted(name for name, found in stands_for.items() if found == wanted), rng)
        members.sort(key=lambda name: -int(of[name].sum()))  # stable: equals stay shuffled
        start = int(rng.integers(parts))
        for name in members:
            # The emptiest of this class, then of all; the first choice turns, so that no fold is always the fullest.
            best = min(range(parts), key=lambda k: (filled[k, wanted], filled[k].sum(), (k - start) % parts))
            place[name] = best
            filled[best] += of[name]
    return np.array([place[name] for name in unit.tolist()], dtype=np.int64)


def _shuffled(names: list[str], rng: np.random.Generator) -> list[str]:
    return [names[k] for k in rng.permutation(len(names)).tolist()]


@dataclass(frozen=True)
class Paired:
    """Figure of one system less that of another on the same cells, with its 95 % interval."""

    difference: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        """Whether the first is better beyond the interval."""
        return self.low > 0

    @property
    def worse(self) -> bool:
        """Whether the first is worse beyond the interval."""
        return self.high < 0


def paired_interval(
    unit: Names,
    label: Integers,
    called: Integers,
    other: Integers,
    *,
    balanced: bool = False,
    draws: int = 2000,
    seed: int = 0,
) -> Paired:
    """Accuracy (or balanced accuracy) of `called` less that of `other`, units resampled within their class.

    `called` and `other` are [repeats, n]: what each system said of every cell in each repeat; the figure is the mean
    over the repeats. Stratified cluster bootstrap, both systems in the same draws (training.bootstrap). It holds the
    folds as given: how much another split would change either system is not in the interval.
    """
    if called.shape != other.shape or called.ndim != 2:
        raise ValueError(f"expected two arrays [repeats, n], not {called.shape} and {other.shape}")
    classes = int(max(label.max(), called.max(), other.max())) + 1
    weight = bootstrap.patient_weights(unit, label, classes, draws=draws, seed=seed)
    weight = np.concatenate([np.ones((1, len(label)), dtype=np.float32), weight])  # the first is the cells as they are
    figure = balanced_accuracy if balanced else accuracy

    def mean(said: Integers) -> Floats:
        each = [figure(bootstrap.confusions(weight, label, one, classes)) for one in said]
        return np.asarray(np.mean(each, axis=0), dtype=np.float64)

    difference = mean(called) - mean(other)
    low, high = bootstrap.interval(difference[1:]) or (float("nan"), float("nan"))
    return Paired(float(difference[0]), low, high)
