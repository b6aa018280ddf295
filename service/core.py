"""Classify, review, describe: all that a transport may call.

An answer leaves only when it is on record: pixels first (where they are kept), then the journal, then the reply. The
patient id becomes a pseudonym before anything else happens and goes nowhere.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType

from service.batching import Row
from service.contract.artifact import MODEL_CARD
from service.contract.decision import KILL_SWITCH, Decision, decide, referred_by_switch
from service.contract.errors import Conflict, DeadlineExceeded, NotReady, StoreUnavailable, TooLarge
from service.contract.predictor import Predictor
from service.contract.pseudonym import Key
from service.contract.records import PredictionRecord, record_id, utc_now
from service.domain import Answer, Cell, ModelInfo, Review, ReviewAnswer
from service.door import about, called, took
from service.intake import Intake, Prepared
from service.journal import Entry, Journal
from service.lookup import Lookup, Records
from service.metrics import Metrics
from service.rates import Rates
from service.recent import Flights, Recent
from service.registry import FieldChanged
from service.retention import Retention
from service.reviews import Reviews
from service.settings import Settings
from service.steering import Lane, LaneClosed, Steering
from service.turns import Turn, Turns
from service.unshipped import Unshipped


@dataclass(frozen=True)
class _Request:
    """A checked request; the cell in it has no patient id any more, only the pseudonym beside it."""

    cell: Cell
    patient: str
    transport: str
    client: str
    deadline: float
    lane: Lane
    turn: Turn

    @property
    def key(self) -> tuple[str, str]:
        """What the client means by "the same request"."""
        return self.client, self.cell.request_id


class Core:
    """The service without transports and without a process around it."""

    def __init__(
        self,
        settings: Settings,
        steering: Steering,
        turns: Turns,
        intake: Intake,
        journal: Journal,
        store: Records,
        retention: Retention,
        key: Key,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._steering = steering
        self._turns = turns
        self._rates = Rates(settings.client_rate, settings.client_burst)
        self._journal = journal
        self._store = store
        self._retention = retention
        self._key = key
        self._metrics = metrics
        self._lookup = Lookup(metrics)
        self._unshipped = Unshipped(settings.journal_dir)
        self._recent = Recent()
        self._flights = Flights()
        self._intake = intake
        self._reviews = Reviews(self._recent, self._lookup, store, journal, retention, metrics)

    def ready(self) -> bool:
        """Whether there is a model to answer with."""
        try:
            self._steering.production.current()
            self._steering.refers_all()
        except NotReady:
            return False
        return True

    def close(self) -> None:
        """Lets the threads go."""
        self._lookup.close()

    def model(self) -> ModelInfo:
        """The model that answers now. Raises NotReady."""
        return _described(self._steering.production.current())

    async def model_with_card(self) -> ModelInfo:
        """The same with its card. Raises NotReady, and ArtifactError when the card is gone from the model's folder."""
        predictor = self._steering.production.current()
        card = await asyncio.to_thread(predictor.artifact.read, MODEL_CARD)
        return replace(_described(predictor), card=card.decode())

    async def review(self, review: Review, *, client: str) -> ReviewAnswer:
        """Puts a reader's label on record; see `Reviews.take` for what it raises."""
        return await self._reviews.take(review, client=client)

    @contextlib.contextmanager
    def let_in(self, client: str, cells: int) -> Iterator[None]:
        """The time that a message of so many cells is in work. Raises Overloaded, RateLimited."""
        self._turns.let_in(client, cells)
        try:
            self._rates.spend(client, cells)
            yield
        finally:
            self._turns.let_out(cells)

    async def classify(
        self, cell: Cell, *, transport: str, client: str, deadline: float | None = None, canary: bool = True
    ) -> Answer:
        """Answers one cell. `deadline` is on time.monotonic(); without one `timeout_s` of the settings holds.

        canary: False for a caller that asks for the version in production by its name.

        Raises InvalidRequest, BadImage, TooLarge, Conflict (the request_id is taken by another image), Overloaded,
        RateLimited, NotReady, DeadlineExceeded, StoreUnavailable (what must be on record first could not be written).
        """
        with self.let_in(client, 1):
            return await self.classify_let_in(
                cell, transport=transport, client=client, deadline=deadline, canary=canary
            )

    async def classify_let_in(
        self, cell: Cell, *, transport: str, client: str, deadline: float | None = None, canary: bool = True
    ) -> Answer:
        """The same for a cell of a message that was let in (`let_in`) and is in work."""
        started = time.monotonic()
        cell.check()
        about(cell.request_id)
        if len(cell.image) > self._settings.max_message_bytes:
            raise TooLarge(f"the image is above {self._settings.max_message_bytes} bytes: send a smaller one or a crop")
        patient = self._key.pseudonym(cell.patient_id)
        until = started + self._settings.timeout_s if deadline is None else deadline
        async with _Until(until), self._turns.turn(client, until) as turn:
            steering = self._steering
            request = _Request(
                cell=replace(cell, patient_id=""),
                patient=patient,
                # Only now: the model may have been changed while the cell waited.
                lane=steering.lane(patient, cell.specimen_id) if canary else steering.production,
                transport=transport,
                client=client,
                deadline=until,
                turn=turn,
            )
            record = await (self._once(request) if cell.request_id else self._unnamed(request))
        about(record.request_id, record.record_id)
        self._metrics.stage_seconds.of("total").observe(time.monotonic() - started)
        # A retry may get a record from before the switch was thrown.
        return referred(answer_of(record)) if self._steering.refers_all() else answer_of(record)

    async def _unnamed(self, request: _Request) -> PredictionRecord:
        """A request without a name gets one, and cannot be recognised when it comes again."""
        request = replace(request, cell=replace(request.cell, request_id=uuid.uuid4().hex))
        called(request.cell.request_id)
        return await self._answered(request, await self._prepare(request))

    async def _once(self, request: _Request) -> PredictionRecord:
        """A named request: the record that it already has, else a new one that doubles share."""
        preparing = asyncio.ensure_future(self._prepare(request))
        try:
            waiting, stored = await self._on_record(request.key)
            prepared = await preparing
        finally:
            preparing.cancel()
        while True:
            joining = self._flights.check(request.key, prepared.pixels_sha256)
            remembered = self._recent.by_request(request.key)
            known = self._known(request, prepared, [*([remembered] if remembered else []), *stored, *waiting])
            if known is not None and not joining:
                if known is not remembered and known not in stored:
                    # Another worker's entry may not be durable yet, and its worker gone: it is on record here, too.
                    await self._journal.append([Entry.prediction(known)])
                    self._recent.add(known)
                return known
            try:
                return await self._flights.share(
                    request.key, prepared.pixels_sha256, lambda: self._answered(request, prepared)
                )
            except DeadlineExceeded:
                # The double that was joined had less time than this one has.
                if not joining or time.monotonic() >= request.deadline:
                    raise

    async def _on_record(self, key: tuple[str, str]) -> tuple[list[PredictionRecord], list[PredictionRecord]]:
        """What this host's journals, and what the store has under this name; the latter nothing while it is away."""

        def ask() -> tuple[list[PredictionRecord], list[PredictionRecord]]:
            # The journals first: what is shipped in between is in the store by then.
            waiting = self._unshipped.find(*key)
            return waiting, [found.record for found in self._store.by_request(*key)]

        try:
            return await self._lookup.ask(ask)
        except StoreUnavailable:
            return await asyncio.to_thread(self._unshipped.find, *key), []

    def _known(self, request: _Request, prepared: Prepared, records: list[PredictionRecord]) -> PredictionRecord | None:
        """The record of the same request by the model of now. Raises Conflict when one has other pixels."""
        if any(record.pixels_sha256 != prepared.pixels_sha256 for record in records):
            raise Conflict("another image was classified under this request_id: use a new one for a new image")
        wanted = record_id(*request.key, prepared.pixels_sha256, request.lane.current().version)
        return next((record for record in records if record.record_id == wanted), None)

    async def _prepare(self, request: _Request) -> Prepared:
        prepared = await self._intake.prepare(request.cell, request.lane.current().manifest.field, request.deadline)
        self._metrics.stage_seconds.of("decode").observe(prepared.seconds)
        took("decode", prepared.seconds)
        return prepared

    async def _answered(self, request: _Request, prepared: Prepared) -> PredictionRecord:
        """Computed and on record; prepared once more if the model was changed for one that sees another field."""
        try:
            return await self._compute(request, prepared)
        except LaneClosed:
            request = replace(request, lane=self._steering.production)
            return await self._answered(request, await self._prepare(request))
        except FieldChanged:
            return await self._compute(request, await self._prepare(request))

    async def _compute(self, request: _Request, prepared: Prepared) -> PredictionRecord:
        """Through the model and onto the record. Raises FieldChanged."""
        request.turn.at_model()
        row = await request.lane.submit(prepared.pixels, deadline=request.deadline, check=prepared.row_check)
        took("queue", row.queue_s, ago_s=row.compute_s)
        took("compute", row.compute_s)
        predictor = row.model
        if predictor.manifest.field != prepared.field:
            raise FieldChanged("the model was changed for one of another field: send the cell again")
        decision = decide(predictor.manifest, row.probabilities, float(row.ood_score), request.cell.pixel_size_um > 0)
        identity = record_id(*request.key, prepared.pixels_sha256, predictor.version)
        kept = self._retention.keeps(identity, refer=decision.refer, test=request.cell.test)
        if self._steering.refers_all():
            # Behind the choice of what is kept: keeping every cell's pixels is not what the switch asks for.
            decision = referred_by_switch(decision)
        saving = time.monotonic()
        if kept:
            await self._retention.save(prepared.pixels)
        seconds = {
            "decode": prepared.seconds,
            "queue": request.turn.waited_s + row.queue_s,
            "compute": row.compute_s,
            "keep": time.monotonic() - saving,
        }
        took("keep", seconds["keep"])
        record = _record(request, prepared, row, decision, predictor, identity, self._key.key_id, kept, seconds)
        appending = time.monotonic()
        await self._journal.append([Entry.prediction(record)])
        self._recent.add(record)
        journal = time.monotonic() - appending
        took("journal", journal)
        self._steering.shadowing.offer(record, request.cell, prepared)
        self._count(record, {**seconds, "journal": journal})
        return record

    def _count(self, record: PredictionRecord, seconds: dict[str, float]) -> None:
        for stage in ("queue", "compute", "keep", "journal"):
            self._metrics.stage_seconds.of(stage).observe(seconds[stage])
        self._metrics.batch_size.observe(record.batch_size)
        if not record.test:
            self._metrics.answered(
                label=record.label,
                refer=record.refer,
                site=record.site,
                stain=record.stain,
                scanner=record.scanner,
                client=record.client,
                version=record.model_version,
            )
            self._metrics.referred(record.refer_reasons, version=record.model_version)


class _Until:
    """Whatever is awaited inside is given up at the deadline, wherever it waits. Raises DeadlineExceeded."""

    def __init__(self, deadline: float) -> None:
        self._timeout = asyncio.timeout(deadline - time.monotonic())

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:  # its own; one from inside it would leave as it is
            raise DeadlineExceeded("the deadline passed before the answer was on record: allow more time") from None


def _described(predictor: Predictor) -> ModelInfo:
    manifest = predictor.manifest
    return ModelInfo(
        version=predictor.version,
        labels=manifest.labels,
        malignant=manifest.malignant,
        height=manifest.height,
        width=manifest.width,
        field_um=manifest.field_um,
        scale_known=manifest.scale_known,
        abstain=manifest.thresholds.abstain,
        ood=manifest.thresholds.ood,
        created=manifest.created,
        metrics=dict(manifest.metrics),
    )


def referred(answer: Answer) -> Answer:
    """The answer for a person to look at, with the kill switch among the reasons."""
    if KILL_SWITCH in answer.refer_reasons:
        return answer
    return replace(answer, refer=True, refer_reasons=(*answer.refer_reasons, KILL_SWITCH))


def answer_of(record: PredictionRecord) -> Answer:
    """What the caller gets to see of a record."""
    return Answer(
        record_id=record.record_id,
        request_id=record.request_id,
        image_sha256=record.image_sha256,
        pixels_sha256=record.pixels_sha256,
        label=record.label,
        probabilities=dict(record.probabilities),
        malignant_probability=record.malignant_probability,
        refer=record.refer,
        refer_reasons=record.refer_reasons,
        ood_score=record.ood_score,
        model_version=record.model_version,
    )


def _record(
    request: _Request,
    prepared: Prepared,
    row: Row[Predictor],
    decision: Decision,
    predictor: Predictor,
    identity: str,
    key_id: str,
    kept: bool,
    seconds: dict[str, float],
) -> PredictionRecord:
    cell = request.cell
    probabilities: list[float] = row.probabilities.tolist()
    return PredictionRecord(
        record_id=identity,
        time=utc_now(),
        request_id=cell.request_id,
        model_version=predictor.version,
        runtime=predictor.runtime_fingerprint,
        batch_size=row.batch_size,
        transport=request.transport,
        client=request.client,
        test=cell.test,
        site=cell.site,
        stain=cell.stain,
        scanner=cell.scanner,
        pixel_size_um=cell.pixel_size_um,
        patient=request.patient,
        key_id=key_id,
        specimen_id=cell.specimen_id,
        image_sha256=prepared.image_sha256,
        pixels_sha256=prepared.pixels_sha256,
        label=decision.label,
        probabilities=dict(zip(predictor.manifest.labels, probabilities, strict=True)),
        malignant_probability=decision.malignant_probability,
        refer=decision.refer,
        refer_reasons=decision.reasons,
        ood_score=float(row.ood_score),
        embedding=tuple(row.embedding.tolist()),
        statistics=prepared.statistics,
        latency_ms={stage: round(value * 1000, 3) for stage, value in seconds.items()},
        pixels_kept=kept,
    )
