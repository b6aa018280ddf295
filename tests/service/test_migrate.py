"""The tables of earlier releases become those of this one, whoever opens the store first."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from service.contract.database import Database
from service.contract.errors import ConfigError, StoreOutdated, StoreUnavailable
from service.contract.ledger import Ledger
from service.contract.schema import REVISIONS, UNNUMBERED, metadata
from service.contract.store import Store
from service.late import LateStore
from service.migrate import FOLDER, current, main, upgrade
from tests.support.records import prediction, review

HEAD = REVISIONS[-1]


def _execute(url: str, *statements: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def _unnumbered(url: str) -> None:
    """A store of the first release, with something in it."""
    upgrade(url, "0001")
    _execute(
        url,
        "INSERT INTO heartbeats (worker, version, at) VALUES ('w', 'v', 1.0)",
        "DROP TABLE alembic_version",
    )


def _sqlite_sql(url: str) -> list[tuple[str, str]]:
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"))
        found = [(str(name), " ".join(str(sql).split())) for name, sql in rows if name != "alembic_version"]
    engine.dispose()
    return found


def test_the_migrations_make_the_tables_that_the_code_has(store_url: str) -> None:
    upgrade(store_url)
    engine = create_engine(store_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_on_sqlite_they_make_them_to_the_letter(tmp_path: Path) -> None:
    """Alembic does not compare everything, e.g. not whether a number may be given twice."""
    migrated, made = (f"sqlite:///{tmp_path / name}" for name in ("migrated.db", "made.db"))
    upgrade(migrated)
    Store(made)
    assert _sqlite_sql(migrated) == _sqlite_sql(made)


def test_the_code_knows_every_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    assert tuple(script.revision for script in scripts)[::-1] == REVISIONS


def test_a_new_store_has_its_revision_from_the_start(store_url: str) -> None:
    Ledger(store_url)
    assert current(store_url) == HEAD
    assert upgrade(store_url) == (HEAD, HEAD)
    assert Store(store_url).count() == 0


def test_the_service_takes_over_a_store_of_the_first_release(store_url: str) -> None:
    _unnumbered(store_url)
    assert current(store_url) == UNNUMBERED
    with pytest.raises(StoreOutdated, match=r"service\.migrate upgrade"):
        Store(store_url)
    store = LateStore(store_url)
    store.open()
    assert current(store_url) == HEAD
    assert store.insert_predictions([prediction(1)]) == 1
    assert store.insert_reviews([review(prediction(1))]) == 1
    assert Store(store_url).workers(0.0) == {"w": "v"}
    Ledger(store_url).append("frozen", by="sre")


def test_a_store_that_only_had_a_ledger_gets_the_rest(store_url: str) -> None:
    _unnumbered(store_url)
    _execute(store_url, "DROP TABLE predictions", "DROP TABLE reviews", "DROP TABLE heartbeats")
    assert upgrade(store_url) == (UNNUMBERED, HEAD)
    assert Store(store_url).insert_predictions([prediction(1)]) == 1


@pytest.mark.parametrize("open_it", [Store, Ledger, upgrade])
def test_a_newer_store_is_refused(store_url: str, open_it: type) -> None:
    Store(store_url).insert_predictions([prediction(1)])
    _execute(store_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="newer release") as error:
        open_it(store_url)
    assert not isinstance(error.value, StoreOutdated)
    with pytest.raises(ConfigError, match="newer release"):
        LateStore(store_url).open()


def _open_late(url: str) -> int:
    store = LateStore(url)
    store.open()
    return store.insert_predictions([prediction(1)])


def test_of_workers_that_start_at_once_one_migrates(store_url: str) -> None:
    _unnumbered(store_url)
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        results = list(pool.map(_open_late, [store_url] * 4))
    assert sorted(results) == [0, 0, 0, 1]
    assert current(store_url) == HEAD


def test_a_migration_that_fails_leaves_everything_as_it_was(store_url: str) -> None:
    _unnumbered(store_url)
    _execute(store_url, "CREATE INDEX reviews_by_time ON reviews (time)")  # the last thing that 0002 makes
    with pytest.raises(Exception, match="already exists"):
        upgrade(store_url)
    assert current(store_url) == UNNUMBERED
    with Database(store_url).write() as connection, pytest.raises(Exception, match="predictions_by_patient"):
        connection.execute(text("DROP INDEX predictions_by_patient"))


def test_the_command(store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    _unnumbered(store_url)
    with pytest.raises(StoreOutdated):
        main(["--store", store_url, "check"])
    for command in ("current", "upgrade", "upgrade", "current", "check"):
        assert main(["--store", store_url, command]) == 0
    assert capsys.readouterr().out.splitlines() == [
        UNNUMBERED,
        f"revision {HEAD}, was {UNNUMBERED}",
        f"revision {HEAD}, nothing to do",
        HEAD,
        f"revision {HEAD}, as this release wants it",
    ]


def test_looking_makes_no_store(tmp_path: Path) -> None:
    for command in ("current", "check"):
        with pytest.raises(StoreUnavailable, match="there is no store"):
            main(["--store", f"sqlite:///{tmp_path}/none.db", command])
    assert not list(tmp_path.iterdir())
