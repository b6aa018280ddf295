"""training/zoo/dvc.yaml against the code and the parameters."""

from typing import Any

import pytest
import yaml

from tests.training.test_dvc_yaml import PARAMS, REPO, covered, needed
from training.zoo.rows import KINDS, ROWS
from training.zoo.settings import parse

STAGES: dict[str, Any] = yaml.safe_load((REPO / "training/zoo/dvc.yaml").read_text())["stages"]


def parts(stage: str) -> dict[str, Any]:
    found: dict[str, Any] = STAGES[stage]
    return {**found, **found.get("do", {})}


def test_every_row_is_a_stage_and_has_parameters() -> None:
    assert STAGES["row"]["foreach"] == list(ROWS)
    zoo = PARAMS["zoo"]
    assert isinstance(zoo, dict)
    assert list(zoo["rows"]) == list(ROWS)
    for row in ROWS:
        parse(zoo, {"folds": 5, "seed": 0}, row)
    assert {row.kind for row in ROWS.values()} == set(KINDS)


@pytest.mark.parametrize(("stage", "module"), [("row", "zoo.run"), ("table", "zoo.table")])
def test_every_module_that_a_stage_imports_is_a_dep_and_no_other(stage: str, module: str) -> None:
    deps = list(parts(stage)["deps"])
    assert sorted(path for path in needed(module) if not covered(path, deps)) == []
    modules = {path for path in deps if path.endswith(".py")}
    assert sorted(modules - needed(module)) == []
    assert parts(stage)["wdir"] == "../.."


def test_params_are_those_that_there_are() -> None:
    for stage in STAGES:
        for name in parts(stage)["params"]:
            value: Any = PARAMS
            for part in name.replace("${item}", "squeezenet").split("."):
                assert part in value, name
                value = value[part]


def test_every_common_parameter_reruns_the_rows() -> None:
    declared = parts("row")["params"]
    zoo = PARAMS["zoo"]
    assert isinstance(zoo, dict)
    assert [name for name in zoo if name != "rows" and f"zoo.{name}" not in declared] == []


def test_the_table_waits_for_the_rows() -> None:
    assert parts("row")["outs"] == ["reports/zoo/${item}.json"]
    assert "reports/zoo" in parts("table")["deps"]
