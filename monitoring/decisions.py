"""Decisions on record in the ledger, each with all that it was made from.

A decision that says what the one before said is not another row: a quiet year is a handful of rows. Every single window
and decision is in the tables of monitoring/history.py.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from monitoring.given import BREAKER, Given
from monitoring.judge_settings import JudgeSettings
from monitoring.policy import Decision
from monitoring.verdict import JudgedWindow
from service.contract.ledger import Ledger, Row

DECISION: Final = "decision"
_Said = tuple[str, tuple[str, ...], str | None, str]


@dataclass(frozen=True)
class _Last:
    number: int | None
    said: _Said
    now: float


class DecisionLog:
    """The ledger's decisions. One writer a store: a second one would repeat what the first said."""

    def __init__(self, ledger: Ledger, judge: JudgeSettings) -> None:
        """Raises StoreUnavailable."""
        self._ledger = ledger
        self._judge = judge
        self._last: dict[str, _Last] = {}  # whose question → what was last said to it
        for row in ledger.rows(DECISION):
            self._last[row.body["by"]] = _Last(row.seq, _said(row.body), row.body["now"])

    def record(self, given: Given, decision: Decision, window: JudgedWindow | None = None) -> int | None:
        """Keep it, unless it repeats the one before or is the first and says that there is nothing to do.

        Returns the number of the ledger's row that says it, if one does. Raises StoreUnavailable.
        """
        # A page about another slice is news.
        said = (decision.kind, decision.causes, decision.blocked_by, decision.why if decision.kind == "page" else "")
        last = self._last.get(given.by, _Last(None, ("none", (), None, ""), 0.0))
        if last.said == said and given.by != BREAKER:
            return last.number
        body = given.to_json() | {
            "decision": decision.kind,
            "why": decision.why,
            "causes": list(decision.causes),
            "blocked_by": decision.blocked_by,
            "window": None if window is None else window.window_id,
            "cells": None if window is None else window.cells,
            "patients": None if window is None else window.patients,
            "settings_sha256": self._settings_hash(given),
        }
        row = self._ledger.append(DECISION, **body)
        self._last[given.by] = _Last(row.seq, said, given.now)
        return row.seq

    def told_of_breaker(self) -> float | None:
        """When it was last on record that the breaker opened, in seconds since the epoch."""
        last = self._last.get(BREAKER)
        return None if last is None else last.now

    def _settings_hash(self, given: Given) -> str:
        """Of every number that judging and deciding use, so that a reader sees that one was changed."""
        every = {"judge": self._judge.model_dump(), "policy": given.settings.model_dump()}
        return hashlib.sha256(json.dumps(every, sort_keys=True).encode()).hexdigest()


def decisions(ledger: Ledger) -> list[Row]:
    """The rows, oldest first. Raises StoreUnavailable."""
    return ledger.rows(DECISION)


def _said(body: dict[str, Any]) -> _Said:
    return (
        body["decision"],
        tuple(body["causes"]),
        body["blocked_by"],
        body["why"] if body["decision"] == "page" else "",
    )
