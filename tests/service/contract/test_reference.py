"""The reference on disk: with the case mix that a model is for, and as earlier releases wrote it."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from service.contract.errors import ArtifactError
from service.contract.reference import Reference
from tests.support.worlds import World


@pytest.fixture(scope="module")
def reference() -> Reference:
    return World().reference(np.random.default_rng(1), patients=20)


def test_the_case_mix_survives_and_weighs_the_cells(reference: Reference, tmp_path: Path) -> None:
    priors = np.array([0.7, 0.2, 0.06, 0.04])
    replace(reference, priors=priors).save(tmp_path / "reference.npz")
    found = Reference.load(tmp_path / "reference.npz")
    np.testing.assert_array_equal(found.priors, priors)
    shares = [found.case_weight[found.label == label].sum() / len(found.label) for label in range(4)]
    assert shares == pytest.approx(priors.tolist())


def test_one_of_an_earlier_release_is_for_its_own_mix(reference: Reference, tmp_path: Path) -> None:
    arrays = {
        item.name: np.asarray(getattr(reference, item.name)) for item in fields(reference) if item.name != "priors"
    }
    np.savez_compressed(tmp_path / "reference.npz", **arrays)  # type: ignore[arg-type]
    found = Reference.load(tmp_path / "reference.npz")
    assert found.priors.shape == (0,)
    np.testing.assert_array_equal(found.case_weight, np.ones(len(found.label)))


@pytest.mark.parametrize("priors", [[0.5, 0.5], [0.5, 0.5, 0.5, -0.5], [0.5, 0.2, 0.2, float("nan")]])
def test_what_is_no_case_mix_is_refused(reference: Reference, priors: list[float]) -> None:
    with pytest.raises(ArtifactError):
        replace(reference, priors=np.array(priors))
