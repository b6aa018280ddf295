"""The commands that delete, on a site whose journal may still hold something."""

import asyncio
from pathlib import Path

import pytest

from service.contract.errors import ConfigError, StoreUnavailable
from service.contract.ledger import Ledger
from service.contract.pseudonym import load_key
from service.contract.records import PredictionRecord
from service.contract.store import Store
from service.expiry import main as expire
from service.frames import Entry
from service.journal import Journal
from service.purge import main
from service.shipper import Shipper
from tests.support.records import prediction, review

NAME = "Jane Doe 1970"


class Folder:
    """A site in a folder, as the commands find it through the environment."""

    def __init__(self, root: Path, url: str) -> None:
        self.url = url
        self.journal = root / "var/journal"
        self.store = Store(url)
        self.pseudonym = load_key(root / "var/keys/pseudonym.key", create=True).pseudonym(NAME)
        self.names = root / "names.txt"
        self.names.write_text(f"{NAME}\n\n")

    def answer(self, *records: PredictionRecord) -> None:
        """What a worker that is gone left in the journal."""

        async def leave() -> None:
            journal = Journal(self.journal, max_bytes=2**20)
            await journal.append([Entry.prediction(record) for record in records])
            await journal.close()

        asyncio.run(leave())

    def ship(self) -> None:
        """What a worker does."""

        async def adopt() -> None:
            journal = Journal(self.journal, max_bytes=2**20)
            await Shipper(self.journal, journal, self.store).stop()
            await journal.close()

        asyncio.run(adopt())


@pytest.fixture
def folder(tmp_path: Path, store_url: str, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("BLASTWATCH_ROOT", str(tmp_path))
    monkeypatch.setenv("BLASTWATCH_STORE_URL", store_url)
    return Folder(tmp_path, store_url)


def test_by_a_file_of_names(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, other = prediction(1, patient=folder.pseudonym), prediction(2)
    folder.store.insert_predictions([theirs, other])
    folder.store.insert_reviews([review(theirs)])
    assert main(["--patient-file", str(folder.names)]) == 0
    out = capsys.readouterr().out
    assert "1 answers, 1 reviews and 0 pictures deleted" in out
    assert "(DVC)" in out
    assert theirs.record_id in out
    assert NAME not in out
    assert folder.pseudonym not in out
    assert [stored.record for stored in folder.store.predictions()] == [other]
    Ledger(folder.url).verify()


def test_what_the_journal_still_holds_comes_first(folder: Folder) -> None:
    theirs = prediction(1, patient=folder.pseudonym)
    folder.store.insert_predictions([prediction(3, patient=folder.pseudonym)])
    folder.answer(theirs, prediction(2))
    with pytest.raises(StoreUnavailable, match="nothing was deleted"):
        main(["--pseudonym", folder.pseudonym, "--wait", "0"])
    assert folder.store.count() == 1
    folder.ship()
    assert main(["--pseudonym", folder.pseudonym, "--wait", "0"]) == 0
    assert [stored.record.request_id for stored in folder.store.predictions()] == ["request-2"]


def test_the_journal_of_others_keeps_nobody_waiting(folder: Folder) -> None:
    folder.answer(prediction(2))
    assert main(["--pseudonym", folder.pseudonym, "--wait", "0"]) == 0


@pytest.mark.parametrize("text", ["", "\n \n", None])
def test_a_file_without_names(folder: Folder, text: str | None) -> None:
    folder.names.unlink()
    if text is not None:
        folder.names.write_text(text)
    with pytest.raises(ConfigError, match="one patient id a line"):
        main(["--patient-file", str(folder.names)])


def test_a_pseudonym_that_is_none(folder: Folder) -> None:
    with pytest.raises(ConfigError, match="32 hex"):
        main(["--pseudonym", NAME])


def test_nothing_expires_unless_it_is_set(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.store.insert_predictions(
        [prediction(1, time="2020-01-01T00:00:00.000000+00:00"), prediction(2, time="9999")]
    )
    assert expire([]) == 0
    assert "BLASTWATCH_PREDICTION_RETENTION_DAYS" in capsys.readouterr().out
    assert folder.store.count() == 2
    monkeypatch.setenv("BLASTWATCH_PREDICTION_RETENTION_DAYS", "365")
    assert expire([]) == 0
    assert capsys.readouterr().out == "shadow_answers: 0 rows deleted\npredictions: 1 rows deleted\n"
    assert [stored.record.time for stored in folder.store.predictions()] == ["9999"]
