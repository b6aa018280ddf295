"""Quiet windows stay quiet: false findings within the binomial bound of q, and only because patients are resampled."""

from collections import Counter
from dataclasses import replace

import numpy as np
from scipy import stats

from monitoring.findings import Family
from monitoring.judge import judge_arrays
from monitoring.judge_settings import JudgeSettings
from monitoring.shift import label_shift
from monitoring.window import WindowArrays
from service.contract.reference import Reference
from tests.support.worlds import LABELS, World

# No effect floors: the tests themselves must keep their level. With the floors on there can only be fewer findings.
BARE = JudgeSettings(covariate_floor=0.0, label_floor=1e-6, bootstraps=200)
TESTED: tuple[Family, ...] = ("covariate", "label_shift")
WORLD = World(size=8)


def cells_for_patients(window: WindowArrays, reference: Reference) -> tuple[WindowArrays, Reference]:
    """The mutant: every cell its own patient, so that whatever draws patients draws cells."""
    return (
        replace(window, patient=np.arange(len(window))),
        replace(reference, patient=np.arange(len(reference.label))),
    )


def windows_with_false_findings(windows: int, *, mutant: bool = False) -> Counter[Family]:
    """Of seeded null windows, each against a reference of its own, those with a false finding of each family."""
    false: Counter[Family] = Counter()
    for seed in range(windows):
        rng = np.random.default_rng([2024, seed])
        reference, window = WORLD.reference(rng, patients=24, cells=10), WORLD.window(rng)
        if mutant:
            window, reference = cells_for_patients(window, reference)
        findings = judge_arrays(window, reference, BARE, seed, labels=LABELS)
        assert not any(finding.state == "unknown" for finding in findings if finding.family == "covariate")
        label, _ = label_shift(window, reference, BARE, rng, LABELS)  # what `judge` says before it asks the cells
        assert label.judged
        false.update({finding.family for finding in [label, *findings] if finding.out})
    return false


def bound(windows: int) -> int:
    """More false windows than this come by chance in 1 of 100 families of tests that keep the level q."""
    return int(stats.binom.ppf(0.99, windows, BARE.q))


def test_null_windows_stay_within_the_binomial_bound_of_q() -> None:
    false = windows_with_false_findings(500)
    assert all(count <= bound(500) for count in false.values()), false
    # Not by being blind: the covariate family is exact, so some come.
    assert false["covariate"] >= stats.binom.ppf(0.001, 500, BARE.q)


def test_resampling_cells_instead_of_patients_fails_the_same_bound() -> None:
    windows = 25
    false = windows_with_false_findings(windows, mutant=True)
    assert all(false[family] > bound(windows) for family in TESTED), false
    assert windows_with_false_findings(windows)["covariate"] <= bound(windows)
