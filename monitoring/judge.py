"""A window against its model's reference → findings. Deterministic by seed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from monitoring import (
    calibration,
    disagreement,
    drift,
    imbalance,
    long_view,
    performance,
    picture_quality,
    shift,
    slices,
)
from monitoring.findings import Family, Finding, insufficient
from monitoring.judge_settings import JudgeSettings
from monitoring.planned import Entry
from monitoring.window import Window, WindowArrays, arrays
from service.contract.reading import Read
from service.contract.records import ReviewRecord
from service.contract.reference import Reference
from service.contract.store import StoredPrediction

_FAMILIES: Final[tuple[tuple[Family, tuple[str, ...]], ...]] = (
    ("label_shift", (shift.NAME,)),
    ("covariate", drift.NAMES),
    ("imbalance", imbalance.NAMES),
    (
        "performance",
        (performance.SAMPLED, performance.REQUESTED, performance.ESTIMATED, calibration.NAME, disagreement.NAME),
    ),
    ("quality", (*performance.QUALITY, *picture_quality.NAMES)),
)
FINDINGS: Final[tuple[tuple[str, Family], ...]] = (
    *((name, family) for family, names in _FAMILIES for name in names),
    *long_view.NAMES,
)
"""Every finding of a window as a whole, in their order: always all of them, whatever their state. Those of slices
follow."""


def judge(
    window: Window,
    reference: Reference,
    settings: JudgeSettings,
    seed: int,
    *,
    labels: Sequence[str],
    reviewed: Sequence[tuple[StoredPrediction, ReviewRecord]] = (),
    readings: Sequence[Read] = (),
    together: Window | None = None,
    planned: Sequence[Entry] = (),
) -> list[Finding]:
    """Judge a window of the model whose manifest has these `labels`; `reviewed` are reviews of that model's answers,
    `readings` all that readers said of them, whether they agree or not.

    `together` is the long view: the last windows and this one as one; without any the window itself is.
    The findings named FINDINGS, then those of slices: first of what is `planned`, then of the largest others. A window
    that expired is insufficient in everything, whatever it holds: it is never ok and never drift.
    Raises ValueError for cells or a reference that do not fit the labels.
    """
    cells = arrays(window, labels)
    if not window.complete:
        why = "the window expired before it had enough cells of enough patients"
        return [insufficient(name, family, len(cells), cells.patients, why) for name, family in FINDINGS]
    apart = slices.announced(window.columns, planned)
    rest = slices.without(cells, apart, settings)
    whole = judge_arrays(
        rest,
        reference,
        settings,
        seed,
        labels=labels,
        reviewed=reviewed,
        readings=readings,
        together=None if together is None else _unplanned(together, labels, planned, settings),
        everything=cells,
    )
    others = slices.choose(window.columns, rest, settings)
    return [
        *slices.explained(whole, cells, apart),
        *slices.judge_slices(apart, cells, reference, settings, seed, labels),
        *slices.judge_slices(others, cells, reference, settings, seed, labels),
    ]


def _unplanned(
    window: Window, labels: Sequence[str], planned: Sequence[Entry], settings: JudgeSettings
) -> WindowArrays:
    return slices.without(arrays(window, labels), slices.announced(window.columns, planned), settings)


def judge_arrays(
    cells: WindowArrays,
    reference: Reference,
    settings: JudgeSettings,
    seed: int,
    *,
    labels: Sequence[str],
    reviewed: Sequence[tuple[StoredPrediction, ReviewRecord]] = (),
    readings: Sequence[Read] = (),
    together: WindowArrays | None = None,
    everything: WindowArrays | None = None,
) -> list[Finding]:
    """The same for a window's arrays as a whole; `seed` ≥ 0. Each family draws from a stream of its own.

    `everything`: the cells that service quality is of, where `cells` are without some of them.
    """
    if len(labels) != reference.classes or cells.embedding.shape[1] != reference.embedding.shape[1]:
        raise ValueError("window, labels and reference are not of the same model")
    streams = [np.random.default_rng([seed, number]) for number in range(len(_FAMILIES) + 7)]
    # For those who take some of the cells: of the embedding they would only make a copy.
    answers = replace(cells, embedding=cells.embedding[:, :0])
    served = answers if everything is None else replace(everything, embedding=answers.embedding)
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
    readers = disagreement.reviewer_disagreement(readings, settings, streams[10])
    findings = [
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
        calibration.reviewed_calibration(
            performance.reviews(reviewed, labels, sampled=True, most=settings.max_reviews),
            reference,
            settings,
            streams[9],
        ),
        readers,
        *performance.service_quality(served, settings, streams[6]),
        *picture_quality.picture_quality(answers, reference, settings, streams[11]),
        *long_view.long_view(
            cells if together is None else together,
            reference,
            settings,
            streams[7],
            labels,
            (label, covariate) if together is None else None,
        ),
        long_view.performance_now(reviewed, reference, settings, streams[8], labels),
    ]
    return disagreement.doubted(findings, readers)
