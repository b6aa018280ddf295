"""A slice that changed is found in a window that is quiet as a whole; what was planned is judged by itself."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from monitoring.findings import Finding
from monitoring.judge import FINDINGS, judge
from monitoring.judge_settings import JudgeSettings
from monitoring.planned import Entry
from monitoring.slices import choose, judge_slices
from monitoring.window import Window, WindowArrays
from service.contract.cells import Cells
from tests.support.worlds import LABELS, World

SETTINGS = JudgeSettings(bootstraps=100)
# No effect floors: what keeps quiet slices quiet must be the tests and their correction.
BARE = JudgeSettings(covariate_floor=0.0, label_floor=1e-6, bootstraps=100)
WORLD = World()
REFERENCE = WORLD.reference(np.random.default_rng(0), patients=48)
DAY_S = 86400.0

Names = Sequence[str] | npt.NDArray[Any]


def columns(cells: WindowArrays, *, days: Sequence[float] | None = None, **texts: Names) -> Cells:
    """The same cells as a store has them; `texts` a name a cell, `days` when each came."""

    def text(values: Names) -> npt.NDArray[np.object_]:
        column = np.empty(len(cells), dtype=np.object_)
        column[:] = [str(value) for value in values]
        return column

    nothing = [""] * len(cells)
    return Cells(
        seq=np.arange(1, len(cells) + 1),
        time=DAY_S * np.asarray(np.zeros(len(cells)) if days is None else days),
        patient=text([f"p{number}" if number >= 0 else "" for number in cells.patient]),
        **{name: text(texts.get(name, nothing)) for name in ("site", "stain", "scanner", "client")},
        label=text([LABELS[number] for number in cells.predicted]),
        refer=cells.refer,
        reasons=text(nothing),
        statistics=cells.statistics,
        probabilities=cells.probabilities[:, np.argsort(LABELS)],
        embedding=cells.embedding.astype(np.float32),
    )


def window(cells: WindowArrays, **given: Any) -> Window:
    return Window("a" * 32, 1, len(cells), 0.0, 1.0, True, columns(cells, **given))


def mixed(seed: int, *, patients: int = 60, changed: int = 12, change: float = 0.0) -> tuple[WindowArrays, list[str]]:
    """A window of which the first patients were seen by a scanner that moves embedding and statistics."""
    cells = WORLD.window(np.random.default_rng(seed), patients=patients, cells=10)
    mine = cells.patient < changed
    cells = replace(
        cells,
        embedding=cells.embedding + change * mine[:, None],
        statistics=cells.statistics + change * mine[:, None],
    )
    return cells, ["P250" if one else "P100" for one in mine]


def of(findings: Sequence[Finding], family: str) -> dict[str, Finding]:
    """{name and slice: finding}."""
    return {f"{item.name} {item.slice}": item for item in findings if item.family == family}


def entry(until_day: float = 30.0, value: str = "P250", what: str = "scanner") -> Entry:
    text = {"what": what, "value": value, "why": "a new scanner", "who": "laboratory management"}
    return Entry.model_validate(
        text | {"from": "1970-01-01T00:00:00Z", "until": f"1970-01-{1 + int(until_day):02}T00:00:00Z"}
    )


class TestChoice:
    def test_the_largest_first_and_none_that_is_too_small_or_has_no_name(self) -> None:
        cells = WORLD.window(np.random.default_rng(1), patients=40, cells=10)
        site = np.array(["A"] * 200 + ["B"] * 110 + ["C"] * 90)
        stain = np.array([""] * 250 + ["new"] * 150)
        client = [f"lis-{number % 2}" for number in range(400)]
        found = choose(columns(cells, site=site, stain=stain, client=client), cells, SETTINGS)
        assert [one.name for one in found] == ["site=A", "client=lis-0", "client=lis-1", "stain=new", "site=B"]
        assert [int(one.cells.sum()) for one in found] == [200, 200, 200, 150, 110]
        few = SETTINGS.model_copy(update={"max_slices": 2})
        assert len(choose(columns(cells, site=site, stain=stain, client=client), cells, few)) == 2

    def test_not_the_whole_window_and_no_cells_under_two_names(self) -> None:
        cells = WORLD.window(np.random.default_rng(1), patients=40, cells=10)
        site = np.array(["A"] * 250 + ["B"] * 150)
        scanner = np.where(site == "A", "P100", "P250")
        found = choose(columns(cells, site=site, scanner=scanner, stain=["same"] * 400), cells, SETTINGS)
        assert [(one.name, one.also) for one in found] == [
            ("site=A", ("scanner=P100",)),
            ("site=B", ("scanner=P250",)),
        ]

    def test_cells_without_a_patient_are_of_no_slice_and_few_patients_make_none(self) -> None:
        cells = WORLD.window(np.random.default_rng(1), patients=20, cells=20)
        site = np.array(["A"] * 140 + ["B"] * 260)
        assert [one.name for one in choose(columns(cells, site=site), cells, SETTINGS)] == ["site=B"]  # A: 7 patients
        nobody = replace(cells, patient=np.where(site == "B", -1, cells.patient))
        assert choose(columns(nobody, site=site), nobody, SETTINGS) == []


class TestJudging:
    def test_a_slice_that_changed_is_found_though_the_window_is_quiet(self) -> None:
        cells, scanner = mixed(2, change=2.0)
        findings = judge(window(cells, scanner=scanner), REFERENCE, SETTINGS, 7, labels=LABELS)
        assert tuple((item.name, item.family) for item in findings[: len(FINDINGS)]) == FINDINGS
        assert not any(item.out for item in findings[: len(FINDINGS)])
        found = of(findings, "slice")
        assert list(found) == [
            "slice_embedding scanner=P100",
            "slice_label_shift scanner=P100",
            "slice_embedding scanner=P250",
            "slice_label_shift scanner=P250",
        ]
        assert [name for name, item in found.items() if item.out] == ["slice_embedding scanner=P250"]
        changed = found["slice_embedding scanner=P250"]
        assert (changed.cells, changed.patients, changed.threshold) == (120, 12, 1.0)
        assert changed.figure is not None
        assert changed.interval is not None
        assert 1.0 < changed.interval[0] < changed.figure < changed.interval[1]
        assert changed.detail["change_in_patient_sd"]["brightness"] > 1
        # Its answers do not tell its shares any more; the other scanner's do.
        assert found["slice_label_shift scanner=P250"].state == "unknown"
        assert found["slice_label_shift scanner=P100"].state == "ok"

    def test_another_case_mix_of_one_site_is_found_by_the_other_question(self) -> None:
        rng = np.random.default_rng(3)
        here, there = WORLD.window(rng, patients=60), WORLD.window(rng, patients=24, shares=(0.05, 0.05, 0.87, 0.03))
        both = WindowArrays(
            *(
                np.concatenate([getattr(here, name), getattr(there, name) + 60 * (name == "patient")])
                for name in ("embedding", "statistics", "probabilities", "predicted", "ood", "refer", "patient")
            )
        )
        site = ["A"] * len(here) + ["B"] * len(there)
        found = of(judge(window(both, site=site), REFERENCE, SETTINGS, 7, labels=LABELS), "slice")
        assert [name for name, item in found.items() if item.out] == ["slice_label_shift site=B"]
        assert found["slice_label_shift site=B"].detail["class"] == "L2"

    def test_the_same_seed_gives_the_same_findings_whatever_else_is_judged(self) -> None:
        cells, scanner = mixed(2)
        site = np.where(cells.patient % 2 == 0, "A", "B")
        one = judge(window(cells, scanner=scanner), REFERENCE, SETTINGS, 7, labels=LABELS)
        assert judge(window(cells, scanner=scanner), REFERENCE, SETTINGS, 7, labels=LABELS) == one
        more = judge(window(cells, scanner=scanner, site=site), REFERENCE, SETTINGS, 7, labels=LABELS)
        name = "slice_embedding scanner=P250"
        first, second = of(one, "slice")[name], of(more, "slice")[name]
        assert (first.figure, first.cells) == (second.figure, second.cells)
        assert first.detail["p"] <= first.detail["p_adjusted"]

    def test_quiet_slices_stay_quiet_because_their_number_is_corrected_for(self) -> None:
        """Eight slices a window: of quiet windows about q have a false finding, and many would without correction."""
        windows = 60
        false = uncorrected = 0
        world = World(size=8)
        for seed in range(windows):
            rng = np.random.default_rng([2025, seed])
            reference, cells = world.reference(rng, patients=32, cells=10), world.window(rng, patients=64, cells=13)
            given = columns(cells, site=[f"s{number % 8}" for number in cells.patient])
            slices = choose(given, cells, BARE)
            assert len(slices) == 8
            findings = judge_slices(slices, cells, reference, BARE, seed, LABELS)
            false += any(item.out for item in findings)
            uncorrected += any(item.detail.get("p", 1.0) <= BARE.q for item in findings)
        bound = stats.binom.ppf(0.99, windows, BARE.q)
        assert false <= bound
        assert uncorrected > bound


class TestPlanned:
    def test_a_planned_scanner_raises_nothing_and_an_unplanned_one_does(self) -> None:
        cells, scanner = mixed(4, patients=60, changed=24, change=3.0)
        here = window(cells, scanner=scanner)
        unplanned = judge(here, REFERENCE, SETTINGS, 7, labels=LABELS)
        assert of(unplanned, "covariate")["embedding "].out
        assert of(unplanned, "slice")["slice_embedding scanner=P250"].out

        findings = judge(here, REFERENCE, SETTINGS, 7, labels=LABELS, planned=[entry()])
        assert not any(item.out for item in findings if item.family != "planned")
        whole = [item for item in findings if not item.long]
        assert {item.state for item in whole if item.family in ("covariate", "label_shift", "imbalance")} == {"ok"}
        assert of(findings, "slice") == {}  # what is left is one scanner's
        planned = of(findings, "planned")
        assert planned["slice_embedding scanner=P250"].out
        assert planned["slice_embedding scanner=P250"].detail["planned"] == [entry().to_json()]
        embedding = of(findings, "covariate")["embedding "]
        assert (embedding.cells, embedding.patients) == (360, 36)
        assert embedding.detail["left_out"] == "scanner=P250 (240 cells)"
        assert of(findings, "quality")["share_referred "].cells == 600  # service quality is of everything

    def test_the_long_view_is_without_it_too(self) -> None:
        cells, scanner = mixed(4, patients=60, changed=24, change=3.0)
        here = window(cells, scanner=scanner)
        settings = SETTINGS.model_copy(update={"long_cells": 300, "long_patients": 30})
        for together in (None, here):
            found = [
                of(judge(here, REFERENCE, settings, 7, labels=LABELS, planned=what, together=together), "covariate")
                for what in ([], [entry()])
            ]
            assert [one["long_unlike_patients "].state for one in found] == ["drift", "ok"]
            assert [one["long_unlike_patients "].patients for one in found] == [60, 36]

    def test_after_its_end_it_is_planned_no_more(self) -> None:
        cells, scanner = mixed(4, patients=60, changed=24, change=3.0)
        late = window(cells, scanner=scanner, days=[10.0] * len(cells))
        assert judge(late, REFERENCE, SETTINGS, 7, labels=LABELS, planned=[entry(10.0)]) == judge(
            late, REFERENCE, SETTINGS, 7, labels=LABELS
        )
        half = window(cells, scanner=scanner, days=np.where(cells.patient % 2 == 0, 9.0, 11.0).tolist())
        findings = judge(half, REFERENCE, SETTINGS, 7, labels=LABELS, planned=[entry(10.0)])
        assert of(findings, "planned")["slice_embedding scanner=P250"].cells == 120
        assert of(findings, "slice")["slice_embedding scanner=P250"].out

    def test_few_cells_of_it_are_insufficient_and_few_beside_it_leave_the_whole_so(self) -> None:
        cells, scanner = mixed(5, patients=20, changed=4)
        findings = judge(window(cells, scanner=scanner), REFERENCE, SETTINGS, 7, labels=LABELS, planned=[entry()])
        assert {item.state for item in of(findings, "planned").values()} == {"insufficient"}
        assert of(findings, "covariate")["embedding "].state == "ok"

        cells, scanner = mixed(5, patients=20, changed=15)
        findings = judge(window(cells, scanner=scanner), REFERENCE, SETTINGS, 7, labels=LABELS, planned=[entry()])
        for item in findings:
            whole = item.family in ("covariate", "label_shift", "imbalance") and not item.long
            if whole or item.name == "estimated_accuracy":
                assert (item.state, item.cells, item.patients) == ("insufficient", 50, 5)
                assert item.detail["why"].endswith("besides what is planned: scanner=P250 (150 cells)")
        assert of(findings, "quality")["share_referred "].state == "ok"
        assert of(findings, "slice") == {}
        assert of(findings, "planned")["slice_embedding scanner=P250"].state == "ok"

    def test_a_verdict_is_made_again_from_the_entries_on_record(self) -> None:
        cells, scanner = mixed(4, changed=24, change=3.0)
        site = np.where(cells.patient % 3 == 0, "A", "B")
        here = window(cells, scanner=scanner, site=site)
        calendar = [entry(), entry(value="A", what="site"), entry(20.0), entry(value="not there")]
        once = judge(here, REFERENCE, SETTINGS, 7, labels=LABELS, planned=calendar)
        kept = [
            Entry.model_validate(one)
            for item in once
            if item.family == "planned" and item.name == "slice_embedding"
            for one in item.detail["planned"]
        ]
        assert len(kept) == 3
        assert judge(here, REFERENCE, SETTINGS, 7, labels=LABELS, planned=kept) == once


@pytest.mark.parametrize("planned", [(), (entry(),)])
def test_a_window_that_expired_has_no_slices(planned: tuple[Entry, ...]) -> None:
    cells, scanner = mixed(2)
    expired = replace(window(cells, scanner=scanner), complete=False)
    findings = judge(expired, REFERENCE, SETTINGS, 7, labels=LABELS, planned=planned)
    assert tuple((item.name, item.family) for item in findings) == FINDINGS
