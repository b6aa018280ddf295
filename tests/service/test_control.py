"""The operator's command, and workers that do as it says: the kill switch and the canary."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.client import Client
from service.contract.artifact import MODEL, Thresholds
from service.contract.errors import ArtifactError, BlastwatchError, ConfigError, LedgerError, NotFound
from service.contract.image import Pixels
from service.contract.predictor import Outputs
from service.contract.pseudonym import load_key
from service.contract.serving import KINDS, serving_of
from service.control import main
from service.replay import main as replay
from tests.service.running import Site, Worker, eventually, working
from tests.support.images import png

WHY = ("--by", "sre", "--why", "a drill")


@pytest.fixture
def here(live: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The site that commands find."""
    settings = live.settings()
    for name in ("root", "store_url", "models_dir"):
        monkeypatch.setenv(f"BLASTWATCH_{name.upper()}", str(getattr(settings, name)))
    return live


@pytest.fixture
def worker(here: Site) -> Iterator[Worker]:
    with working(here.settings(image_retention="referred_and_sample", image_sample=0)) as found:
        yield found


@pytest.fixture
def client(worker: Worker) -> Iterator[Client]:
    with Client(worker.grpc) as found:
        yield found


def another(site: Site, *, gate: bool = True, **options: object) -> str:
    """A registered model beside the one in production."""
    version = site.add(**{"seed": 5, **options}).version  # type: ignore[arg-type]
    ledger = site.ledger
    ledger.append("registered", version=version)
    if gate:
        ledger.append("gate_passed", version=version)
    ledger.close()
    return version


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.strip().splitlines()[-1]


class TestKillSwitch:
    def test_every_answer_is_referred_on_both_sides_of_a_retry(self, here: Site, client: Client) -> None:
        before = client.classify(png(1), request_id="r1", pixel_size_um=0.6)
        assert not before.refer
        main(["refer-all", "on", *WHY])
        after = eventually(lambda: found if (found := client.classify(png(2), pixel_size_um=0.6)).refer else None)
        assert after is not None
        assert after.refer_reasons == ("kill_switch",)
        again = client.classify(png(1), request_id="r1", pixel_size_um=0.6)
        assert again.record_id == before.record_id
        assert (again.refer, again.refer_reasons) == (True, ("kill_switch",))
        assert again.probabilities == before.probabilities
        main(["refer-all", "off", *WHY])
        eventually(lambda: not client.classify(png(3), pixel_size_um=0.6).refer)

    def test_it_joins_the_models_own_reasons_and_keeps_no_more_pixels(
        self, here: Site, client: Client, worker: Worker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        main(["refer-all", "on", *WHY])
        eventually(lambda: client.classify(png(2), pixel_size_um=0.6).refer)
        own = client.classify(png(4))
        assert own.refer_reasons == ("unknown_scale", "kill_switch")
        mine = client.classify(png(5), pixel_size_um=0.6)
        stored = eventually(lambda: here.store.get(mine.record_id))
        assert stored is not None
        assert stored.record.refer
        assert not stored.record.pixels_kept
        image = here.root / "sent.png"
        image.write_bytes(png(5))
        assert replay([mine.record_id, "--image", str(image)]) == 0
        assert "the same, bit for bit" in capsys.readouterr().out

    def test_it_holds_from_the_first_answer_after_a_start(self, here: Site) -> None:
        main(["refer-all", "on", *WHY])
        with working(here.settings()) as worker, Client(worker.grpc) as client:
            assert client.classify(png(1), pixel_size_um=0.6).refer
            metric = worker.engine.metrics.registry.get_sample_value
            eventually(lambda: metric("blastwatch_refer_all_workers") == 1)

    def test_what_it_says_lasts_while_the_ledger_is_away(self, here: Site, client: Client, worker: Worker) -> None:
        main(["refer-all", "on", *WHY])
        eventually(lambda: client.classify(png(1), pixel_size_um=0.6).refer)
        here.take_store_away()
        time.sleep(5 * worker.settings.poll_s)
        assert client.classify(png(2), pixel_size_um=0.6).refer
        here.bring_store_back()


class TestCommand:
    def test_status_says_what_since_when_by_whom_and_why(self, here: Site, capsys: pytest.CaptureFixture[str]) -> None:
        version = another(here)
        main(["status"])
        assert capsys.readouterr().out.count("none") == 2
        main(["refer-all", "on", *WHY])
        main(["canary", version, "--share", "0.2", *WHY])
        main(["shadow", version, "--share", "1", *WHY])
        capsys.readouterr()
        main(["status"])
        told = capsys.readouterr().out.splitlines()
        assert told[0] == f"production  {here.ledger.production()}"
        assert told[1].startswith("refer all   ON, since 20")
        assert told[1].endswith("by sre: a drill")
        assert f"{version}, 20 % of the patients, since" in told[2]
        assert f"{version}, 100 % of the cells, since" in told[3]

    def test_asking_twice_and_ending_nothing_make_no_row(self, here: Site, capsys: pytest.CaptureFixture[str]) -> None:
        main(["refer-all", "off", *WHY])
        assert "nothing to do" in last_line(capsys)
        main(["canary", "off", *WHY])
        assert "nothing to do" in last_line(capsys)
        assert serving_of(here.ledger.rows(*KINDS)) == serving_of([])
        assert len(here.ledger.rows()) == 2

    @pytest.mark.parametrize(
        ("what", "options", "error", "message"),
        [
            ("canary", {"gate": False}, LedgerError, "not passed the gate"),
            ("canary", {"labels": ("healthy", "L1")}, ConfigError, "labels healthy, L1"),
            ("shadow", {"labels": ("healthy", "L1")}, ConfigError, "labels healthy, L1"),
        ],
    )
    def test_a_model_that_does_not_fit_is_refused(
        self, here: Site, what: str, options: dict[str, object], error: type[BlastwatchError], message: str
    ) -> None:
        version = another(here, **options)  # type: ignore[arg-type]
        with pytest.raises(error, match=message):
            main([what, version, *WHY])
        assert serving_of(here.ledger.rows(*KINDS)) == serving_of([])

    @pytest.mark.parametrize("what", ["canary", "shadow"])
    def test_a_model_that_is_not_there_is_refused(self, here: Site, what: str) -> None:
        with pytest.raises(NotFound, match="registered"):
            main([what, "f" * 32, *WHY])
        here.ledger.append("registered", version="f" * 32)
        with pytest.raises(NotFound, match="f" * 32):
            main([what, "f" * 32, *WHY])
        with pytest.raises(LedgerError, match="in production already"):
            main([what, here.ledger.production() or "", *WHY])

    def test_a_model_that_was_rolled_back_is_no_canary(self, here: Site) -> None:
        version = another(here)
        here.ledger.promote(version, here.ledger.production())
        here.ledger.rollback(by="sre")
        with pytest.raises(LedgerError, match="rolled back"):
            main(["canary", version, *WHY])


class TestCanary:
    def test_a_patient_is_judged_by_one_model(self, here: Site, client: Client) -> None:
        production, version = here.ledger.production(), another(here, size=48)
        main(["canary", version, "--share", "0.5", *WHY])
        share = serving_of(here.ledger.rows(*KINDS)).canary
        assert share is not None
        key = load_key(here.root / "var/keys/pseudonym.key", create=False)
        patients = [f"patient {number}" for number in range(24)]
        chosen = {patient for patient in patients if share.has(key.pseudonym(patient))}
        assert 0 < len(chosen) < 24
        eventually(lambda: client.classify(png(1), patient_id=min(chosen)).model_version == version)
        judged = defaultdict(set)
        with ThreadPoolExecutor(8) as pool:
            asked = [patient for patient in patients for _ in range(3)]
            cells = zip(asked, range(len(asked)), strict=True)
            for patient, answer in pool.map(
                lambda cell: (cell[0], client.classify(png(cell[1]), patient_id=cell[0])), cells
            ):
                judged[patient].add(answer.model_version)
        assert judged == {patient: {version if patient in chosen else production} for patient in patients}
        # Without a patient the specimen counts; without both nobody could be sure.
        specimens = {client.classify(png(1), specimen_id=f"s{number}").model_version for number in range(16)}
        assert specimens == {production, version}
        assert {client.classify(png(number)).model_version for number in range(8)} == {production}

    def test_a_retry_is_the_same_answer(self, here: Site, client: Client) -> None:
        version = another(here)
        main(["canary", version, "--share", "1", *WHY])
        eventually(lambda: client.classify(png(1), patient_id="p").model_version == version)
        first = client.classify(png(2), patient_id="p", request_id="again")
        assert client.classify(png(2), patient_id="p", request_id="again") == first
        eventually(lambda: here.store.get(first.record_id))
        assert client.classify(png(2), patient_id="p", request_id="again") == first

    def test_it_begins_and_ends_under_load_without_a_failure(self, here: Site, client: Client) -> None:
        production, version = here.ledger.production(), another(here, size=48)
        versions: list[str] = []
        stop = threading.Event()

        def load(number: int) -> None:
            while not stop.is_set():
                versions.append(client.classify(png(number), patient_id=f"p{number}").model_version)

        with ThreadPoolExecutor(6) as pool:
            callers = [pool.submit(load, number) for number in range(6)]
            try:
                for _ in range(3):
                    main(["canary", version, "--share", "1", *WHY])
                    eventually(lambda: versions[-6:].count(version) == 6)
                    main(["canary", "off", *WHY])
                    eventually(lambda: versions[-6:].count(str(production)) == 6)
            finally:
                stop.set()
            for caller in callers:
                caller.result()

    def test_a_damaged_one_leaves_its_patients_to_production(self, here: Site, client: Client, worker: Worker) -> None:
        production, version = here.ledger.production(), another(here)
        main(["canary", version, "--share", "1", *WHY])
        eventually(lambda: client.classify(png(1), patient_id="p").model_version == version)
        main(["canary", "off", *WHY])
        eventually(lambda: client.classify(png(1), patient_id="p").model_version == production)
        file = here.root / "models" / version / MODEL
        file.write_bytes(file.read_bytes()[:-10])
        here.ledger.append("canary_started", version=version, share=1.0, by="sre", why="before it was damaged")
        failed = worker.engine.metrics.registry.get_sample_value
        eventually(lambda: failed("blastwatch_model_failed_loads_total") or 0)
        assert client.classify(png(2), patient_id="p").model_version == production

    def test_one_that_fails_at_work_leaves_its_cells_to_production(
        self, here: Site, client: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(batch: Pixels) -> Outputs:
            raise ArtifactError(f"no answer to {len(batch)} pictures")

        production = here.ledger.production()
        version = another(here, thresholds=Thresholds(abstain=0.0, ood=2e9))
        main(["canary", version, "--share", "1", *WHY])
        eventually(lambda: client.classify(png(1), patient_id="p").model_version == version)
        canary = worker.engine.core()._steering._canary
        assert canary is not None
        monkeypatch.setattr(canary.current(), "predict", fails)
        assert client.classify(png(2), patient_id="p").model_version == production

    def test_its_promotion_ends_it(self, here: Site, client: Client, worker: Worker) -> None:
        version = another(here)
        main(["canary", version, "--share", "0.5", *WHY])
        gauge = worker.engine.metrics.registry.get_sample_value
        eventually(lambda: gauge("blastwatch_beside_workers", {"role": "canary", "model_version": version}) == 1)
        here.ledger.promote(version, here.ledger.production())
        eventually(lambda: gauge("blastwatch_beside_workers", {"role": "canary", "model_version": version}) == 0)
        assert {client.classify(png(n), patient_id=f"p{n}").model_version for n in range(12)} == {version}
