"""One command points the pipeline at a set: params.yaml changes where it must, and not for a set that is wrong."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from service.contract.errors import ConfigError
from tests.support.layouts import all_idb1, all_idb2, bccd, c_nmc, class_folders, taleqani, tecom_wbc
from tests.support.realdata import data_folder
from training import configure as command
from training.configure import configure, replaced, source_of
from training.datasets import KINDS, DatasetError, open_datasets
from training.recommended import COMMON, RECOMMENDED

REPO = Path(__file__).parents[2]
PARAMS = (REPO / "params.yaml").read_text()
BUILD: dict[str, Callable[[Path], Path]] = {
    "all_idb1": all_idb1,
    "all_idb2": all_idb2,
    "taleqani": taleqani,
    "c_nmc": c_nmc,
    "bccd": bccd,
    "tecom_wbc": tecom_wbc,
    "folder": class_folders,
}
LABELS = {
    "all_idb1": ["healthy", "blast"],
    "all_idb2": ["healthy", "blast"],
    "taleqani": ["Benign", "Early", "Pre", "Pro"],
    "c_nmc": ["healthy", "blast"],
    "bccd": ["WBC", "RBC", "Platelets"],
    "tecom_wbc": ["neutrophil", "lymphocyte", "monocyte"],
    "folder": ["abnormal", "normal"],
}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """params.yaml of the repository in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    return tmp_path / "params.yaml"


def section(path: Path, *names: str) -> object:
    value = yaml.safe_load(path.read_text())
    for name in names:
        value = value[name]
    return value


def comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.lstrip().startswith("#")]


def test_every_kind_of_files_can_be_configured() -> None:
    assert set(RECOMMENDED) == set(KINDS) - {"synthetic", "reviewed"}
    settings = set(COMMON).union(*(known.settings for known in RECOMMENDED.values()))
    for name in settings:
        value = yaml.safe_load(PARAMS)
        for part in name.split("."):
            assert part in value, f"params.yaml lacks {name}"
            value = value[part]


@pytest.mark.parametrize("kind", BUILD)
def test_the_pipeline_can_open_what_was_written(kind: str, params: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BUILD[kind](params.parent / "data/set")
    assert command.main([kind, "--root", "data/set"]) == 0
    labels, sources = section(params, "data", "labels"), section(params, "data", "sources")
    assert labels == LABELS[kind]
    assert isinstance(sources, list)
    (dataset,) = open_datasets(sources)
    assert set(dataset.labels) == set(LABELS[kind])
    said = capsys.readouterr().out
    assert "dvc repro training/dvc.yaml:cross_validate" in said
    assert "the gate refuses labels" in said
    assert "outside data/" not in said
    for name, value in {**COMMON, **RECOMMENDED[kind].settings}.items():
        assert section(params, *name.split(".")) == value, name


def test_comments_and_every_other_line_stay(params: Path) -> None:
    all_idb2(params.parent / "data/set")
    command.main(["all_idb2", "--root", "data/set"])
    text = params.read_text()
    # The one comment inside the source that is no longer there goes with it.
    gone = set(comments(PARAMS)) - set(comments(text))
    assert gone == {"      # Children's shares of L1, L2 and L3 among blasts: 70, 27 and 3 % of the cells."}
    before, after = yaml.safe_load(PARAMS), yaml.safe_load(text)
    assert after["data"]["sources"] == [{"kind": "all_idb2", "root": "data/set"}]
    assert (after["field"]["crop"], before["field"]["crop"]) == (0.74, 1.0)
    for whole in (before, after):
        del whole["data"]
    for name in RECOMMENDED["all_idb2"].settings:
        *path, last = name.split(".")
        new, old = after, before
        for part in path:
            new, old = new[part], old[part]
        assert new[last] != old[last], name
        new[last] = old[last]
    assert before == after


def test_one_set_after_another_leaves_nothing_behind(params: Path) -> None:
    for kind in BUILD:
        BUILD[kind](params.parent / "data" / kind)
    command.main(["tecom_wbc", "--root", "data/tecom_wbc"])
    directly = params.read_text()
    for kind in ("all_idb1", "c_nmc", "taleqani", "tecom_wbc"):
        command.main([kind, "--root", f"data/{kind}"])
    assert params.read_text() == directly


def test_the_same_again_changes_nothing_and_says_so(params: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tecom_wbc(params.parent / "data/set")
    command.main(["tecom_wbc", "--root", "data/set"])
    first = params.read_text()
    assert "says all this already" not in capsys.readouterr().out
    command.main(["tecom_wbc", "--root", "data/set"])
    assert params.read_text() == first
    assert "params.yaml says all this already" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["all_idb1", "all_idb2", "taleqani", "c_nmc"])
def test_binary(kind: str, params: Path) -> None:
    BUILD[kind](params.parent / "data/set")
    command.main([kind, "--root", "data/set", "--binary"])
    assert section(params, "data", "labels") == ["healthy", "blast"]
    sources = section(params, "data", "sources")
    assert isinstance(sources, list)
    (dataset,) = open_datasets(sources)
    assert dataset.malignant == ("blast",)
    assert {cell.label for cell in dataset.cells()} == {"healthy", "blast"}


def test_binary_of_a_folder_needs_to_know_what_is_malignant(params: Path) -> None:
    class_folders(params.parent / "data/set")
    with pytest.raises(ConfigError, match=r"no label of abnormal, normal means a blast: .*--option malignant="):
        command.main(["folder", "--root", "data/set", "--binary"])
    command.main(["folder", "--root", "data/set", "--binary", "--option", "malignant=[abnormal]"])
    assert section(params, "data", "sources") == [
        {
            "kind": "folder",
            "root": "data/set",
            "malignant": ["abnormal"],
            "labels": {"abnormal": "blast", "normal": "healthy"},
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["tecom_wbc", "--root", "data/set", "--binary"],
            "tecom_wbc: no label of .* means a blast: leave --binary out",
        ),
        (["all_idb2", "--root", "nowhere"], "all_idb2: there is no folder nowhere: ask its authors"),
        (["c_nmc", "--root", "data/set"], "c_nmc: data/set has no fold_N/all"),
        (["tecom_wbc", "--root", "data/set", "--option", "size=3"], "size: Extra inputs are not permitted"),
        (["tecom_wbc", "--root", "data/set", "--option", "size"], "--option size: expected NAME=VALUE"),
        (["tecom_wbc", "--root", "data/set", "--option", "labels=[a"], "--option labels: '.a' is not YAML"),
        (
            ["tecom_wbc", "--root", "data/set", "--binary", "--option", "labels={monocyte: m}"],
            "--binary makes a map of labels of its own",
        ),
    ],
)
def test_a_refusal_changes_nothing(arguments: list[str], words: str, params: Path) -> None:
    tecom_wbc(params.parent / "data/set")
    with pytest.raises(ConfigError, match=words):
        command.main(arguments)
    assert params.read_text() == PARAMS


def test_a_map_of_labels_of_one_s_own(params: Path) -> None:
    taleqani(params.parent / "data/set")
    command.main(["taleqani", "--root", "data/set", "--option", "labels={Benign: healthy, Pro: blast}"])
    assert section(params, "data", "labels") == ["healthy", "blast"]


def test_sets_are_added_beside_each_other(params: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("all_idb1", "all_idb2", "c_nmc"):
        BUILD[kind](params.parent / "data" / kind)
    command.main(["all_idb2", "--root", "data/all_idb2"])
    capsys.readouterr()
    command.main(["c_nmc", "--root", "data/c_nmc", "--binary", "--add"])
    said = capsys.readouterr().out
    assert section(params, "data", "labels") == ["healthy", "blast"]
    sources = section(params, "data", "sources")
    assert isinstance(sources, list)
    assert [source["kind"] for source in sources] == ["all_idb2", "c_nmc"]
    # What the first set asked for holds; what the second one would is said.
    assert section(params, "field", "crop") == 0.74
    assert section(params, "validate", "brightness") == [0.15, 0.98]
    assert "not changed, for it concerns the other sources too: by itself the set would get validate.bright" in said
    before = params.read_text()
    with pytest.raises(ConfigError, match="cannot be used together"):
        command.main(["all_idb1", "--root", "data/all_idb1", "--add"])
    assert params.read_text() == before


def test_a_set_outside_data_is_said_to_be_unseen_by_dvc(
    params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tecom_wbc(tmp_path / "elsewhere")
    command.main(["tecom_wbc", "--root", str(tmp_path / "elsewhere")])
    assert "the set lies outside data/, where DVC does not look" in capsys.readouterr().out


def test_an_entry_that_params_lacks_is_named(tmp_path: Path) -> None:
    source = source_of("tecom_wbc", str(tecom_wbc(tmp_path)), {}, binary=False)
    with pytest.raises(ConfigError, match=r"params.yaml lacks validate.min_cells"):
        configure(PARAMS.replace("  min_cells: 20\n", ""), source)
    for text, words in (("", "is empty"), ("a: [", "is not YAML"), ("- 1", "is empty")):
        with pytest.raises(ConfigError, match=words):
            configure(text, source)


@pytest.mark.parametrize(
    ("text", "name", "value", "expected"),
    [
        ("a:\n  b: 1 # one\n  c: 2\n", "a.b", 3, "a:\n  b: 3 # one\n  c: 2\n"),
        ("a:\n  b: [1,\n    2]\n# next\nc: 3\n", "a.b", [5], "a:\n  b: [5]\n# next\nc: 3\n"),
        ("a:\n  b:\n    - x: 1\n      y: 2\n\n# next\nc: 3", "a.b", ["z"], "a:\n  b: [z]\n\n# next\nc: 3"),
        ("a: {b: 1, c: 2}\n", "a.c", 9, "a: {b: 1, c: 9}\n"),
        ("a:\n  b: ''\n", "a.b", [{"k": "x", "l": [1]}], "a:\n  b:\n    - k: x\n      l: [1]\n"),
    ],
)
def test_replaced(text: str, name: str, value: object, expected: str) -> None:
    assert replaced(text, name, value) == expected


def test_the_command_refuses_in_one_line(params: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training.configure", "taleqani", "--root", "nowhere"],
        cwd=params.parent,
        env={"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: taleqani: there is no folder nowhere: get it from https://")
    assert done.stderr.count("\n") == 1


def test_outside_the_repository_s_root_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"params.yaml cannot be read: run this in the repository's root"):
        command.main(["tecom_wbc", "--root", "x"])


def test_what_the_loader_refuses_is_a_dataset_error() -> None:
    with pytest.raises(DatasetError):
        source_of("all_idb1", "nowhere", {}, binary=False)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("bccd", ["WBC", "RBC", "Platelets"]),
        ("tecom_wbc", ["neutrophil", "lymphocyte", "monocyte", "eosinophil"]),
    ],
)
def test_the_real_sets(kind: str, labels: list[str], params: Path) -> None:
    assert command.main([kind, "--root", str(data_folder(kind))]) == 0
    assert section(params, "data", "labels") == labels
