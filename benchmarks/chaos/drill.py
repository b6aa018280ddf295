"""One fault: a site, load, the harm, and what came of it."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks.chaos.database import Database
from benchmarks.chaos.load import Load
from benchmarks.chaos.pictures import Pictures
from benchmarks.chaos.site import Place, Prepare, nothing_more, place, until
from benchmarks.chaos.verdict import NOTHING_WRONG, RECOVERY_S, Verdict, judge, recovered
from benchmarks.load import quantile
from service.contract.errors import BlastwatchError
from service.contract.store import StoredPrediction

AFTER_S = 2.0
SLOWEST_NORMAL_S = 0.25
_PAGE = 2000


class Skipped(Exception):
    """This machine cannot have that fault; the text says what is missing."""


@dataclass
class Drill:
    """What a fault is given: the site under load, a source of chance, and where to say what happened."""

    place: Place
    load: Load
    chance: random.Random
    seconds: float
    ended: float = 0.0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _watch: threading.Thread | None = None
    _records_s: float | None = None

    def pause(self, seconds: float) -> None:
        """Lets the load go on for a while."""
        time.sleep(seconds)

    def over(self) -> None:
        """The fault ends now: recovery counts from here."""
        self.ended = time.monotonic()
        self._watch = threading.Thread(target=self._follow_records)
        self._watch.start()

    def records(self) -> float | None:
        """Seconds after the fault's end at which the store had every answer that was out by then."""
        if self._watch is not None:
            self._watch.join()
        return self._records_s

    def _follow_records(self) -> None:
        self._records_s = _on_record(self)

    def since(self) -> float:
        """Seconds since the fault ended."""
        return time.monotonic() - self.ended

    def note(self, text: str) -> None:
        """For the page."""
        self.notes.append(text)

    def must(self, true: object, text: str) -> None:
        """A promise of this fault's own; `text` says what broke."""
        if not true:
            self.problems.append(text)

    def must_within(self, what: Callable[[], object], seconds: float, text: str) -> float:
        """The seconds since the fault's end at which `what` came true; a broken promise if it did not in time."""
        try:
            until(what, max(0.1, seconds - (self.since() if self.ended else 0.0)), text)
        except TimeoutError as error:
            self.problems.append(str(error))
        return self.since() if self.ended else 0.0


Harm = Callable[[Drill], None]


@dataclass(frozen=True)
class Fault:
    """A fault by name. `spotless`: no call of a retrying client may fail. `given`: the site it needs, see `place`.
    `twin`: two services, whose addresses the callers both have.
    """

    name: str
    what: str
    harm: Harm
    spotless: bool = False
    twin: bool = False
    namespace: bool = False
    given: Prepare = nothing_more
    possible: Callable[[], None] = lambda: None
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A row of the page. Seconds are None where it did not come back, or does not apply."""

    fault: str
    what: str
    requests: int = 0
    failed: int = 0
    probe_failed: int = 0
    verdict: Verdict = NOTHING_WRONG
    answers_s: float | None = None
    records_s: float | None = None
    normal_ms: float = 0.0
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    skipped: str = ""


def run(fault: Fault, server: Database, *, seed: int, seconds: float) -> Outcome:
    """Starts the site, does the harm under load, waits for recovery, and judges."""
    try:
        fault.possible()
    except Skipped as error:
        return Outcome(fault.name, fault.what, skipped=str(error))
    pictures = Pictures(seed)
    chance = random.Random(f"{seed} {fault.name}")
    with place(server, prepare=fault.given, **fault.settings) as site:
        if fault.twin:
            site.others.append(site.beside())
            site.others[0].wait()
            both = (site.service.grpc, site.others[0].grpc)
            load = Load(pictures, f"ipv4:{','.join(both)}")
        else:
            load = Load(pictures, site.service.grpc, site.service.http)
        drill = Drill(site, load, chance, seconds)
        try:
            time.sleep(seconds / 2 + chance.random())
            normal_s = _normal(load)
            before = len(load.book.said)
            drill.must(before > 10, f"only {before} answers before the fault: no load")
            fault.harm(drill)
            answers_s = _answers_again(load, drill.ended, normal_s)
            records_s = drill.records()
            time.sleep(AFTER_S)
        finally:
            load.stop()
        return _judged(fault, drill, pictures, normal_s, answers_s, records_s)


def _normal(load: Load) -> float:
    """What a lone call may take to count as normal: three times what it took in a hundred before the fault, at most."""
    usual = quantile([took for _, took, answered in load.book.probes[-100:] if answered], 0.99)
    return max(SLOWEST_NORMAL_S, 3 * usual if usual == usual else 0.0)


def _answers_again(load: Load, ended: float, normal_s: float) -> float | None:
    while True:
        found = recovered(list(load.book.probes), ended, normal_s)
        if found is not None or time.monotonic() > ended + RECOVERY_S + 5:
            return found
        time.sleep(0.1)


def _on_record(drill: Drill) -> float | None:
    """Seconds after the fault's end at which the store has every answer that was out by then."""
    missing = {answer.record_id for answer in list(drill.load.book.said) if answer.at <= drill.ended}
    store = drill.place.site.store
    after = 0
    try:
        while time.monotonic() < drill.ended + RECOVERY_S + 5:
            with contextlib.suppress(BlastwatchError):
                for item in store.predictions(after_seq=after):
                    after = item.seq
                    missing.discard(item.record.record_id)
            if not missing:
                return drill.since()
            time.sleep(0.1)
    finally:
        store.close()
    return None


def _judged(
    fault: Fault, drill: Drill, pictures: Pictures, normal_s: float, answers_s: float | None, records_s: float | None
) -> Outcome:
    site, book = drill.place, drill.load.book
    code = site.service.terminate()
    drill.must(code == 0, f"the service stopped with exit status {code}")
    left = list((site.site.root / "var/journal").glob("*/*.journal"))
    drill.must(not left, f"{len(left)} journal files were not shipped at the stop")
    try:
        ledger = site.site.ledger
        ledger.verify()
        ledger.close()
    except BlastwatchError as error:
        drill.problems.append(f"the ledger does not verify: {error}")
    truths = pictures.truths((answer.number for answer in book.said), (site.first, site.second))
    verdict = judge(book.said, everything(site), truths)
    problems = [*verdict.broken, *drill.problems]
    for what, seconds in (("answers", answers_s), ("records", records_s)):
        if seconds is None or seconds > RECOVERY_S:
            problems.append(f"{what} were not back within {RECOVERY_S:g} s")
    if fault.spotless and book.failed:
        problems.append(f"{len(book.failed)} calls of the retrying client failed, e.g. {book.failed[0].error}")
    elif book.failed:
        drill.note(f"first failure: {book.failed[0].error[:90]}")
    probe_failed = sum(not answered for _, _, answered in book.probes)
    return Outcome(
        fault.name,
        fault.what,
        requests=len(book.said) + len(book.failed) + probe_failed,
        failed=len(book.failed),
        probe_failed=probe_failed,
        verdict=verdict,
        answers_s=answers_s,
        records_s=records_s,
        normal_ms=1000 * normal_s,
        notes=tuple(drill.notes),
        problems=tuple(problems),
    )


def everything(site: Place) -> Iterator[StoredPrediction]:
    """Every record of the store, a page at a time."""
    store = site.site.store
    after = 0
    while page := store.predictions(after_seq=after, limit=_PAGE, include_test=True):
        yield from page
        after = page[-1].seq
    store.close()
