"""Files between the stages: read with clear errors, written whole."""

from pathlib import Path

import pandas as pd
import pytest

from service.contract.errors import ConfigError
from training.io import read_json, read_params, read_parquet, write_json, write_parquet


def test_params_by_name_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("data: {labels: [a, b]}\ntrain: {epochs: 3}\n")
    assert read_params("data", "labels", path=path) == ["a", "b"]
    assert read_params(path=path)["train"] == {"epochs": 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("a: [1", "is not YAML"),
        ("", "empty or not a mapping"),
        ("- 1", "empty or not a mapping"),
        ("data: 3", "no entry data.labels"),
        ("train: {}", "no entry data"),
    ],
)
def test_params_that_cannot_be_used_are_one_clear_line(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_params("data", "labels", path=path)
    assert "\n" not in str(caught.value)


def test_json_there_and_back(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"b": [1, None], "a": "µ"})
    assert read_json(tmp_path / "deep" / "a.json") == {"b": [1, None], "a": "µ"}
    assert (tmp_path / "deep" / "a.json").read_text(encoding="utf-8").startswith('{\n  "b"')


def test_json_refuses_what_is_not_a_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"ece": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_parquet_there_and_back_in_the_same_bytes(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": ["a", "b"], "brightness": [0.5, 0.25]})
    for name in ("one", "two"):
        write_parquet(tmp_path / name, table)
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "one"), table)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("read", [read_json, read_parquet])
def test_missing_and_damaged_files_say_what_to_run(tmp_path: Path, read: object) -> None:
    for damage in (False, True):
        if damage:
            (tmp_path / "file").write_bytes(b"\x00damaged")
        with pytest.raises(ConfigError, match="dvc repro"):
            read(tmp_path / "file")  # type: ignore[operator]
