"""The slices of a window: one site, stain, scanner or client against the reference; and what a calendar announced.

A scanner that changed among many is lost in the window as a whole. Each slice is asked two questions: are its cells
what they were (covariate shift of the embedding, drift.py), and is its case mix (shift.py)? All slices × questions of
a window are one family of Benjamini and Hochberg's, so that a window with many slices has no more false findings than
one with few. Slices are chosen by size alone: which of them looks odd has no hand in it.

What the calendar covers (planned.py) is a slice whatever its size, in a family of its own, and is left out of what is
said of the window as a whole.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from monitoring import drift, shift
from monitoring.evidence import evidence
from monitoring.findings import Family, Finding, insufficient, judged
from monitoring.judge_settings import JudgeSettings
from monitoring.performance import ESTIMATED
from monitoring.planned import WHAT, Entry
from monitoring.resampling import benjamini_hochberg
from monitoring.window import NO_PATIENT, WindowArrays
from service.contract.cells import Cells
from service.contract.reference import Reference
from service.contract.statistics import STATISTICS

EMBEDDING, LABEL_SHIFT = "slice_embedding", "slice_label_shift"
NAMES: Final = (EMBEDDING, LABEL_SHIFT)

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Slice:
    """Some cells of a window.

    name     e.g. "scanner=P250"
    cells    [n], which of the window's
    also     other names of exactly these cells
    planned  the calendar's entries that cover them
    """

    name: str
    cells: Flags
    also: tuple[str, ...] = ()
    planned: tuple[Entry, ...] = ()

    @property
    def family(self) -> Family:
        """A planned change is no finding against the window."""
        return "planned" if self.planned else "slice"


def announced(columns: Cells, entries: Sequence[Entry]) -> list[Slice]:
    """What the calendar says of these cells: a slice a name, in the order of the entries; none without cells."""
    found: dict[str, Slice] = {}
    for entry in entries:
        cells = entry.covers(columns)
        if cells.any():
            one = found.get(entry.name, Slice(entry.name, np.zeros_like(cells)))
            found[entry.name] = replace(one, cells=one.cells | cells, planned=(*one.planned, entry))
    return list(found.values())


def without(cells: WindowArrays, apart: Sequence[Slice], settings: JudgeSettings) -> WindowArrays:
    """The window's cells [n] as its findings as a whole see them: what is planned has no patient any more.

    Nobody has one where too few cells are left, so that every finding is insufficient.
    """
    if not apart:
        return cells
    rest = only(cells, ~np.any([one.cells for one in apart], axis=0))
    few = (rest.patient != NO_PATIENT).sum() < settings.slice_min_cells or rest.patients < settings.min_patients
    return only(rest, np.zeros(len(rest), dtype=np.bool_)) if few else rest


def explained(findings: Sequence[Finding], cells: WindowArrays, apart: Sequence[Slice]) -> list[Finding]:
    """The findings of a window as a whole, with what was left out of the window's cells for them.

    Service quality and reviews are of everything.
    """
    if not apart:
        return list(findings)
    left = only(cells, ~np.any([one.cells for one in apart], axis=0)).with_patient()
    names = ", ".join(f"{one.name} ({int(one.cells.sum())} cells)" for one in apart)
    why = f"too few cells or patients besides what is planned: {names}"

    def told(finding: Finding) -> Finding:
        whole = finding.family in ("label_shift", "covariate", "imbalance") and not finding.long
        if not whole and finding.name != ESTIMATED:
            return finding
        if finding.state != "insufficient":
            return replace(finding, detail={**finding.detail, "left_out": names})
        return replace(finding, cells=len(left), patients=left.patients, detail={"why": why})

    return [told(finding) for finding in findings]


def only(cells: WindowArrays, chosen: Flags) -> WindowArrays:
    """All cells, of which the tests see the chosen [n] alone: those without a patient enter none. Nothing is copied."""
    return replace(cells, patient=np.where(chosen, cells.patient, NO_PATIENT))


def choose(columns: Cells, cells: WindowArrays, settings: JudgeSettings) -> list[Slice]:
    """The largest slices of the cells that have a patient.

    Large enough to be judged, not all of these cells, and no cells under two names.
    """
    usable = cells.patient != NO_PATIENT
    total = int(usable.sum())
    sizes = [
        (-number, place, value)
        for place, what in enumerate(WHAT)
        for value, number in Counter(getattr(columns, what)[usable].tolist()).items()
        if value and settings.slice_min_cells <= number < total
    ]
    found: list[Slice] = []
    for _, place, value in sorted(sizes):
        chosen = np.asarray(usable & (getattr(columns, WHAT[place]) == value), dtype=np.bool_)
        name = f"{WHAT[place]}={value}"
        same = next((number for number, one in enumerate(found) if np.array_equal(one.cells, chosen)), None)
        if same is not None:
            found[same] = replace(found[same], also=(*found[same].also, name))
        elif only(cells, chosen).patients >= settings.slice_min_patients:
            if len(found) == settings.max_slices:
                break
            found.append(Slice(name, chosen))
    return found


def judge_slices(
    slices: Sequence[Slice],
    cells: WindowArrays,
    reference: Reference,
    settings: JudgeSettings,
    seed: int,
    labels: Sequence[str],
) -> list[Finding]:
    """Slices of a window → findings named NAMES for each, one family of hypotheses.

    figure, interval, threshold as of the same question about a whole window; an interval is of its slice alone. A slice
    with too few cells or patients is insufficient. Each draws from a stream of its own, whichever else are judged.
    """
    # As many permutations for each of these hypotheses as a family of them needs.
    share = max(1.0, len(slices) * len(NAMES) / len(drift.NAMES))
    needed = int(np.ceil(settings.permutations_per_hypothesis * share))
    alone = settings.model_copy(
        update={"min_patients": settings.slice_min_patients, "permutations_per_hypothesis": needed}
    )
    found = [finding for one in slices for finding in _asked(one, cells, reference, alone, seed, labels)]
    p = np.array([finding.detail["p"] for finding in found if finding.judged])
    adjusted = iter(benjamini_hochberg(p).tolist())
    corrected = [_corrected(finding, next(adjusted), settings) if finding.judged else finding for finding in found]
    changed = {finding.slice for finding in corrected if finding.name == EMBEDDING and finding.out}
    why = "the cells themselves changed, so that the answers no longer tell their shares"
    return [
        replace(finding, state="unknown", severity=None, detail={**finding.detail, "why": why})
        if finding.name == LABEL_SHIFT and finding.judged and finding.slice in changed
        else finding
        for finding in corrected
    ]


def _asked(
    one: Slice,
    cells: WindowArrays,
    reference: Reference,
    settings: JudgeSettings,
    seed: int,
    labels: Sequence[str],
) -> list[Finding]:
    """Both questions about one slice, as if nothing else were asked."""
    mine = only(cells, one.cells)
    size, patients = int((mine.patient != NO_PATIENT).sum()), mine.patients
    about: dict[str, object] = {"also": list(one.also)} if one.also else {}
    if one.planned:
        about["planned"] = [entry.to_json() for entry in one.planned]
    if size < settings.slice_min_cells or patients < settings.slice_min_patients:
        few = [insufficient(name, one.family, size, patients, "too few cells or patients") for name in NAMES]
        return [replace(finding, slice=one.name, detail={**finding.detail, **about}) for finding in few]
    rng = np.random.default_rng([seed, zlib.crc32(one.name.encode()), 1])
    answers = replace(mine, embedding=mine.embedding[:, :0])
    label, shares = shift.label_shift(answers, reference, settings, rng, labels)
    covariate = {item.name: item for item in drift.covariate(mine, reference, label, shares, settings, rng)}
    embedding = covariate[drift.EMBEDDING]
    looks = {
        name: round(covariate[name].detail["change"] / max(covariate[name].detail["patient_sd"], 1e-12), 2)
        for name in STATISTICS
        if covariate[name].judged
    }
    embedding = replace(embedding, detail={**embedding.detail, "change_in_patient_sd": looks})
    return [
        replace(finding, name=name, family=one.family, slice=one.name, detail={**finding.detail, **about})
        for name, finding in zip(NAMES, (embedding, label), strict=True)
    ]


def _corrected(finding: Finding, adjusted: float, settings: JudgeSettings) -> Finding:
    """The same effect, with the evidence that is left of it among all that was asked."""
    assert finding.figure is not None  # noqa: S101  (of a finding that was judged)
    sure = evidence(adjusted, settings.q)
    floor = finding.threshold or 0.0
    effect = finding.figure / floor if floor > 0 else sure
    return replace(
        judged(
            finding.name,
            finding.family,
            severity=min(effect, sure),
            figure=finding.figure,
            interval=finding.interval,
            threshold=floor,
            cells=finding.cells,
            patients=finding.patients,
            detail={**finding.detail, "p_adjusted": adjusted},
        ),
        slice=finding.slice,
    )
