"""Label shift: found when the case mix changes, named by class, never wild, and silent where it cannot know."""

import doctest
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from monitoring import shift
from monitoring.findings import Finding
from monitoring.judge_settings import JudgeSettings
from monitoring.shift import label_shift, solve_shares
from monitoring.window import WindowArrays
from service.contract.reference import Reference
from tests.support.worlds import CHILDHOOD, LABELS, World

SETTINGS = JudgeSettings(bootstraps=200)
WORLD = World()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def found(window: WindowArrays, reference: Reference, settings: JudgeSettings = SETTINGS) -> Finding:
    return label_shift(window, reference, settings, rng(1), LABELS)[0]


def with_confusion(reference: Reference, confusion: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Reference:
    return replace(reference, confusion=confusion)


def test_the_same_mix_is_ok_and_a_turned_one_is_drift_of_the_class_that_grew() -> None:
    reference = WORLD.reference(rng(), patients=48)
    quiet = found(WORLD.window(rng(1), patients=40), reference)
    assert (quiet.state, quiet.threshold, quiet.cells, quiet.patients) == ("ok", 0.10, 400, 40)
    loud = found(WORLD.window(rng(1), patients=40, shares=(0.15, 0.15, 0.67, 0.03)), reference)
    assert (loud.state, loud.detail["class"]) == ("drift", "L2")
    assert loud.figure is not None and loud.interval is not None
    assert loud.interval[0] > 0 and loud.figure > 0.10


def test_the_shares_are_those_of_the_labels_not_of_the_answers() -> None:
    """A model that calls a third of L2 L1 answers with wrong shares; the estimate sees through it."""
    matrix = np.array([[0.9, 0.1, 0.0, 0.0], [0.1, 0.8, 0.35, 0.0], [0.0, 0.1, 0.6, 0.1], [0.0, 0.0, 0.05, 0.9]])
    shares = np.array([0.3, 0.1, 0.55, 0.05])
    answers = matrix @ shares
    assert abs(answers - shares).max() > 0.15
    np.testing.assert_allclose(solve_shares(matrix, answers), shares, atol=1e-12)


def test_a_rare_class_does_not_go_wild() -> None:
    """One stray answer more or less must not turn 1.5 % into a negative share or a large one."""
    matrix = np.array([[0.95, 0.03, 0.02, 0.0], [0.03, 0.8, 0.2, 0.1], [0.02, 0.15, 0.7, 0.2], [0.0, 0.02, 0.08, 0.7]])
    plain = np.linalg.inv(matrix) @ np.array([0.5, 0.4, 0.1, 0.0])
    assert plain.min() < -0.01
    shares = solve_shares(matrix, np.array([0.5, 0.4, 0.1, 0.0]))
    assert shares.min() >= 0 and shares.sum() == pytest.approx(1) and shares[3] < 0.02


def test_the_solution_is_the_least_squares_one_on_the_simplex() -> None:
    draw = rng(3)
    matrices = 0.5 * np.eye(4) + 0.5 * draw.dirichlet(np.ones(4), size=(40, 4)).transpose(0, 2, 1)
    answers = draw.dirichlet(np.full(4, 0.4), size=40)
    for matrix, target, shares in zip(matrices, answers, solve_shares(matrices, answers), strict=True):
        best = minimize(
            lambda p, a=matrix, q=target: ((a @ p - q) ** 2).sum(),
            np.full(4, 0.25),
            bounds=[(0, 1)] * 4,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert ((matrix @ shares - target) ** 2).sum() <= best.fun + 1e-5


def test_cells_out_of_distribution_do_not_enter_and_referred_ones_do() -> None:
    reference, window = WORLD.reference(rng(), patients=48), WORLD.window(rng(1), patients=40)
    strange = np.arange(len(window)) % 2 == 0
    spoiled = np.where(strange, 3, window.predicted)
    assert found(replace(window, predicted=spoiled), reference).state == "drift"
    assert found(replace(window, predicted=spoiled, ood=strange), reference).state == "ok"
    assert found(replace(window, predicted=spoiled, refer=strange), reference).state == "drift"


def test_cells_without_a_patient_do_not_enter() -> None:
    reference, window = WORLD.reference(rng(), patients=48), WORLD.window(rng(1), patients=40)
    nameless = np.arange(len(window)) % 2 == 0
    spoiled = replace(
        window,
        predicted=np.where(nameless, 3, window.predicted),
        patient=np.where(nameless, -1, window.patient),
    )
    finding = found(spoiled, reference)
    assert (finding.state, finding.cells) == ("ok", 200)


def test_a_window_without_any_patient_of_a_class_is_not_certain_of_it() -> None:
    """Twenty patients miss a class of 17 % by chance once in forty windows; the bootstrap alone would not know."""
    reference = WORLD.reference(rng(), patients=400)
    finding = found(WORLD.window(rng(1), shares=(0.50, 0.47, 0.0, 0.03)), reference)
    assert (finding.state, finding.detail["class"]) == ("ok", "L2")
    assert finding.figure is not None and finding.figure > SETTINGS.label_floor


def test_a_confusion_matrix_that_cannot_tell_classes_apart_makes_it_unknown() -> None:
    reference, window = WORLD.reference(rng(), patients=48), WORLD.window(rng(1))
    confusion = reference.confusion.copy()
    confusion[1] = confusion[2] = (confusion[1] + confusion[2]) / 2
    finding, shares = label_shift(window, with_confusion(reference, confusion), SETTINGS, rng(), LABELS)
    assert (finding.state, finding.severity) == ("unknown", None)
    assert "apart" in finding.detail["why"]
    assert shares is not None and shares.min() >= 0  # the covariate tests still reweight by them


def test_a_class_that_the_reference_lacks_makes_it_unknown() -> None:
    reference, window = WORLD.reference(rng(), patients=48), WORLD.window(rng(1))
    confusion = reference.confusion.copy()
    confusion[3] = 0
    finding, shares = label_shift(window, with_confusion(reference, confusion), SETTINGS, rng(), LABELS)
    assert (finding.state, shares) == ("unknown", None)
    assert "L3" in finding.detail["why"]


def test_too_few_patients_are_insufficient_and_a_reference_of_too_few_is_unknown() -> None:
    reference = WORLD.reference(rng(), patients=48)
    assert found(WORLD.window(rng(1), patients=9, cells=40), reference).state == "insufficient"
    few = replace(reference, patient=reference.patient % 7)
    assert found(WORLD.window(rng(1)), few).state == "unknown"


def test_intervals_of_the_shares_cover_the_truth() -> None:
    covered = []
    for seed in range(60):
        reference = WORLD.reference(rng(seed), patients=48)
        finding = found(WORLD.window(rng(1000 + seed), patients=40), reference)
        truth = np.array(CHILDHOOD)
        truth[1:] *= 1 - WORLD.healthy_share
        truth[0] = 1 - truth[1:].sum()
        for label, share in list(zip(LABELS, truth, strict=True))[:3]:
            low, high = finding.detail["share_intervals"][label]
            covered.append(low <= share <= high)
    assert 0.88 <= np.mean(covered) <= 1.0


def test_it_is_the_same_for_the_same_seed() -> None:
    reference, window = WORLD.reference(rng()), WORLD.window(rng(1))
    assert found(window, reference) == found(window, reference)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(shift) == doctest.TestResults(failed=0, attempted=1)
