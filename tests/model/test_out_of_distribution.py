"""A small model that was really trained flags what no answer should be given for, and hardly any cell."""

from tests.model.conftest import Model
from training.calibration import OOD_EDGE
from training.flagged import flagged
from training.ood_suite import KINDS, suite


def test_strange_pictures_of_every_kind_are_flagged_and_cells_are_not(model: Model) -> None:
    strange = {
        kind: (model.say(pictures).ood_score, variant)
        for kind, (pictures, variant) in suite(model.images, 72, 0).items()
    }
    found = flagged(model.say(model.images).ood_score, strange, OOD_EDGE)
    assert tuple(found["kinds"]) == KINDS
    assert {kind: entry["flagged"] for kind, entry in found["kinds"].items() if not entry["met"]} == {}
    assert found["false_flags"] <= found["required"]["false_flags"]
