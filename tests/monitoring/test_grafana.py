"""The dashboards, as far as that can be seen without Grafana: what they ask for exists, and they can be provisioned."""

import itertools

import pytest
import yaml

from tests.support.prometheus import GRAFANA, boards, labels_in, names_in, queries, rules, samples

BOARDS = boards()
QUERIES = queries()
RECORDED = {rule["record"] for rule in rules("record")}
OF_A_SCRAPE = {"job", "instance"}


def test_there_is_one_for_each_part_and_no_two_are_alike() -> None:
    assert set(BOARDS) == {"service", "model", "drift", "retraining"}
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)


@pytest.mark.parametrize("query", QUERIES)
def test_every_series_of_a_panel_exists_with_its_labels(query: str) -> None:
    expression, known = QUERIES[query], samples()
    used = names_in(expression)
    assert used or expression.startswith(("up{", "count(ALERTS{"))
    assert used - set(known) - RECORDED == set()
    for name, labels in labels_in(expression):
        if name in known:
            assert labels <= known[name] | OF_A_SCRAPE, name


def test_every_recorded_series_is_used_by_an_alert_or_a_panel() -> None:
    expressions = [*QUERIES.values(), *(str(rule["expr"]) for rule in rules("alert"))]
    recorded = {rule["record"]: names_in(str(rule["expr"])) for rule in rules("record")}
    used = set().union(*map(names_in, expressions))
    used |= set().union(*(names for name, names in recorded.items() if name in used))
    assert used >= RECORDED


@pytest.mark.parametrize("name", BOARDS)
def test_panels_lie_beside_each_other_and_have_names_of_their_own(name: str) -> None:
    panels = BOARDS[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    for one, other in itertools.combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_asks_the_data_source_that_is_provisioned(name: str) -> None:
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/blastwatch.yml").read_text())["datasources"]
    for panel in BOARDS[name]["panels"]:
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": source["type"], "uid": source["uid"]}
