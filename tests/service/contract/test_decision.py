import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.artifact import Manifest, Thresholds
from service.contract.decision import Decision, decide

MANIFEST = Manifest(
    labels=("healthy", "L1", "L2"),
    malignant=("L1", "L2"),
    height=32,
    width=32,
    field_um=20.0,
    scale_known=True,
    embedding_size=4,
    thresholds=Thresholds(abstain=0.6, ood=9.0),
)

probabilities = st.lists(st.floats(0.001, 1), min_size=3, max_size=3).map(lambda p: [x / sum(p) for x in p])


def test_a_clear_answer() -> None:
    decision = decide(MANIFEST, [0.1, 0.7, 0.2], 1.0, pixel_size_known=True)
    assert decision == Decision("L1", 0.7 + 0.2, False, ())


@pytest.mark.parametrize(
    ("values", "ood", "known", "reasons"),
    [
        ([0.6, 0.2, 0.2], 9.0, True, ()),  # at the thresholds is inside
        ([0.59, 0.21, 0.2], 9.0, True, ("uncertain",)),
        ([0.6, 0.2, 0.2], 9.001, True, ("out_of_distribution",)),
        ([0.6, 0.2, 0.2], 9.0, False, ("unknown_scale",)),
        ([0.4, 0.3, 0.3], 10.0, False, ("uncertain", "out_of_distribution", "unknown_scale")),
    ],
)
def test_reasons(values: list[float], ood: float, known: bool, reasons: tuple[str, ...]) -> None:
    decision = decide(MANIFEST, values, ood, known)
    assert decision.reasons == reasons
    assert decision.refer == bool(reasons)


def test_a_set_without_scale_drops_that_reason() -> None:
    manifest = MANIFEST.model_copy(update={"scale_known": False})
    assert decide(manifest, [0.8, 0.1, 0.1], 0.0, pixel_size_known=False).reasons == ()


def test_without_malignant_labels_the_probability_is_zero() -> None:
    manifest = MANIFEST.model_copy(update={"malignant": ()})
    assert decide(manifest, [0.1, 0.8, 0.1], 0.0, True).malignant_probability == 0.0


def test_the_first_of_equals_wins() -> None:
    assert decide(MANIFEST, [0.5, 0.5, 0.0], 0.0, True).label == "healthy"


def test_a_wrong_number_of_probabilities() -> None:
    with pytest.raises(ValueError, match="2 probabilities for 3 labels"):
        decide(MANIFEST, [0.5, 0.5], 0.0, True)


def test_what_is_not_a_number_is_referred() -> None:
    assert decide(MANIFEST, [math.nan] * 3, math.nan, True).reasons == ("uncertain", "out_of_distribution")


@given(probabilities, st.floats(0, 20), st.booleans())
def test_properties(values: list[float], ood: float, known: bool) -> None:
    decision = decide(MANIFEST, values, ood, known)
    assert values[MANIFEST.labels.index(decision.label)] == max(values)
    assert 0 <= decision.malignant_probability <= 1
    assert decision.malignant_probability == pytest.approx(1 - values[0])
    assert ("uncertain" in decision.reasons) == (max(values) < 0.6)
    assert ("out_of_distribution" in decision.reasons) == (ood > 9.0)
    assert ("unknown_scale" in decision.reasons) == (not known)


@given(probabilities, st.floats(0, 20), st.booleans())
def test_float32_arrays_and_lists_decide_alike(values: list[float], ood: float, known: bool) -> None:
    array = np.array(values, np.float32)
    assert decide(MANIFEST, array, float(ood), known) == decide(MANIFEST, array.tolist(), ood, known)


@given(probabilities, st.floats(0, 20), st.floats(0.34, 1), st.floats(0.34, 1))
def test_a_stricter_threshold_never_refers_less(values: list[float], ood: float, one: float, other: float) -> None:
    loose, strict = (
        MANIFEST.model_copy(update={"thresholds": Thresholds(abstain=abstain, ood=9.0)})
        for abstain in sorted((one, other))
    )
    assert decide(strict, values, ood, True).refer >= decide(loose, values, ood, True).refer
