"""Alerts that ask for a retraining: Alertmanager's message → the door that everybody uses → an answer on record.

An alert asks when it fires and carries the label `action: retrain`. Alertmanager sends a firing group again and again;
an alert that started a retraining starts no second one for as long as it fires, one that was refused is tried again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, Field, ValidationError

from monitoring.reviews import unused
from monitoring.runs import used_until
from monitoring.site import Site
from monitoring.trigger import Reason
from service.contract.errors import Conflict, InvalidRequest
from service.contract.reading import asked_for

ANSWERED: Final = "alert_answered"
BY: Final = "alertmanager"
LABEL, RETRAIN = "action", "retrain"
LONGEST = 200
Outcome = Literal["started", "refused", "repeated", "ignored"]


@dataclass(frozen=True)
class Alert:
    """An alert that asks for a retraining; `key` is the same for as long as it fires."""

    name: str
    key: str
    summary: str


@dataclass(frozen=True)
class Answer:
    """What became of it: `why` it was refused, or the `run` that it started, now or before."""

    outcome: Outcome
    why: str = ""
    run: str = ""


class _Alert(BaseModel):
    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    starts_at: str = Field(alias="startsAt", min_length=1, max_length=64)
    fingerprint: str = Field(min_length=1, max_length=64)


class _Message(BaseModel):
    version: Literal["4"]
    alerts: list[_Alert]


def asking(body: bytes) -> list[Alert]:
    """Those alerts of a message (Alertmanager's webhook, version 4) that ask for a retraining.

    Raises InvalidRequest with one line for anything else than such a message.
    """
    try:
        message = _Message.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise InvalidRequest(f"not a message of Alertmanager's webhook, version 4: {where}: {first['msg']}") from None
    return [
        Alert(
            name=alert.labels.get("alertname", "")[:LONGEST],
            key=f"{alert.fingerprint} {alert.starts_at}",
            summary=alert.annotations.get("summary", "")[:LONGEST],
        )
        for alert in message.alerts
        if alert.status == "firing" and alert.labels.get(LABEL) == RETRAIN
    ]


def answer(site: Site, alerts: Sequence[Alert]) -> Answer:
    """Ask the door for one retraining on behalf of these alerts, and put the outcome on record.

    Raises StoreUnavailable when store or ledger cannot be reached: Alertmanager then asks again.
    """
    before = [row.body for row in site.ledger.rows(ANSWERED)]
    started = {key: str(body["run"]) for body in before if body["outcome"] == "started" for key in body["alerts"]}
    new = [alert for alert in alerts if alert.key not in started]
    if not alerts:
        return Answer("ignored", "no alert that fires asks for a retraining")
    if not new:
        return Answer("repeated", "these alerts have started one", started[alerts[0].key])
    found = _ask(site, new)
    keys = sorted(alert.key for alert in new)
    last = next((body for body in reversed(before) if body["alerts"] == keys), None)
    if found.outcome == "started" or last is None or last["why"] != found.why:
        names = sorted({alert.name for alert in new})
        site.ledger.append(ANSWERED, outcome=found.outcome, why=found.why, run=found.run, names=names, alerts=keys)
    return found


def _ask(site: Site, alerts: Sequence[Alert]) -> Answer:
    names = sorted({alert.name for alert in alerts})
    said = "; ".join(dict.fromkeys(alert.summary for alert in alerts if alert.summary))
    why = f"{', '.join(names)} fired" + (f": {said}" if said else "")
    rows = site.ledger.rows()
    reviewed = unused(site.store, site.pixels, used_until(rows), asked_for(rows))
    try:
        run = site.trigger.fire(Reason(why, by=BY, causes=tuple(names)), reviewed)
    except Conflict as error:
        return Answer("refused", str(error))
    if run is None:
        return Answer("refused", "BLASTWATCH_MONITOR_TRIGGER is none: start it by hand, or set it to alerts")
    return Answer("started", run=run)
