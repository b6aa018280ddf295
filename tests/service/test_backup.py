"""A backup is worth what its restore is: PostgreSQL's own tools, and the ledger's own check of what came back."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy

from service.contract.ledger import Ledger
from service.contract.store import Store
from tests.support.postgres import Postgres
from tests.support.records import prediction

pytestmark = pytest.mark.servers


def tool(name: str, *arguments: str) -> None:
    """One of PostgreSQL's programs."""
    path = shutil.which(name)
    assert path is not None
    subprocess.run([path, *arguments], check=True, capture_output=True, text=True)


def verify(url: str, *more: str) -> "subprocess.CompletedProcess[str]":
    """What an operator types."""
    return subprocess.run(
        [sys.executable, "-m", "service.contract.ledger", "verify", *more],
        env=os.environ | {"BLASTWATCH_STORE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_restored_ledger_verifies_and_one_that_was_changed_on_the_way_does_not(
    postgres: Postgres, tmp_path: Path
) -> None:
    url, empty = postgres.url(), postgres.url()
    ledger, store = Ledger(url), Store(url)
    for version in ("a" * 32, "b" * 32):
        ledger.append("registered", version=version)
        ledger.promote(version, ledger.production())
    store.insert_predictions([prediction(number) for number in range(50)])
    head = ledger.head()
    dump = tmp_path / "blastwatch.dump"
    plain = url.replace("+psycopg", "")
    tool("pg_dump", "--format=custom", f"--file={dump}", plain)
    ledger.append("frozen", why="after the dump", by="sre")  # what came later is not in it

    restored = empty.replace("+psycopg", "")
    tool("pg_restore", "--clean", "--if-exists", "--no-owner", f"--dbname={restored}", str(dump))
    found = verify(empty, "--head", head)
    assert found.returncode == 0, found.stderr
    assert head in found.stdout
    assert Ledger(empty).production() == "b" * 32
    assert Store(empty).count() == 50
    # Neither a later head nor a changed row passes for the one that was saved.
    assert verify(empty, "--head", ledger.head()).returncode != 0
    engine = sqlalchemy.create_engine(empty)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE ledger SET body = replace(body, 'aaaa', 'aaab') WHERE seq = 1"))
    engine.dispose()
    assert verify(empty, "--head", head).returncode != 0
    # The restored store goes on where it was: the next row fits the chain (of the one that was not changed).
    assert Ledger(url).rows()[-1].kind == "frozen"
