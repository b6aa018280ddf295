"""Blur, light and stain of real pixels, found where they are and nowhere else; and nothing is retrained for them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter

from monitoring.findings import Finding
from monitoring.judge_settings import JudgeSettings
from monitoring.picture_quality import NAMES, picture_quality
from monitoring.policy import cause_of
from monitoring.window import NO_PATIENT, WindowArrays
from service.contract.image import Pixels
from service.contract.reference import Reference
from service.contract.statistics import statistics_array
from tests.support.images import smear
from tests.support.worlds import LABELS, World

SETTINGS = JudgeSettings(bootstraps=200)
CELLS = 5

Change = Callable[[Pixels], Pixels]


def blurred(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)), dtype=np.uint8)


def dark(pixels: Pixels) -> Pixels:
    return (pixels * 0.55).astype(np.uint8)


def bright(pixels: Pixels) -> Pixels:
    return np.asarray(np.clip(pixels * 1.5, 0, 255), dtype=np.uint8)


def faded(pixels: Pixels) -> Pixels:
    """A third of the colour, and as light as before."""
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    return np.asarray(np.clip(pixels / 3 + 2 * grey[..., None] / 3, 0, 255), dtype=np.uint8)


def seen(patients: int, first: int, change: Change | None = None, share: float = 1.0) -> npt.NDArray[np.float32]:
    """Statistics [n, 5] of CELLS pictures a patient; those of the first share of the patients are changed."""
    rows = []
    for number in range(patients * CELLS):
        pixels = smear(first + number)
        changed = change is not None and number // CELLS < share * patients
        rows.append(statistics_array(change(pixels) if change is not None and changed else pixels))
    return np.array(rows)


def held_out(patients: int = 60) -> Reference:
    rows = seen(patients, 0)
    return Reference(
        embedding=np.zeros((len(rows), 1), np.float32),
        statistics=rows,
        probabilities=np.full((len(rows), 2), 0.5, np.float32),
        label=np.arange(len(rows)) % 2,
        site=("site-a",) * len(rows),
        patient=np.repeat(np.arange(patients), CELLS),
        confusion=np.eye(2),
    )


REFERENCE = held_out()


def window(rows: npt.NDArray[np.floating]) -> WindowArrays:
    none = np.zeros(len(rows), dtype=np.bool_)
    patient = np.arange(len(rows)) // CELLS
    return WindowArrays(
        np.zeros((len(rows), 0)),
        rows.astype(np.float64),
        np.full((len(rows), 2), 0.5),
        np.zeros(len(rows), np.int64),
        none,
        none,
        patient.astype(np.int64),
    )


def judged(cells: WindowArrays, reference: Reference = REFERENCE) -> dict[str, Finding]:
    findings = picture_quality(cells, reference, SETTINGS, np.random.default_rng(1))
    assert tuple(finding.name for finding in findings) == NAMES
    return {finding.name: finding for finding in findings}


def test_pictures_like_the_reference_are_ok() -> None:
    found = judged(window(seen(40, 1000)))
    assert {finding.state for finding in found.values()} == {"ok"}
    assert all(finding.figure is not None and finding.figure < 0.06 for finding in found.values())


@pytest.mark.parametrize(
    ("change", "name", "way"),
    [
        (blurred, "blurred", "below"),
        (dark, "exposure", "below"),
        (bright, "exposure", "above"),
        (faded, "stain_faded", "below"),
    ],
)
def test_a_fault_of_every_second_slide_is_found_under_its_name(change: Change, name: str, way: str) -> None:
    found = judged(window(seen(40, 1000, change, share=0.5)))
    assert found[name].state == "drift"
    assert found[name].detail[way] > 0.3
    assert cause_of(found[name]) is None


@pytest.mark.parametrize("change", [blurred, faded])
def test_blur_and_fading_are_not_taken_for_each_other(change: Change) -> None:
    found = judged(window(seen(40, 1000, change, share=0.5)))
    assert len([finding for finding in found.values() if finding.out]) == 1


def test_one_patient_of_ten_is_no_drift() -> None:
    found = judged(window(seen(20, 1000, blurred, share=0.1)))
    assert found["blurred"].figure == pytest.approx(0.1, abs=0.03)
    assert found["blurred"].state == "ok"


def test_sharper_pictures_are_no_fault() -> None:
    rows = seen(40, 1000)
    rows[:, 2] = 10 * rows[:, 2]
    found = judged(window(rows))["blurred"]
    assert (found.state, found.figure, found.detail["above"]) == ("ok", 0.0, 1.0)


def test_quiet_windows_with_patients_that_differ_are_hardly_ever_drift() -> None:
    """As much between patients as within them: the tail of the reference is a few patients."""
    world, out = World(), 0
    reference = world.reference(np.random.default_rng(0), patients=48)
    for seed in range(60):
        cells = world.window(np.random.default_rng(seed + 1))
        out += any(item.out for item in picture_quality(cells, reference, SETTINGS, np.random.default_rng(seed)))
    assert len(LABELS) == reference.classes
    assert out == 0


def test_too_few_patients_say_nothing() -> None:
    rows = seen(8, 1000, blurred)
    assert {finding.state for finding in judged(window(rows)).values()} == {"insufficient"}
    many = window(seen(20, 1000))
    nobody = replace(many, patient=np.full(len(many), NO_PATIENT))
    assert {finding.cells for finding in judged(nobody).values()} == {0}
    assert {finding.state for finding in judged(many, held_out(7)).values()} == {"unknown"}
