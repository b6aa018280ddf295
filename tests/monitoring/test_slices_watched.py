"""The whole loop on a site that changed beside others, unannounced and announced in a calendar."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitoring.decisions import DECISION
from monitoring.explain import explain
from monitoring.explain_text import text
from monitoring.judge_settings import JudgeSettings
from monitoring.planned import Calendar
from service.contract.errors import ConfigError
from tests.monitoring.test_job import World

ENTRY = """
[[planned]]
what = "site"
value = "{value}"
from = {start}
until = {until}
why = "the clinic in the north joins"
who = "laboratory management"
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.seed = 10  # draws in which chance alone moves no class by a tenth
    judge = JudgeSettings(min_cells=400, min_patients=30, bootstraps=100)
    made.settings = made.settings.model_copy(update={"judge": judge})
    made.start()
    return made


def windows(world: World, number: int) -> list[str]:
    """As many windows, of which a quarter is of the new site; → the decisions on them."""
    before = len(world.decisions())
    for _ in range(number):
        world.send(1, cells=300, patients=30)
        world.send(1, cells=100, patients=10, shift=1.5, site="site-new")
    world.monitor.step()
    return world.decisions()[before:]


def announce(world: World, until: datetime, value: str = "site-new") -> Path:
    """Whoever runs the site writes a calendar."""
    path = world.folder / "calendar.toml"
    start = datetime.fromtimestamp(world.now, UTC) - timedelta(days=1)
    path.write_text(ENTRY.format(value=value, start=start.isoformat(), until=until.isoformat()))
    return path


def test_a_site_that_changed_pages_by_name_and_leads_to_no_retraining(world: World) -> None:
    assert windows(world, 4) == ["watch", "watch", "page", "watch"]
    last = world.history.windows()[-1]
    assert {finding.title for finding in last.findings if finding.out} == {"slice embedding, site=site-new"}
    assert world.history.decisions()[2].why.startswith("site=site-new changed and the rest did not")
    assert (world.trigger.fired, world.value("pending"), world.value("alarm", cause="slice")) == ([], 0, 0)
    world.monitor.step()
    assert world.value("alarm", cause="slice") == 1
    labels = {"finding": "slice_embedding", "slice": "site=site-new", "planned": "false"}
    assert world.value("slice_state", **labels, state="drift") == 1
    world.send(1, cells=400, patients=40)
    world.start().step()
    assert world.metrics.registry.get_sample_value("blastwatch_monitor_slice_figure", labels) is None
    explained = explain(world.ledger.rows(), str(world.ledger.rows(DECISION)[1].seq))
    assert explained["reproduced"]
    assert "  x  slice_embedding of site=site-new  " in text(explained)
    assert "without drift in slice_embedding of site=site-new" in text(explained)


def test_what_the_calendar_announced_is_watched_until_it_ends(world: World) -> None:
    now = datetime.fromtimestamp(world.now, UTC)
    path = announce(world, now + timedelta(days=1))
    world.start(calendar=path)
    assert windows(world, 4) == ["watch"] * 4
    assert {window.state for window in world.history.windows()} == {"ok"}
    page = text(explain(world.ledger.rows(), "last"))
    assert "because: a planned change is out" in page
    assert ": the clinic in the north joins (laboratory management)" in page
    announce(world, now - timedelta(hours=2))  # cells come from an hour ago on
    # What was apart is a part of the whole again, and the last windows together see that it is another clinic.
    assert windows(world, 3) == ["watch", "watch", "pending"]


def test_a_broken_edit_changes_nothing_and_is_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="monitoring.job")
    path = announce(world, datetime.fromtimestamp(world.now, UTC) + timedelta(days=1))
    world.start(calendar=path)
    assert any(message.startswith("the calendar announces site=site-new from ") for message in caplog.messages)
    path.write_text(path.read_text().replace("until", "till"))
    assert windows(world, 1) == ["watch"]
    world.monitor.step()
    assert [item.family for item in world.history.windows()[0].findings if item.out] == ["planned"]
    assert world.value("calendar_broken") == 1
    assert world.value("store_up") == 1
    said = [message for message in caplog.messages if "entry 1, until: Field required" in message]
    assert len(said) == 1
    assert said[0].endswith("what it said before goes on to hold")
    announce(world, datetime.fromtimestamp(world.now, UTC) + timedelta(days=1), value="site-b")
    world.monitor.step()
    assert world.value("calendar_broken") == 0
    assert any(message.startswith("the calendar now announces site=site-b from ") for message in caplog.messages)


def test_a_calendar_that_is_not_there_stops_the_start(world: World) -> None:
    says = r"calendar .*none\.toml cannot be read: No such file .*: correct it, or unset BLASTWATCH_MONITOR_CALENDAR"
    with pytest.raises(ConfigError, match=says):
        world.start(calendar=world.folder / "none.toml")
    assert Calendar(None).entries == ()
