"""Nobody on two sides, and a decision once stored is never taken again."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from service.contract.errors import ConfigError
from tests.support.manifests import LABELS, anonymous, manifest
from training.split import Frozen, SplitConfig, freeze, main, notes, split

CONFIG = SplitConfig(salt="pepper")
NOTHING = Frozen("pepper")


def sides(table: pd.DataFrame) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for unit, side in zip(table["unit"], table["split"], strict=True):
        found.setdefault(unit, set()).add(side)
    return found


def test_each_patient_is_on_one_side_and_each_class_on_all() -> None:
    cells = manifest()
    table, frozen = split(cells, LABELS, CONFIG, NOTHING)
    assert table["path"].tolist() == cells["path"].tolist()
    assert all(len(where) == 1 for where in sides(table).values())
    patients = table.assign(diagnosis=cells["patient"].str.split("-").str[1])
    count = patients.groupby(["diagnosis", "split"])["unit"].nunique().unstack()
    for label in LABELS:
        assert count.loc[label, "test"] == 4  # the floor; 0.27 of 12 would be 3
        assert count.loc[label, "validation"] == 2
        assert count.loc[label, "train"] == 6
    assert frozen.units == {unit for unit, where in sides(table).items() if where == {"test"}}
    assert frozen.units | frozen.decided == set(cells["unit"])


def test_the_same_salt_chooses_the_same_whatever_the_order_and_another_salt_others() -> None:
    cells = manifest()
    table, frozen = split(cells, LABELS, CONFIG, NOTHING)
    shuffled = cells.sample(frac=1, random_state=3).reset_index(drop=True)
    again, frozen_again = split(shuffled, LABELS, CONFIG, NOTHING)
    assert sides(again) == sides(table)
    assert frozen_again == frozen
    _, other = split(cells, LABELS, SplitConfig(salt="salt"), Frozen("salt"))
    assert other.units != frozen.units


def test_a_stored_choice_gives_the_same_split_as_none_on_the_same_data() -> None:
    table, frozen = split(manifest(), LABELS, CONFIG, NOTHING)
    again, unchanged = split(manifest(), LABELS, CONFIG, frozen)
    assert again.equals(table)
    assert unchanged == frozen


def test_more_data_moves_nobody_and_adds_to_both_sides() -> None:
    first = manifest()
    _, frozen = split(first, LABELS, CONFIG, NOTHING)
    more = pd.concat([first, manifest(8, site="site-b", prefix="q")], ignore_index=True)
    table, grown = split(more, LABELS, CONFIG, frozen)
    where = sides(table)
    assert all(where[unit] == {"test"} for unit in frozen.units)
    assert all(where[unit] != {"test"} for unit in frozen.decided)
    assert grown.units > frozen.units and grown.decided > frozen.decided
    new = {unit for unit in where if unit.startswith("q")}
    assert {frozenset(where[unit]) for unit in new} >= {frozenset({"test"}), frozenset({"train"})}


def test_without_the_stored_choice_more_data_would_move_test_patients() -> None:
    """Why it is stored: the choice by hash alone changes with the data."""
    first = manifest()
    _, frozen = split(first, LABELS, CONFIG, NOTHING)
    more = pd.concat([first, manifest(30, prefix="q")], ignore_index=True)
    table, _ = split(more, LABELS, CONFIG, NOTHING)
    assert any(sides(table)[unit] != {"test"} for unit in frozen.units)


def test_test_patients_that_are_no_longer_in_the_data_stay_stored() -> None:
    _, frozen = split(manifest(), LABELS, CONFIG, NOTHING)
    gone = sorted(frozen.units)[0]
    without = manifest()
    without = without[without["unit"] != gone].reset_index(drop=True)
    _, kept = split(without, LABELS, CONFIG, frozen)
    assert gone in kept.units


def test_another_salt_than_the_stored_one_is_refused() -> None:
    _, frozen = split(manifest(), LABELS, CONFIG, NOTHING)
    with pytest.raises(ConfigError, match=r"split\.salt"):
        split(manifest(), LABELS, SplitConfig(salt="other"), frozen)
    # An empty record has decided nothing, so it forbids nothing.
    split(manifest(), LABELS, SplitConfig(salt="other"), NOTHING)


def test_a_near_duplicate_of_a_test_picture_is_dropped_from_training() -> None:
    cells = manifest()
    table, _ = split(cells, LABELS, CONFIG, NOTHING)
    position = {side: np.flatnonzero(table["split"] == side) for side in ("train", "validation", "test")}
    copied = cells.copy()
    for target, source in (
        (position["train"][0], position["test"][0]),
        (position["train"][5], position["validation"][0]),
    ):
        copied.loc[target, "near"] = cells.loc[source, "near"]
    copied.loc[position["validation"][3], "near"] = cells.loc[position["test"][1], "near"]
    found, _ = split(copied, LABELS, CONFIG, NOTHING)
    dropped = [position["train"][0], position["train"][5], position["validation"][3]]
    assert (found.loc[dropped, "split"] == "dropped").all()
    assert (found["split"] == "dropped").sum() == 3
    assert any("3 cells dropped" in note for note in notes(copied, found, LABELS, CONFIG))


def joined(cells: pd.DataFrame, *patients: str) -> pd.DataFrame:
    """As `prepare` finds these patients to be one unit, by a picture that they share."""
    found = cells.copy()
    rows = found["patient"].isin(patients)
    found.loc[rows, "unit"] = min(patients)
    for patient in patients:
        found.loc[found.index[found["patient"] == patient][0], "near"] = "shared"
    return found


def test_patients_that_are_one_unit_are_on_one_side_and_stored_by_their_own_names() -> None:
    cells = joined(manifest(), "p-L1-00", "p-L1-01", "p-L2-05")
    for salt in ("pepper", "salt", "thyme", "sage", "dill", "mint"):
        table, frozen = split(cells, LABELS, SplitConfig(salt=salt), Frozen(salt))
        (side,) = set(table.loc[cells["unit"] == "p-L1-00", "split"])
        if side == "test":
            assert {"p-L1-00", "p-L1-01", "p-L2-05"} <= frozen.units
            break
    else:
        pytest.fail("no salt puts them in the test set")
    assert frozen.units | frozen.decided == set(cells["patient"])
    # When the shared picture leaves the data, each is still a test patient.
    again, kept = split(manifest(), LABELS, SplitConfig(salt=salt), frozen)
    assert set(again.loc[manifest()["patient"].isin(["p-L1-01", "p-L2-05"]), "split"]) == {"test"}
    assert kept == frozen


def test_who_turns_out_to_belong_together_after_the_choice_stays_where_they_are() -> None:
    """A test patient and one that was trained on share a picture: it tests, its twin is dropped, nobody moves."""
    cells = manifest()
    table, frozen = split(cells, LABELS, CONFIG, NOTHING)
    tested, trained = (sorted(set(table.loc[table["split"] == side, "unit"]))[0] for side in ("test", "train"))
    newcomer = manifest(1, prefix="new")
    merged = joined(pd.concat([cells, newcomer], ignore_index=True), tested, trained, "new-L1-00")
    found, kept = split(merged, LABELS, CONFIG, frozen)
    of = {name: found[(merged["patient"] == name).to_numpy()] for name in (tested, trained, "new-L1-00")}
    assert set(of[tested]["split"]) == {"test"}
    assert of[trained]["split"].tolist()[0] == "dropped"
    assert set(of[trained]["split"].tolist()[1:]) <= {"train", "validation"}
    assert set(of["new-L1-00"]["split"]) == {"dropped"}  # it cannot be on either side of both
    assert set(of[tested]["unit"]) == {tested} and set(of[trained]["unit"]) == {trained}
    assert frozen.units <= kept.units and frozen.decided <= kept.decided
    assert "new-L1-00" not in kept.units | kept.decided


def test_a_new_near_duplicate_of_a_test_picture_tests_and_of_a_training_picture_trains() -> None:
    cells = anonymous()
    table, frozen = split(cells, LABELS, CONFIG, NOTHING)
    extra = anonymous(41).groupby("label", sort=False).tail(1).reset_index(drop=True)
    for side, number in (("test", 0), ("train", 1)):
        twin = cells[(table["split"] == side).to_numpy() & (cells["label"] == extra["label"][number]).to_numpy()].iloc[
            0
        ]
        for column in ("near", "unit"):
            extra.loc[number, column] = min(twin[column], extra.loc[number, column])
            cells.loc[cells["path"] == twin["path"], column] = extra.loc[number, column]
    found, kept = split(pd.concat([cells, extra], ignore_index=True), LABELS, CONFIG, frozen)
    assert found["split"].tolist()[len(cells)] == "test"
    assert found["split"].tolist()[len(cells) + 1] in ("train", "validation")
    assert extra["group"][0] in kept.units and extra["group"][1] in kept.decided


def test_pictures_without_patients_are_units_and_it_is_said_loudly() -> None:
    cells = anonymous()
    table, _ = split(cells, LABELS, CONFIG, NOTHING)
    assert table["unit"].nunique() == len(cells)
    assert round((table["split"] == "test").mean(), 2) == 0.28
    assert any(
        note.startswith("WARNING: 160 of 160 cells name no patient") for note in notes(cells, table, LABELS, CONFIG)
    )


def test_few_patients_still_leave_some_to_train_on_and_the_lack_is_said() -> None:
    cells = manifest(patients=3)
    table, _ = split(cells, LABELS, CONFIG, NOTHING)
    assert set(table["split"]) == {"train", "validation", "test"}
    assert any(
        "the test set has 1 patients or pictures with L1" in note for note in notes(cells, table, LABELS, CONFIG)
    )


def test_freeze_stores_the_choice_and_never_loses_one(tmp_path: Path) -> None:
    chosen, stored = tmp_path / "chosen.json", tmp_path / "stored.json"
    _, frozen = split(manifest(), LABELS, CONFIG, NOTHING)
    chosen.write_text(json.dumps(frozen.to_json()))
    stored.write_text(json.dumps(NOTHING.to_json()))
    assert freeze(chosen, stored) == len(frozen.units)
    assert Frozen.from_json(json.loads(stored.read_text()), stored) == frozen
    assert freeze(chosen, stored) == 0
    chosen.write_text(json.dumps(NOTHING.to_json()))
    with pytest.raises(ConfigError, match="lacks decisions"):
        freeze(chosen, stored)
    assert Frozen.from_json(json.loads(stored.read_text()), stored) == frozen


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"salt": "s"},
        {"salt": 1, "units": [], "decided": []},
        {"salt": "s", "units": [1], "decided": []},
        {"salt": "s", "units": ["a"], "decided": ["a"]},
    ],
)
def test_a_damaged_record_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"frozen\.json"):
        Frozen.from_json(value, Path("frozen.json"))


def test_a_missing_record_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("split: {salt: pepper}")
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared/dataset.json").write_text(json.dumps({"labels": LABELS}))
    manifest().to_parquet("prepared/manifest.parquet")
    with pytest.raises(ConfigError, match="restore it from version control"):
        main([])


@pytest.mark.parametrize(
    ("name", "value"), [("test", 0.0), ("validation", 1.0), ("salt", ""), ("min_test_patients", -1)]
)
def test_impossible_settings_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        SplitConfig(**{"salt": "pepper", name: value})  # type: ignore[arg-type]
