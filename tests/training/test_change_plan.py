"""The change plan is a file that a program enforces: what it cannot enforce, it refuses to read."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from service.contract.errors import ConfigError
from tests.support import evidence
from training import gate_rules
from training.change_plan import PLAN_FILE, Choice, Range, load_plan, parse_plan

REPO = Path(__file__).parents[2]


def text() -> str:
    return (REPO / PLAN_FILE).read_text()


def test_the_plan_of_the_repository_can_be_enforced_and_asks_a_person() -> None:
    plan = parse_plan(text())
    assert plan.approval == "person"
    assert set(plan.must_not_change.malignant) < set(plan.must_not_change.labels)


def test_setting_the_one_approval_line_to_automatic_is_all_a_site_needs() -> None:
    assert text().count("approval: person") == 1
    assert parse_plan(text().replace("approval: person", "approval: automatic")).approval == "automatic"


@pytest.mark.parametrize(
    ("section", "key", "value", "named"),
    [
        ("floors", "sensitivity", 1.5, "floors.sensitivity"),
        ("floors", "sensitvity", 0.9, "floors.sensitvity"),
        ("may_change", "hyperparameters", {"train.epochs": {"minimum": 5, "maximum": 1}}, "minimum 5"),
        ("may_change", "data", False, "may_change.data"),
        ("must_not_change", "malignant", ["L1", "M5"], "M5"),
        ("must_not_change", "malignant", [], "must_not_change.malignant"),
        ("budget", "latency_ms", 0, "budget.latency_ms"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_and_the_entry_named(
    section: str, key: str, value: object, named: str
) -> None:
    content = yaml.safe_load(text())
    content[section][key] = value
    with pytest.raises(ConfigError, match=named):
        parse_plan(yaml.safe_dump(content))


@pytest.mark.parametrize("broken", ["", "just words", "floors: [", "- 1"])
def test_what_is_no_plan_is_one_clear_line(broken: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_plan(broken)
    assert "\n" not in str(caught.value)


def test_an_unknown_approval_is_refused() -> None:
    with pytest.raises(ConfigError, match="approval"):
        parse_plan(text().replace("approval: person", "approval: nobody"))


def test_no_plan_means_no_judgement(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing"):
        load_plan(tmp_path / "change_plan.yaml")


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        (1, True),
        (3, True),
        (2.5, True),
        (0.99, False),
        (3.01, False),
        (True, False),
        ("2", False),
        ([1, 2], True),
        ([1, 4], False),
        ([], False),
    ],
)
def test_a_range_takes_numbers_up_to_its_ends(value: object, allowed: bool) -> None:
    assert Range(minimum=1, maximum=3).allows(value) is allowed


@pytest.mark.parametrize(("value", "allowed"), [("gru", True), ("lstm", False), (1, False), (True, True)])
def test_a_choice_tells_types_apart(value: object, allowed: bool) -> None:
    assert Choice(one_of=("gru", True)).allows(value) is allowed


def test_a_range_refuses_what_is_not_a_number_at_all() -> None:
    assert not Range(minimum=0, maximum=1).allows(float("nan"))


def test_what_the_repository_trains_with_is_inside_what_was_assessed() -> None:
    parameters = yaml.safe_load((REPO / "params.yaml").read_text())
    good = evidence.good()
    own = replace(good, plan=parse_plan(text()), parameters=parameters)
    for check in (gate_rules.hyperparameters, gate_rules.field, gate_rules.intended_use):
        assert [outcome.reason for outcome in check(own)] == [""]
    assert list(parse_plan(text()).must_not_change.labels) == parameters["data"]["labels"]
