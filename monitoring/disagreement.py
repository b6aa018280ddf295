"""How often do two readers of the same cell differ? It is about the labels and not about the model. Pure.

Where readers do not agree with each other, that they do not agree with the model says nothing about the model: while
this is drift, what reviews say of its accuracy and calibration is `unknown` (`doubted`), and the policy starts no
retraining for them. It pages instead: somebody must bring the readers together (kappa by pair of readers: readers.py).

Only readings drawn at random count, of both readers: second readings that somebody asked for are of the hard cells.
Adjudicators are left out, for they know that others differed.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Final

import numpy as np

from monitoring import calibration, performance
from monitoring.findings import LONG, Finding, insufficient, judged
from monitoring.judge_settings import JudgeSettings
from monitoring.resampling import bootstrap_sums, percentile_interval, sum_by
from service.contract.reading import Read, is_adjudicator

NAME = "reviewer_disagreement"

_RESTING: Final = (performance.SAMPLED, calibration.NAME)
_SHOWN: Final = 5  # pairs of labels that are taken for each other, in the detail


def reviewer_disagreement(readings: Sequence[Read], settings: JudgeSettings, rng: np.random.Generator) -> Finding:
    """The share of doubly read cells whose readers differ; of more than two readers the share of their pairs.

    Of the latest `max_reviews` such cells with a patient, without test traffic and disputed answers. Drift when the
    interval, patients drawn anew, lies above `max_disagreement`.
    """
    most = settings.max_disagreement
    patient: list[str] = []
    shares: list[float] = []
    confused: dict[str, int] = {}
    for whose, labels in _twice(readings)[-settings.max_reviews :]:
        pairs = list(combinations(sorted(labels), 2))
        differing = [pair for pair in pairs if pair[0] != pair[1]]
        patient.append(whose)
        shares.append(len(differing) / len(pairs))
        for one, other in differing:
            confused[f"{one}, {other}"] = confused.get(f"{one}, {other}", 0) + 1
    cells, patients = len(shares), len(set(patient))
    if cells < settings.min_reviewed_cells or patients < settings.min_reviewed_patients:
        return insufficient(NAME, "performance", cells, patients, "too few cells read twice at random", most)
    number = {name: position for position, name in enumerate(dict.fromkeys(patient))}
    index = np.array([number[name] for name in patient], dtype=np.int64)
    drawn = bootstrap_sums(rng, sum_by(np.column_stack([shares, np.ones(cells)]), index), settings.bootstraps)
    interval = percentile_interval(drawn[:, 0] / drawn[:, 1], settings.confidence)
    often = sorted(confused.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
    return judged(
        NAME,
        "performance",
        severity=interval[0] / most,
        figure=float(np.mean(shares)),
        interval=interval,
        threshold=most,
        cells=cells,
        patients=patients,
        detail={"differ_most": dict(often)},
    )


def doubted(findings: list[Finding], readers: Finding) -> list[Finding]:
    """The findings, in their order; while `readers` is drift, those that rest on random reviews are `unknown`."""
    if not readers.out:
        return findings
    why = "readers of the same cells disagree with each other: bring them together first"
    return [
        replace(finding, state="unknown", severity=None, detail={**finding.detail, "why": why})
        if finding.judged and finding.name.removeprefix(LONG) in _RESTING
        else finding
        for finding in findings
    ]


def _twice(readings: Sequence[Read]) -> list[tuple[str, list[str]]]:
    """Patient, and what its readers called it, of each cell that two readers met by chance; in order of the answers."""
    found = []
    for stored, reading in sorted(readings, key=lambda read: read[0].seq):
        labels = [item.label for item in reading.readers if item.sampled and not is_adjudicator(item.role)]
        if len(labels) > 1 and stored.record.patient and not stored.record.test and not stored.disputed:
            found.append((stored.record.patient, labels))
    return found
