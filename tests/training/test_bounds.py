"""Parameters outside the change plan end the pipeline before training, and edits of the plan alone change nothing."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.contract.errors import ConfigError
from tests.support.pipeline import REPO, edit
from training import bounds


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository's parameters and plan, elsewhere."""
    for name in ("params.yaml", "change_plan.yaml"):
        shutil.copy(REPO / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def setting(section: str, **values: object) -> None:
    def change(parameters: dict[str, Any]) -> None:
        parameters[section] |= values

    edit(Path("params.yaml"), change)


def test_what_the_repository_trains_with_is_inside(capsys: pytest.CaptureFixture[str]) -> None:
    assert bounds.main([]) == 0
    assert "inside change_plan.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("train", {"learning_rate": 0.5}, "train.learning_rate = 0.5 (assessed: from 0.0001 to 0.01)"),
        ("train", {"device": "tpu"}, "train.device = tpu (assessed: one of auto, cpu, cuda)"),
        ("model", {"channels": [16, 4096]}, "model.channels = [16, 4096]"),
        ("model", {"attention_heads": 4}, "model.attention_heads = 4 (not in the change plan)"),
        ("train", {"augment": {"stain": 9.0}}, "train.augment.stain = 9.0"),
        # How hard the gate looks is no matter of taste either.
        ("gate", {"bootstrap": 10}, "gate.bootstrap = 10"),
        ("gate", {"seed": 17}, "gate.seed = 17"),
        ("evaluate", {"trees": 1}, "evaluate.trees = 1"),
    ],
)
def test_what_is_outside_is_named_with_what_was_assessed_in_one_line(
    section: str, values: dict[str, object], words: str
) -> None:
    setting(section, **values)
    with pytest.raises(ConfigError) as caught:
        bounds.main([])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not bounds.BOUNDS.exists()


def test_every_breach_is_named() -> None:
    setting("train", learning_rate=0.5, batch=1)
    with pytest.raises(ConfigError, match=r"train\.batch = 1 .*; train\.learning_rate = 0\.5|learning_rate.*; .*batch"):
        bounds.main([])


def test_a_section_that_is_gone_is_not_inside() -> None:
    edit(Path("params.yaml"), lambda parameters: parameters.pop("gate"))
    with pytest.raises(ConfigError, match="gate = None"):
        bounds.main([])


def test_other_sections_are_free() -> None:
    setting("evaluate", bootstrap=10)
    setting("calibrate", risk=0.1)
    assert bounds.main([]) == 0


def test_an_edit_of_the_plan_that_still_allows_it_leaves_the_same_bytes() -> None:
    bounds.main([])
    before = bounds.BOUNDS.read_bytes()

    def narrower(plan: dict[str, Any]) -> None:
        plan["may_change"]["hyperparameters"]["train.learning_rate"]["maximum"] = 0.005
        plan["may_change"]["sections"].append("evaluate.seed")
        plan["may_change"]["hyperparameters"]["evaluate.seed"] = {"one_of": [0]}
        plan["floors"]["sensitivity"] = 0.97

    edit(Path("change_plan.yaml"), narrower)
    bounds.main([])
    assert bounds.BOUNDS.read_bytes() == before
    assert yaml.safe_load(before) == {"inside": True}
