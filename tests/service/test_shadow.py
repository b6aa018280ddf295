"""A shadow beside a real worker: it sees its share, answers nobody, and nothing that happens to it reaches a caller."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from service.client import Client
from service.contract.artifact import MODEL
from service.contract.erasure import Erasure
from service.contract.errors import BlastwatchError, NotFound, StoreUnavailable
from service.contract.pixels import PixelStore
from service.contract.predictor import Predictor
from service.contract.serving import Share
from service.contract.shadows import ShadowAnswer, Shadows
from service.control import main as control
from service.domain import Cell
from service.intake import Intake
from service.shadow import main
from service.shadowing import MAX_WAITING, Shadowing
from tests.service.running import LENIENT, Site, Worker, eventually, working
from tests.support.images import png
from tests.support.records import prediction

WHY = ("--by", "sre", "--why", "a look")


@pytest.fixture
def here(live: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The site that commands find."""
    settings = live.settings()
    for name in ("root", "store_url", "models_dir"):
        monkeypatch.setenv(f"BLASTWATCH_{name.upper()}", str(getattr(settings, name)))
    return live


@pytest.fixture
def worker(here: Site) -> Iterator[Worker]:
    with working(here.settings()) as found:
        yield found


def registered(site: Site, **options: object) -> str:
    version = site.add(**{"seed": 5, **options}).version  # type: ignore[arg-type]
    site.ledger.append("registered", version=version)
    return version


def counter(worker: Worker, name: str, **labels: str) -> float:
    return worker.engine.metrics.registry.get_sample_value(f"blastwatch_{name}", labels) or 0.0


def begin(here: Site, worker: Worker, share: str = "1", **options: object) -> str:
    version = registered(here, **options)
    control(["shadow", version, "--share", share, *WHY])
    role = {"role": "shadow", "model_version": version}
    eventually(lambda: counter(worker, "beside_workers", **role) == 1)
    return version


def seen(here: Site, version: str) -> dict[str, ShadowAnswer]:
    shadows = Shadows(here.url)
    try:
        return {pair.shadow.record_id: pair.shadow for pair in shadows.pairs(version)}
    finally:
        shadows.close()


@pytest.mark.parametrize("size", [32, 48])
def test_it_says_what_it_would_have_answered_and_nobody_hears_it(here: Site, worker: Worker, size: int) -> None:
    """With the same field, and with one for which the pixels have to be prepared again."""
    version = begin(here, worker, size=size)
    with Client(worker.grpc) as client:
        answers = [client.classify(png(n), patient_id=f"p{n}", pixel_size_um=0.6) for n in range(12)]
        client.classify(png(1), test=True)
    assert {answer.model_version for answer in answers} == {here.ledger.production()}
    found = eventually(lambda: shadows if len(shadows := seen(here, version)) == 12 else None)
    assert found is not None
    assert set(found) == {answer.record_id for answer in answers}
    # The same model in production says the same of the same cells.
    here.promote(version)
    with Client(worker.grpc) as client:
        eventually(lambda: client.model().version == version)
        for number, before in enumerate(answers):
            now = client.classify(png(number), patient_id=f"p{number}", pixel_size_um=0.6)
            shadow = found[before.record_id]
            assert (shadow.label, shadow.refer) == (now.label, now.refer)
            assert shadow.probabilities == pytest.approx(now.probabilities, abs=1e-6)
    eventually(lambda: here.store.count() == 25)


def test_it_sees_its_share_of_the_cells(here: Site, worker: Worker) -> None:
    version = begin(here, worker, share="0.5")
    share = worker.engine.core()._steering.shadowing._side
    assert share is not None
    with Client(worker.grpc) as client:
        answers = [client.classify(png(n)) for n in range(30)]
    wanted = {answer.record_id for answer in answers if share[0].has(answer.record_id)}
    assert 0 < len(wanted) < 30
    eventually(lambda: set(seen(here, version)) == wanted)


def test_a_damaged_one_changes_nothing(here: Site, worker: Worker) -> None:
    version = registered(here)
    control(["shadow", version, *WHY])
    eventually(lambda: worker.engine.core()._steering.shadowing.version)
    control(["shadow", "off", *WHY])
    eventually(lambda: not worker.engine.core()._steering.shadowing.version)
    file = here.root / "models" / version / MODEL
    file.write_bytes(b"no model")
    here.ledger.append("shadow_started", version=version, share=1.0, by="sre", why="before it was damaged")
    eventually(lambda: counter(worker, "model_failed_loads_total"))
    with Client(worker.grpc) as client:
        assert client.classify(png(1)).model_version == here.ledger.production()


def test_one_that_fails_costs_nobody_an_answer(here: Site, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(here, worker)
    side = worker.engine.core()._steering.shadowing._side
    assert side is not None
    monkeypatch.setattr(side[1], "predict", lambda batch: 1 / 0)
    with Client(worker.grpc) as client:
        for number in range(5):
            assert client.classify(png(number)).label
    eventually(lambda: counter(worker, "shadow_dropped_total") == 5)


def test_the_store_may_be_away(here: Site, worker: Worker) -> None:
    version = begin(here, worker)
    here.take_store_away()
    with Client(worker.grpc) as client:
        answers = [client.classify(png(n)) for n in range(5)]
    eventually(
        lambda: (
            counter(worker, "shadow_answers_total", agrees="true")
            + counter(worker, "shadow_answers_total", agrees="false")
            == 5
        )
    )
    time.sleep(1.2)  # a try to write, in vain
    here.bring_store_back()
    eventually(lambda: set(seen(here, version)) == {answer.record_id for answer in answers})


class Blocked:
    """A model that answers when it is let."""

    def __init__(self, real: Predictor) -> None:
        self.manifest, self.version = real.manifest, real.version
        self._predict = real.predict
        self.go = threading.Event()

    def predict(self, batch):  # type: ignore[no-untyped-def]
        self.go.wait(20)
        return self._predict(batch)


def test_what_it_cannot_keep_up_with_is_dropped_and_counted(here: Site) -> None:
    """Offering never waits, whatever the shadow does."""
    real = Predictor(here.add(seed=9))
    blocked = Blocked(real)
    written: list[ShadowAnswer] = []
    dropped: list[int] = []

    def write(answers: Sequence[ShadowAnswer]) -> list[ShadowAnswer]:
        written.extend(answers)
        return []

    shadowing = Shadowing(write, on_dropped=lambda: dropped.append(1))
    shadowing.begin(Share(real.version, 1.0, "s"), blocked)  # type: ignore[arg-type]
    intake = Intake()
    prepared = asyncio.run(intake.prepare(Cell(png(1)), real.manifest.field, time.monotonic() + 20))
    for number in range(MAX_WAITING + 20):
        shadowing.offer(prediction(number), Cell(png(1)), prepared)
    assert 18 <= len(dropped) <= 20
    blocked.go.set()
    eventually(lambda: len(written) + len(dropped) == MAX_WAITING + 20)
    shadowing.stop()
    intake.close()


def test_an_answer_waits_for_its_record_and_goes_with_it(here: Site) -> None:
    store, shadows = here.store, Shadows(here.url)
    one, other = prediction(1, patient="a" * 32), prediction(2, patient="b" * 32)
    answers = [
        ShadowAnswer(r.record_id, "v" * 32, r.time, r.label, r.probabilities, 0.5, False, (), 0.1, 2.0)
        for r in (one, other)
    ]
    assert shadows.insert(answers) == answers
    store.insert_predictions([one])
    assert shadows.insert(answers) == answers[1:]
    store.insert_predictions([other])
    assert shadows.insert(answers) == []
    assert shadows.insert(answers) == []
    assert [pair.shadow for pair in shadows.pairs("v" * 32)] == answers
    assert [pair.live.patient for pair in shadows.pairs("v" * 32)] == ["a" * 32, "b" * 32]
    Erasure(here.url).purge("a" * 32, PixelStore(here.root / "none"))
    assert [pair.shadow for pair in shadows.pairs("v" * 32)] == answers[1:]
    assert Erasure(here.url).expire("shadow_answers", 1) == 1
    assert here.ledger.rows("expired")[-1].body["table"] == "shadow_answers"


def test_the_report(here: Site, worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFound, match="no shadow"):
        main(["report"])
    version = begin(here, worker, thresholds=LENIENT)
    with pytest.raises(NotFound, match="no cell"):
        main(["report"])
    with Client(worker.grpc) as client:
        for number in range(40):
            client.classify(png(number), patient_id=f"p{number // 2}" if number >= 2 else "", pixel_size_um=0.6)
    eventually(lambda: len(seen(here, version)) == 40)
    capsys.readouterr()
    assert main(["report"]) == 0
    told = capsys.readouterr().out
    assert f"shadow {version} beside {here.ledger.production()}: 40 cells of 21 patients" in told
    assert "2 cells came without a patient" in told
    assert "Cohen's kappa" in told
    assert main(["report", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert sum(map(sum, figures["confusion"])) == 40
    low, high = figures["figures"]["same label"]["interval"]
    assert 0 <= low <= figures["figures"]["same label"]["value"] <= high <= 1
    assert figures["compute_ms"]["shadow"]["p50"] > 0


def test_the_report_of_what_is_not_there(here: Site) -> None:
    with pytest.raises(BlastwatchError, match="no cell"):
        main(["report", "--version", "f" * 32, "--days", "3"])
    with pytest.raises(SystemExit):
        main(["report", "--days", "0"])
    here.take_store_away()
    with pytest.raises(StoreUnavailable):
        main(["report"])
