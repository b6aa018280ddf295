"""The generated data set: repeatable, plausible in its figures, no use to anything that only sees colour or size."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from service.contract.errors import ConfigError
from service.contract.image import decode
from service.contract.statistics import statistics
from tests.support.synthetic_cells import Draw, balanced_draw, forest
from training.datasets import open_dataset
from training.datasets.smear.generator import Spec, draw_cells
from training.datasets.smear.kinds import KIND_NAMES, KINDS
from training.datasets.synthetic import LABELS, SITES, SyntheticConfig, plan, stream
from training.io import read_params

SITE_A, SITE_B = SITES["site-a"], SITES["site-b"]


@pytest.fixture(scope="module")
def draw() -> Draw:
    """About 1000 cells of 192 patients."""
    return balanced_draw(patients=48, cells=6, seed=11)


def _specs(kind: str, count: int) -> list[Spec]:
    return [Spec(f"patient-{k}", k, kind) for k in range(count)]


def test_same_seed_same_pictures_another_seed_others() -> None:
    specs = _specs("L2", 3)
    once, again, other = (draw_cells(SITE_A, seed, specs)[0] for seed in (5, 5, 6))
    assert np.array_equal(once, again)
    assert all(not np.array_equal(a, b) for a, b in zip(once, other, strict=True))


def test_a_cell_does_not_depend_on_its_company() -> None:
    specs = [Spec(f"patient-{k // 2}", k, KIND_NAMES[k % 5]) for k in range(9)]
    together, _ = draw_cells(SITE_A, 5, specs)
    reversed_, _ = draw_cells(SITE_A, 5, specs[::-1])
    for k, spec in enumerate(specs):
        alone, _ = draw_cells(SITE_A, 5, [spec])
        assert np.array_equal(alone[0], together[k])
        assert np.array_equal(alone[0], reversed_[len(specs) - 1 - k])


def test_no_two_cells_are_alike() -> None:
    cells = stream("site-a", seed=1, patients=dict.fromkeys(LABELS, 3), cells_per_patient=4, prefix="unlike")
    assert len({cell.image for cell in cells}) == len(cells) == 48


def test_default_shares_of_subtypes_are_childhood_s_and_patients_suffice() -> None:
    (options,) = read_params("data", "sources")
    config = SyntheticConfig.model_validate({name: value for name, value in options.items() if name != "kind"})
    specs = plan(config)
    cells = Counter(spec.label for spec in specs)
    blasts = sum(cells.values()) - cells["healthy"]
    shares = {label: 100 * cells[label] / blasts for label in ("L1", "L2", "L3")}
    assert shares == pytest.approx({"L1": 70, "L2": 27, "L3": 3}, abs=1.5)
    assert shares["L3"] <= 3
    assert 2600 <= len(specs) <= 3500
    for label in LABELS:
        assert len({spec.patient for spec in specs if spec.label == label}) >= 15


def test_leukemic_patients_have_healthy_cells_too() -> None:
    specs = plan(SyntheticConfig(seed=3, patients={"L1": 40}, cells_per_patient=25))
    share = np.mean([spec.label == "healthy" for spec in specs])
    assert 0.10 <= share <= 0.14
    assert {spec.kind for spec in specs} == {"small lymphocyte", "large lymphocyte", "L1"}


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_cells_have_the_size_of_their_kind(kind: str) -> None:
    _, cells = draw_cells(SITE_A, 2, _specs(kind, 24))
    low, high = KINDS[kind].diameter_range
    assert ((cells.diameter >= low) & (cells.diameter <= high)).all()
    assert (cells.nucleus_diameter < cells.diameter).all()


def test_a_bigger_cell_covers_more_of_the_picture() -> None:
    """What is drawn is what the figures say: the nucleus's dark area in the picture follows its area in µm²."""
    pictures, cells = draw_cells(SITE_A, 2, [*_specs("small lymphocyte", 20), *_specs("L1", 20)])
    green = pictures[:, :, :, 1].astype(float)
    y, x = np.mgrid[:128, :128] - 63.5
    near = np.hypot(x, y) * 20 / 128 < 6.5  # µm; what lies further out is another cell
    dark = [(near & (g < (np.percentile(g, 98) + g[near].min()) / 2)).sum() for g in green]
    assert np.corrcoef(dark, cells.nucleus_area)[0, 1] > 0.8


def test_l3_alone_has_vacuoles_and_healthy_cells_no_nucleoli() -> None:
    drawn = {kind: draw_cells(SITE_A, 2, _specs(kind, 8))[1] for kind in KIND_NAMES}
    vacuoles = {kind: int((cells.vacuoles[:, :, 2] > 0).sum(axis=1).min()) for kind, cells in drawn.items()}
    assert {kind for kind, fewest in vacuoles.items() if fewest >= 5} == {"L3"}
    for kind in ("small lymphocyte", "large lymphocyte"):
        assert not (drawn[kind].nucleoli[:, :, 2] > 0).any()
    assert ((drawn["L2"].nucleoli[:, :, 2] > 0).sum(axis=1) >= 1).all()


def test_colour_does_not_give_the_label_away(draw: Draw) -> None:
    balanced_accuracy, malignant_auroc = forest(draw.colour, draw)
    assert balanced_accuracy <= 0.45
    assert malignant_auroc <= 0.75


def test_colour_would_give_the_label_away_if_all_stains_were_alike() -> None:
    """The test above can fail: it is the patients' stains that hide the label from a forest on colour."""
    alike = replace(SITE_A.stain, strength_sd=0.0, balance_sd=0.0, dye_sd=0.0, hue_sd=0.0, cell_sd=0.0)
    still = replace(SITE_A.scanner, balance_sd=0.0, exposure_sd=0.0, shading=0.0)
    plain = balanced_draw(replace(SITE_A, stain=alike, scanner=still), patients=20, cells=6, seed=11)
    balanced_accuracy, malignant_auroc = forest(plain.colour, plain)
    assert balanced_accuracy > 0.45
    assert malignant_auroc > 0.75


def test_size_alone_does_not_tell_the_label(draw: Draw) -> None:
    """A network is asked for 0.80; sizes overlap so much that they stay well below."""
    balanced_accuracy, _ = forest(draw.size, draw)
    assert 0.5 <= balanced_accuracy <= 0.75


def test_stream_names_patients_apart_and_keeps_each_one_together() -> None:
    patients = {"healthy": 4, "L1": 4, "L2": 4, "L3": 4}
    cells = stream("site-a", seed=1, patients=patients, cells_per_patient={**dict.fromkeys(LABELS, 2)}, prefix="one")
    other = stream("site-a", seed=1, patients={"L1": 4}, cells_per_patient=2, prefix="two")
    assert not {cell.patient for cell in cells} & {cell.patient for cell in other}
    order = list(dict.fromkeys(cell.patient for cell in cells))
    assert [cell.patient for cell in cells] == [patient for patient in order for _ in range(2)]
    assert order != sorted(order)
    assert {cell.site for cell in cells} == {"site-a"}
    assert {cell.pixel_size_um for cell in cells} == {20 / 128}


def test_new_site_differs_by_its_scanner() -> None:
    specs = [Spec(f"patient-{k}", k, KIND_NAMES[k % 5]) for k in range(20)]
    near, far = (
        np.array([list(statistics(picture).values()) for picture in draw_cells(site, 4, specs)[0]])
        for site in (SITE_A, SITE_B)
    )
    sharpness = list(statistics(draw_cells(SITE_A, 4, specs[:1])[0][0])).index("sharpness")
    # The same cells: only stain and scanner differ.
    assert abs(near[:, sharpness].mean() - far[:, sharpness].mean()) > near[:, sharpness].std()


def test_pictures_decode_to_the_field() -> None:
    for site in SITES:
        (cell,) = stream(site, seed=1, patients={"L2": 1}, cells_per_patient=1, prefix="one")
        assert decode(cell.image).shape == (128, 128, 3)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"seed": 1, "patients": {"L4": 3}, "cells_per_patient": 3}, "L4 is no diagnosis"),
        ({"seed": 1, "site": "site-z", "patients": {"L1": 3}, "cells_per_patient": 3}, "known are site-a, site-b"),
        ({"seed": 1, "patients": {"L1": 3}, "cells_per_patient": {"L2": 3}}, "at least 1"),
        ({"seed": 1, "patients": {"L1": -3}, "cells_per_patient": 3}, "0 or more"),
        ({"seed": -1, "patients": {"L1": 3}, "cells_per_patient": 3}, "seed"),
        ({"seed": 1, "patients": {"L1": 3}, "cells_per_patient": 3, "colour": "red"}, "colour"),
        ({"seed": 1, "cells_per_patient": 3}, "patients"),
    ],
)
def test_options_that_make_no_sense_are_one_clear_line(options: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.sources, synthetic") as caught:
        open_dataset({"kind": "synthetic", **options})
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_kind_of_source_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="known are synthetic"):
        open_dataset({"kind": "nonsense"})
