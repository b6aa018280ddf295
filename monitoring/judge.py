"""A window against its model's reference → findings. Deterministic by seed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from monitoring import drift, imbalance, performance, shift
from monitoring.findings import Family, Finding, insufficient
from monitoring.judge_settings import JudgeSettings
from monitoring.window import Window, WindowArrays, arrays
from service.contract.records import ReviewRecord
from service.contract.reference import Reference
from service.contract.store import StoredPrediction

_FAMILIES: Final[tuple[tuple[Family, tuple[str, ...]], ...]] = (
    ("label_shift", (shift.NAME,)),
    ("covariate", drift.NAMES),
    ("imbalance", imbalance.NAMES),
    ("performance", (performance.SAMPLED, performance.REQUESTED, performance.ESTIMATED)),
    ("quality", performance.QUALITY),
)
FINDINGS: Final[tuple[tuple[str, Family], ...]] = tuple((name, family) for family, names in _FAMILIES for name in names)
"""Every finding that `judge` gives, in its order: always all of them, whatever their state."""


def judge(
    window: Window,
    reference: Reference,
    settings: JudgeSettings,
    seed: int,
    *,
    labels: Sequence[str],
    reviewed: Sequence[tuple[StoredPrediction, ReviewRecord]] = (),
) -> list[Finding]:
    """Judge a window of the model whose manifest has these `labels`; `reviewed` are reviews of that model's answers.

    A window that expired is insufficient in everything, whatever it holds: it is never ok and never drift.
    Raises ValueError for cells or a reference that do not fit the labels.
    """
    cells = arrays(window, labels)
    if not window.complete:
        why = "the window expired before it had enough cells of enough patients"
        return [insufficient(name, family, len(cells), cells.patients, why) for name, family in FINDINGS]
    return judge_arrays(cells, reference, settings, seed, labels=labels, reviewed=reviewed)


def judge_arrays(
    cells: WindowArrays,
    reference: Reference,
    settings: JudgeSettings,
    seed: int,
    *,
    labels: Sequence[str],
    reviewed: Sequence[tuple[StoredPrediction, ReviewRecord]] = (),
) -> list[Finding]:
    """The same for a window's arrays; `seed` ≥ 0. Each family draws from a stream of its own."""
    if len(labels) != reference.classes or cells.embedding.shape[1] != reference.embedding.shape[1]:
        raise ValueError("window, labels and reference are not of the same model")
    streams = [np.random.default_rng([seed, number]) for number in range(len(_FAMILIES) + 2)]
    # For those who take some of the cells: of the embedding they would only make a copy.
    answers = replace(cells, embedding=cells.embedding[:, :0])
    label, shares = shift.label_shift(answers, reference, settings, streams[0], labels)
    covariate = drift.covariate(cells, reference, label, shares, settings, streams[1])
    if label.judged and any(finding.out for finding in covariate):
        # Shares follow from answers only while the cells of a class are what they were.
        why = "the cells themselves changed, so that the answers no longer tell their shares"
        label = replace(label, state="unknown", severity=None, detail={**label.detail, "why": why})
    shifted = "; ".join(
        word
        for word, holds in (
            ("the case mix changed or is unknown", label.state != "ok"),
            ("the cells changed or may have", any(finding.state in ("drift", "unknown") for finding in covariate)),
        )
        if holds
    )
    return [
        label,
        *covariate,
        *imbalance.imbalance(answers, reference, settings, streams[2], labels),
        *(
            performance.reviewed_performance(
                performance.reviews(reviewed, labels, sampled=sampled, most=settings.max_reviews),
                reference,
                settings,
                stream,
                labels,
                sampled=sampled,
            )
            for sampled, stream in ((True, streams[3]), (False, streams[4]))
        ),
        performance.estimated_accuracy(answers, reference, settings, streams[5], shifted=shifted),
        *performance.service_quality(answers, settings, streams[6]),
    ]
