"""Stage `split`: which patient trains, validates or tests. Nobody is ever on two sides, and a test patient stays one.

The test set is chosen by a salted hash of the unit (a patient, or where patients are unknown a picture and its
near-duplicates) and then stored in splits/frozen_test.json, with those that were decided not to be in it. What is
stored are the unit's members (training/units.py), whose names no later data changes. A stored decision is never taken
again: more data adds members to either side and moves none, even when it shows that two of them belong together.
"""

import hashlib
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from service.contract.errors import CommandParser, ConfigError, run_command
from training.config import configured
from training.figures import Integers
from training.io import read_json, read_params, read_parquet, write_json, write_parquet
from training.pixels import DROPPED, PREPARED, TEST, TRAIN, VALIDATION
from training.units import main_class, members

STORED = Path("splits/frozen_test.json")
CHOSEN = PREPARED / "frozen_test.json"


@dataclass(frozen=True)
class SplitConfig:
    """Section `split` of params.yaml."""

    salt: str
    """Chooses the test patients; a change of it would choose others, so it is as frozen as they are."""
    test: float = 0.27
    """Share of each class's units that are test units: those with the lowest hashes join until there are as many."""
    validation: float = 0.15
    """Share of each class's other units that validate, by another hash."""
    min_test_patients: int = 4
    """Test units of each class at least, as far as the class has three times as many."""
    min_validation_patients: int = 2

    def __post_init__(self) -> None:
        """Refuse shares outside 0…1 and negative numbers. Raises ValueError."""
        if not isinstance(self.salt, str) or not self.salt:
            raise ValueError("salt must be a text")
        if not (0 < self.test < 1 and 0 < self.validation < 1):
            raise ValueError(
                f"test and validation are {self.test} and {self.validation}: each must lie between 0 and 1"
            )
        if self.min_test_patients < 0 or self.min_validation_patients < 0:
            raise ValueError("min_test_patients and min_validation_patients must not be negative")


@dataclass(frozen=True)
class Frozen:
    """What was decided before: test units, and units that were seen and are not in the test set; both by member."""

    salt: str
    units: frozenset[str] = frozenset()
    decided: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Sorted, so that a change shows as few lines."""
        return {"salt": self.salt, "units": sorted(self.units), "decided": sorted(self.decided)}

    @classmethod
    def from_json(cls, value: Any, name: Path) -> "Frozen":
        """Raises ConfigError for anything but such a record, and for a unit on both sides."""
        again = "restore it from version control"
        lists = [_names(value.get(key)) for key in ("units", "decided")] if isinstance(value, dict) else [None]
        if None in lists or not isinstance(value.get("salt"), str):
            raise ConfigError(f"{name} must have a salt and the lists units and decided: {again}")
        frozen = cls(value["salt"], *(frozenset(names or ()) for names in lists))
        if both := frozen.units & frozen.decided:
            raise ConfigError(f"{name} has {len(both)} units both in the test set and out of it: {again}")
        return frozen


def split(
    manifest: pd.DataFrame, labels: Iterable[str], config: SplitConfig, stored: Frozen
) -> tuple[pd.DataFrame, Frozen]:
    """Rows (path, unit, member, split) in the manifest's order, and the decisions to store, which contain the old ones.

    split is train, validation, test, or dropped for a near-duplicate of a picture that is on a more protected side. A
    unit whose members were decided differently is taken apart: each decided member is a unit by itself on its own side,
    and what is new in it is dropped. Raises ConfigError when the stored choice was made with another salt.
    """
    if stored.salt != config.salt and (stored.units or stored.decided):
        raise ConfigError(
            f"params.yaml: split.salt is {config.salt!r}, but the stored test set was chosen with {stored.salt!r}: put "
            "that back, for another test set would make test patients of patients that were trained on"
        )
    index = {name: position for position, name in enumerate(labels)}
    member = members(manifest)
    unit, new = _taken_apart(manifest["unit"].to_numpy(), member, stored)
    label = np.array([index[name] for name in manifest["label"]], dtype=np.int64)
    test, decided = (_units_of(unit, member, names) for names in (stored.units, stored.decided))
    side = _sides(unit[~new], label[~new], len(index), config, test, decided)
    table = pd.DataFrame(
        {
            "path": manifest["path"].to_numpy(),
            "unit": unit,
            "member": member,
            "split": [side.get(name, DROPPED) for name in unit],
        }
    )
    _drop_copies(table, manifest["near"].to_numpy())
    chosen = {name for name, where in side.items() if where == TEST}
    in_test = np.isin(unit, list(chosen))
    units = frozenset(member[in_test].tolist())
    return table, Frozen(
        config.salt, stored.units | units, stored.decided | set(member[~in_test & ~new].tolist()) - units
    )


def _taken_apart(
    unit: npt.NDArray[np.object_], member: npt.NDArray[np.object_], stored: Frozen
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.bool_]]:
    """Units [n], without those that hold test members and others, and which cells are such a unit's undecided ones."""
    tested, refused = (np.isin(member, list(names)) for names in (stored.units, stored.decided))
    mixed = np.isin(unit, list(set(unit[tested]) & set(unit[refused])))
    new = mixed & ~tested & ~refused
    return np.where(mixed, member, unit).astype(np.str_), new


def _units_of(unit: npt.NDArray[np.str_], member: npt.NDArray[np.object_], names: frozenset[str]) -> set[str]:
    return set(unit[np.isin(member, list(names))].tolist())


def position(salt: str, unit: str) -> bytes:
    """Where a unit stands in the order of choice: its salted SHA-256."""
    return hashlib.sha256(f"{salt}:{unit}".encode()).digest()


def _sides(
    unit: npt.NDArray[np.str_],
    label: Integers,
    classes: int,
    config: SplitConfig,
    tested: set[str],
    decided: set[str],
) -> dict[str, str]:
    stands_for = main_class(unit, label, classes)
    side: dict[str, str] = {}
    for wanted in range(classes):
        units = sorted(name for name, found in stands_for.items() if found == wanted)
        test = [name for name in units if name in tested]
        undecided = [name for name in units if name not in tested | decided]
        number = _number(
            config.test,
            len(units),
            at_least=min(config.min_test_patients, len(units) // 3),
            leave=min(config.min_validation_patients + 1, math.ceil(len(units) / 2)),
        )
        test += _lowest(undecided, config.salt, number - len(test))
        others = [name for name in units if name not in set(test)]
        number = _number(
            config.validation, len(others), at_least=min(config.min_validation_patients, len(others) // 2), leave=1
        )
        validation = _lowest(others, f"{config.salt}:validation", number)
        side |= dict.fromkeys(others, TRAIN) | dict.fromkeys(validation, VALIDATION) | dict.fromkeys(test, TEST)
    return side


def _number(share: float, of: int, *, at_least: int, leave: int) -> int:
    """How many units make `share` of them, in the bounds."""
    return min(max(round(share * of), at_least), of - leave)


def _lowest(names: list[str], salt: str, number: int) -> list[str]:
    return sorted(names, key=lambda name: position(salt, name))[: max(0, number)]


def _drop_copies(table: pd.DataFrame, near: npt.NDArray[Any]) -> None:
    """A picture of a test unit that another has too, or nearly so, is for testing only; likewise for validation."""
    for protected, others in ((TEST, (TRAIN, VALIDATION)), (VALIDATION, (TRAIN,))):
        taken = set(near[(table["split"] == protected).to_numpy()])
        copies = table["split"].isin(others).to_numpy() & np.isin(near, list(taken))
        table.loc[copies, "split"] = DROPPED


def notes(manifest: pd.DataFrame, table: pd.DataFrame, labels: Iterable[str], config: SplitConfig) -> list[str]:
    """What a reader of the figures must know about this split."""
    found = []
    if anonymous := int((manifest["patient"] == "").sum()):
        found.append(
            f"WARNING: {anonymous} of {len(manifest)} cells name no patient. They are split as "
            f"{manifest.loc[manifest['patient'] == '', 'unit'].nunique()} groups of near-duplicates or consecutive "
            "cells: cells of one person may be on both sides, and figures on them are too good"
        )
    if dropped := int((table["split"] == DROPPED).sum()):
        found.append(f"{dropped} cells dropped: near-duplicates of pictures that test or validation patients have")
    test = table["split"] == TEST
    for label in labels:
        patients = table.loc[test & (manifest["label"] == label).to_numpy(), "unit"].nunique()
        if patients < config.min_test_patients:
            found.append(
                f"WARNING: the test set has {patients} patients or pictures with {label}, fewer than "
                f"{config.min_test_patients}: figures on that class say little"
            )
    return found


def freeze(chosen: Path = CHOSEN, stored: Path = STORED) -> int:
    """Store the choice of the last run; returns how many test units are new.

    Raises ConfigError when it lacks a stored decision.
    """
    new = Frozen.from_json(read_json(chosen), chosen)
    old = Frozen.from_json(read_json(stored), stored) if stored.exists() else Frozen(new.salt)
    if not (old.units <= new.units and old.decided <= new.decided):
        raise ConfigError(f"{chosen} lacks decisions that {stored} has: run `dvc repro split` first")
    if new != old:
        write_json(stored, new.to_json())
    return len(new.units - old.units)


def _names(value: Any) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(name, str) for name in value) else None


def _stored() -> Frozen:
    if not STORED.exists():
        raise ConfigError(f"{STORED} is missing: restore it from version control, for it says who may never train")
    return Frozen.from_json(read_json(STORED), STORED)


def main(argv: list[str] | None = None) -> int:
    """Split the prepared cells by patient into prepared/split.parquet, keeping every stored decision.

    With `freeze`: store the choice of the last run in splits/frozen_test.json, which belongs under version control.
    """
    parser = CommandParser(prog="python -m training.split", description=main.__doc__)
    parser.add_argument("action", nargs="?", choices=["run", "freeze"], default="run", help="default: run")
    if parser.parse_args(argv).action == "freeze":
        print(f"{freeze()} new test units stored in {STORED}")
        return 0
    config = configured(SplitConfig, "split", read_params("split"))
    manifest, labels = read_parquet(PREPARED / "manifest.parquet"), read_json(PREPARED / "dataset.json")["labels"]
    table, decisions = split(manifest, labels, config, _stored())
    write_parquet(PREPARED / "split.parquet", table)
    write_json(CHOSEN, decisions.to_json())
    for note in notes(manifest, table, labels, config):
        print(note, file=sys.stderr if note.startswith("WARNING") else sys.stdout)
    for name, rows in table.assign(label=manifest["label"]).groupby("split", sort=True):
        counts = ", ".join(f"{label} {int((rows['label'] == label).sum())}" for label in labels)
        print(f"{name}: {len(rows)} cells of {rows['unit'].nunique()} patients or pictures ({counts})")
    return 0


if __name__ == "__main__":
    run_command(main)
