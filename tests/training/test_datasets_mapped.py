"""The option `labels`, which every kind has: renamed, merged, left out and counted; and what is refused."""

from pathlib import Path

import pytest

from service.contract.errors import ConfigError
from service.contract.image import Field
from tests.support.layouts import all_idb2, bccd, c_nmc, class_folders, taleqani, tecom_wbc
from training.datasets import KINDS, Counted, open_dataset, open_datasets
from training.prepare import prepare

SYNTHETIC = {"kind": "synthetic", "seed": 1, "patients": {"healthy": 1, "L1": 2, "L3": 1}, "cells_per_patient": 2}


def test_labels_are_renamed_and_those_that_the_map_lacks_left_out_and_counted(tmp_path: Path) -> None:
    source = {"kind": "taleqani", "root": str(taleqani(tmp_path))}
    dataset = open_dataset({**source, "labels": {"Benign": "healthy", "Pro": "blast", "Early": "blast"}})
    assert (dataset.labels, dataset.malignant) == (("healthy", "blast"), ("blast",))
    assert isinstance(dataset, Counted)
    assert dataset.counts == {"healthy": 3, "blast": 6}
    cells = list(dataset.cells())
    assert [cell.label for cell in cells] == ["healthy"] * 3 + ["blast"] * 6
    assert not any("/Pre/" in cell.source for cell in cells)
    # Said before anything is read.
    fresh = open_dataset({**source, "labels": {"Benign": "healthy", "Pro": "blast", "Early": "blast"}})
    assert "labels: Benign → healthy; Pro, Early → blast" in fresh.notes
    assert "left out, for the map of labels lacks them: Pre (3 cells)" in fresh.notes


def test_a_set_that_cannot_count_says_how_many_were_left_out_once_read() -> None:
    dataset = open_dataset({**SYNTHETIC, "labels": {"healthy": "healthy", "L1": "blast"}})
    kept = [cell.label for cell in dataset.cells()]
    assert dataset.malignant == ("blast",)
    dropped = 8 - len(kept)
    assert dropped > 0
    assert f"left out, for the map of labels lacks them: L2 (0 cells), L3 ({dropped} cells)" in dataset.notes
    list(dataset.cells())
    assert f"L3 ({dropped} cells)" in dataset.notes[-1]


def test_the_same_names_are_no_note(tmp_path: Path) -> None:
    source = {"kind": "all_idb2", "root": str(all_idb2(tmp_path))}
    plain, mapped = open_dataset(source), open_dataset({**source, "labels": {"blast": "blast", "healthy": "healthy"}})
    assert mapped.notes == plain.notes
    assert [c.source for c in mapped.cells()] == [c.source for c in plain.cells()]
    assert (mapped.name, mapped.scale_known) == (plain.name, plain.scale_known)


def test_a_label_is_malignant_when_any_that_it_stands_for_is_and_a_mixture_is_said_loudly(tmp_path: Path) -> None:
    source = {"kind": "taleqani", "root": str(taleqani(tmp_path))}
    dataset = open_dataset({**source, "labels": {"Benign": "white", "Early": "white", "Pre": "pre"}})
    assert dataset.malignant == ("white", "pre")
    assert any(n.startswith("WARNING: white is malignant, but Benign of the set is not") for n in dataset.notes)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"Blast": "blast"}, r"taleqani: labels maps 'Blast', which the set lacks; it has Benign, Early, Pre, Pro"),
        ({}, "taleqani: labels must be a map"),
        (["Benign"], "taleqani: labels must be a map .*such as {Benign: healthy}, not"),
        ({"Benign": 0}, "labels must be a map"),
        ({"Benign": " "}, "labels must be a map"),
        (None, "labels must be a map"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused(labels: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        open_dataset({"kind": "taleqani", "root": str(taleqani(tmp_path)), "labels": labels})


def test_sets_combine(tmp_path: Path) -> None:
    """Three sets and two words: what a map is for."""
    sources: list[dict[str, object]] = [
        {"kind": "all_idb2", "root": str(all_idb2(tmp_path / "a"))},
        {"kind": "c_nmc", "root": str(c_nmc(tmp_path / "b")), "labels": {"hem": "healthy", "all": "blast"}},
        {
            "kind": "folder",
            "root": str(class_folders(tmp_path / "c")),
            "malignant": ["abnormal"],
            "labels": {"normal": "healthy", "abnormal": "blast"},
        },
    ]
    done = prepare(open_datasets(sources), ("healthy", "blast"), Field(32, 32, 8.0), tmp_path / "cells", quiet=True)
    assert done.summary["malignant"] == ["blast"]
    assert done.summary["counts_by_site"] == {
        "aiims-delhi": {"healthy": 3, "blast": 4},
        "all-idb": {"healthy": 2, "blast": 3},
        "folder": {"healthy": 2, "blast": 2},
    }


def test_every_kind_takes_a_map_and_keeps_its_order_between_runs(tmp_path: Path) -> None:
    sources: dict[str, dict[str, object]] = {
        "synthetic": SYNTHETIC,
        "all_idb2": {"root": str(all_idb2(tmp_path / "a"))},
        "taleqani": {"root": str(taleqani(tmp_path / "b"))},
        "c_nmc": {"root": str(c_nmc(tmp_path / "c"))},
        "bccd": {"root": str(bccd(tmp_path / "d")), "side": 32},
        "tecom_wbc": {"root": str(tecom_wbc(tmp_path / "e"))},
        "folder": {"root": str(class_folders(tmp_path / "f"))},
    }
    assert set(sources) == set(KINDS) - {"reviewed", "all_idb1"}
    for kind, options in sources.items():
        source = {**options, "kind": kind}
        plain = open_dataset(source)
        dataset = open_dataset({**source, "labels": dict.fromkeys(plain.labels, "cell")})
        assert dataset.labels == ("cell",)
        assert {cell.label for cell in dataset.cells()} == {"cell"}
        assert [cell.source for cell in dataset.cells()] == [cell.source for cell in plain.cells()]


def test_an_unknown_kind_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"kind is 'all_idb3', known are synthetic, .*all_idb1, all_idb2.*folder"):
        open_dataset({"kind": "all_idb3", "root": "x"})
