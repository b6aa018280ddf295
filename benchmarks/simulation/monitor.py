"""The monitor over a simulated hospital: its own windows, judge and policy, with nothing copied from them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np

from benchmarks.simulation.hospital import Cells, Floats, Integers
from benchmarks.simulation.traffic import Visit
from monitoring.judge import judge_arrays
from monitoring.judge_settings import JudgeSettings, PolicySettings
from monitoring.policy import Decision, PastWindow, PolicyState, Reviewed, decide, run_finished
from monitoring.window import WindowArrays
from service.contract.records import PredictionRecord, ReviewRecord
from service.contract.reference import Reference
from service.contract.store import StoredPrediction

VERSION = "simulated"
ABSTAIN = 0.7
PLENTY = Reviewed(cells=10**6, patients=10**4)
"""Reviews never hold a retraining back here: what is called for starts."""


@dataclass(frozen=True, eq=False)
class Closed:
    """A window: its arrays; of each cell [n] the true label, the person and the time; and when it closed."""

    arrays: WindowArrays
    label: Integers
    person: Integers
    time: Floats
    at: float


@dataclass(frozen=True, eq=False)
class Step:
    """A judged window and what was decided."""

    window: Closed
    decision: Decision


def windows(visits: Iterable[Visit], settings: JudgeSettings) -> Iterator[Closed]:
    """Cut as monitoring.window.tumble does: with the visit that makes it enough cells of enough patients.

    A window that gets too old before that says nothing, and is left out.
    """
    open_: list[Visit] = []
    for visit in visits:
        if open_ and visit.time > open_[0].time + settings.max_window_age_s:
            open_ = []
        open_.append(visit)
        cells, people = sum(len(one.cells) for one in open_), len({one.person for one in open_})
        if cells >= settings.min_cells and people >= settings.min_patients:
            yield _closed(open_)
            open_ = []


def _closed(visits: list[Visit]) -> Closed:
    parts: list[Cells] = [one.cells for one in visits]
    person = np.concatenate([np.full(len(one.cells), one.person) for one in visits])
    _, patient = np.unique(person, return_inverse=True)
    probabilities = np.concatenate([part.probabilities for part in parts])
    ood = np.concatenate([part.ood for part in parts])
    arrays = WindowArrays(
        np.concatenate([part.embedding for part in parts]),
        np.concatenate([part.statistics for part in parts]),
        probabilities,
        probabilities.argmax(axis=1),
        ood,
        ood | (probabilities.max(axis=1) < ABSTAIN),
        patient.astype(np.int64),
    )
    times = np.concatenate([np.full(len(one.cells), one.time) for one in visits])
    return Closed(arrays, np.concatenate([part.label for part in parts]), person, times, visits[-1].time)


def watch(
    visits: Iterable[Visit],
    reference: Reference,
    *,
    seed: int,
    reviewed_share: float,
    judging: JudgeSettings | None = None,
    policy: PolicySettings | None = None,
) -> Iterator[Step]:
    """Judge and decide, window after window. A share of the cells, drawn at random, is read by somebody.

    A retraining that starts is over at once and passes, and the model stays what it is: nothing that went wrong is
    mended, so that each further false one is counted as well.
    """
    judging, policy = judging or JudgeSettings(), policy or PolicySettings()
    labels = tuple(f"class {number}" for number in range(reference.classes))
    rng = np.random.default_rng([seed, 77])
    state, past = PolicyState(), list[PastWindow]()
    read: list[tuple[StoredPrediction, ReviewRecord]] = []
    recent: list[Closed] = []
    for number, window in enumerate(windows(visits, judging)):
        recent = [*recent[1 - judging.long_windows :], window]
        chosen = np.flatnonzero(rng.random(len(window.label)) < reviewed_share)
        read += [_review(window, int(cell), 10_000 * number + int(cell) + 1, labels) for cell in chosen]
        del read[: -judging.max_reviews]
        findings = judge_arrays(
            window.arrays,
            reference,
            judging,
            seed * 10**6 + number,
            labels=labels,
            reviewed=read,
            together=together(recent, judging),
        )
        closed = PastWindow(VERSION, window.at, tuple(findings))
        decision = decide(closed, past, state, policy, window.at, PLENTY)
        past = [*past[-99:], closed]
        state = decision.state
        if decision.kind == "retrain":
            state, recent = run_finished(state, "passed"), []
        yield Step(window, decision)


def together(recent: list[Closed], settings: JudgeSettings) -> WindowArrays:
    """The long view, as monitoring.long_window makes it: as many of the last windows as it needs."""
    for first in range(len(recent) - 1, -1, -1):
        person = np.concatenate([one.person for one in recent[first:]])
        if len(person) >= settings.long_cells and len(np.unique(person)) >= settings.long_patients:
            break
    parts = [one.arrays for one in recent[first:]]
    names = [item.name for item in fields(WindowArrays) if item.name != "patient"]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return WindowArrays(**columns, patient=np.unique(person, return_inverse=True)[1].astype(np.int64))


def _review(window: Closed, cell: int, seq: int, labels: tuple[str, ...]) -> tuple[StoredPrediction, ReviewRecord]:
    name = f"{seq:032x}"
    said = dict(zip(labels, window.arrays.probabilities[cell].tolist(), strict=True))
    record = PredictionRecord(
        record_id=name, time="", request_id="", model_version=VERSION, runtime="", batch_size=1, transport="",
        client="", test=False, site="", stain="", scanner="", pixel_size_um=0.0, patient=str(window.person[cell]),
        key_id="", specimen_id="", image_sha256="", pixels_sha256="", label=labels[window.arrays.predicted[cell]],
        probabilities=said, malignant_probability=0.0, refer=False, refer_reasons=(), ood_score=0.0, embedding=(),
        statistics={}, latency_ms={}, pixels_kept=True,
    )  # fmt: skip
    review = ReviewRecord(name, name, labels[window.label[cell]], "reader", "", "", sampled=True)
    return StoredPrediction(seq, record, disputed=False), review
