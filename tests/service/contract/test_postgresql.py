"""What only PostgreSQL does: a server that stops, locks, refuses, or was set up by somebody else."""

import threading

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ProgrammingError

from service.contract.database import Database
from service.contract.errors import ConfigError, StoreUnavailable
from service.contract.ledger import Ledger
from service.contract.store import Store
from tests.service.running import free_ports
from tests.support.postgres import Postgres
from tests.support.records import prediction

pytestmark = pytest.mark.servers


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.url()


def test_the_driver_need_not_be_named(url: str) -> None:
    Store(url).insert_predictions([prediction(1)])
    assert Store(url.replace("+psycopg", "")).count() == 1


def test_a_server_that_is_not_there_is_away_and_its_password_stays_out_of_the_line() -> None:
    with pytest.raises(StoreUnavailable, match="cannot be reached") as error:
        Store(f"postgresql+psycopg://site:secret@127.0.0.1:{free_ports(1)[0]}/site")
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_url_does_not_show_its_password() -> None:
    with pytest.raises(ConfigError, match="psycopg") as error:
        Store("postgresql+psycopg2://site:secret@127.0.0.1/site")
    assert "secret" not in str(error.value)


def test_connections_that_died_while_idle_are_replaced(url: str, postgres: Postgres) -> None:
    store = Store(url)
    store.insert_predictions([prediction(1)])
    postgres.stop()
    postgres.start()
    assert store.insert_predictions([prediction(2)]) == 1
    assert store.count() == 2


def test_a_server_that_stops_in_the_middle_of_a_write_leaves_nothing(url: str, postgres: Postgres) -> None:
    store, database = Store(url), Database(url)
    with pytest.raises(StoreUnavailable), database.write() as connection:
        connection.execute(text("DELETE FROM predictions"))
        postgres.stop()
        connection.execute(text("DELETE FROM predictions"))
    postgres.start()
    assert store.insert_predictions([prediction(1)]) == 1


def test_a_writer_that_does_not_end_keeps_others_waiting_for_a_bounded_time(url: str) -> None:
    database, store = Database(url), Store(url, timeout_s=0.05)
    with database.write():
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            store.insert_predictions([prediction(1)])
        assert store.count() == 0, "readers do not wait for a writer"
    assert store.insert_predictions([prediction(1)]) == 1


def test_a_reader_sees_one_state_and_a_writer_what_was_committed_before_it(url: str) -> None:
    database, store = Database(url), Store(url)
    count = text("SELECT count(*) FROM predictions")
    with database.read() as connection:
        assert connection.execute(count).scalar() == 0
        store.insert_predictions([prediction(1)])
        assert connection.execute(count).scalar() == 0
    seen: list[object] = []

    def wait_and_count() -> None:
        with database.write() as connection:
            seen.append(connection.execute(count).scalar())

    with Database(url).write() as connection:
        waiting = threading.Thread(target=wait_and_count)
        waiting.start()
        connection.execute(text("DELETE FROM predictions"))
    waiting.join(60)
    assert seen == [0]


def test_a_reader_cannot_write(url: str) -> None:
    store, database = Store(url), Database(url)
    store.insert_predictions([prediction(1)])
    with pytest.raises(StoreUnavailable, match="read-only"), database.read() as connection:
        connection.execute(text("DELETE FROM predictions"))
    assert store.count() == 1


def test_a_standby_is_away_for_a_writer(url: str) -> None:
    """As after a failover, until the address leads to the new primary."""
    store = Store(url)
    _administer(url, "ALTER DATABASE {name} SET default_transaction_read_only = on")
    store.close()
    with pytest.raises(StoreUnavailable, match="read-only"):
        store.insert_predictions([prediction(1)])


def test_a_role_that_may_not_read_the_tables_is_no_outage(url: str) -> None:
    Store(url)
    _administer(url, "CREATE ROLE stranger LOGIN", "REVOKE ALL ON SCHEMA public FROM public")
    stranger = Database(url.replace("postgres@", "stranger@"))
    with pytest.raises(ProgrammingError, match=r"UndefinedTable|InsufficientPrivilege"), stranger.read() as connection:
        connection.execute(text("SELECT count(*) FROM predictions"))


def test_a_commit_is_on_disk_even_where_the_server_is_set_not_to_wait(url: str) -> None:
    _administer(url, "ALTER DATABASE {name} SET synchronous_commit = off")
    with Database(url).read() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar() == "on"
    _administer(url, "ALTER DATABASE {name} SET synchronous_commit = remote_apply")
    with Database(url).read() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar() == "remote_apply"


def test_every_wait_has_an_end(url: str) -> None:
    with Database(url, timeout_s=1.5).read() as connection:
        shown = {
            name: connection.execute(text(f"SHOW {name}")).scalar()
            for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        }
    assert shown == {
        "lock_timeout": "1500ms",
        "statement_timeout": "1min",
        "idle_in_transaction_session_timeout": "1min",
    }


def test_the_ledger_verifies_after_a_crash_of_the_server(url: str, postgres: Postgres) -> None:
    ledger = Ledger(url)
    rows = [ledger.append("registered", version=f"{number}") for number in range(5)]
    postgres.stop()
    postgres.start()
    ledger.verify(rows[-1].hash)
    assert ledger.append("frozen", by="sre").seq == 6


def _administer(url: str, *statements: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement.format(name=engine.url.database)))
    engine.dispose()
