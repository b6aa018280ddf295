"""The model card: TRIPOD+AI's items are all there and answered, and the audit's figures are shown."""

import re
from typing import Any

from service.contract.artifact import Manifest, Thresholds
from training.card_evidence import evidence_sections
from training.model_card import model_card
from training.tripod import NOT_APPLICABLE, SITE, items, table

MANIFEST = Manifest(
    labels=("healthy", "L1"), malignant=("L1",), height=32, width=32, field_um=20.0, scale_known=True, embedding_size=4,
    thresholds=Thresholds(abstain=0.62, ood=1.0), parameters={"train": {"epochs": 7, "loss": "focal"}},
)  # fmt: skip
EVALUATION: dict[str, Any] = {"ece_debiased": 0.0123, "per_class": {"healthy": {"cells": 20}, "L1": {"cells": 30}}}


def figure(value: float) -> dict[str, Any]:
    return {"value": value, "interval": [value - 0.05, value + 0.05]}


EVIDENCE: dict[str, Any] = {
    "abstention": {
        "threshold": 0.62, "coverage": figure(0.87), "risk": figure(0.12), "risk_of_all": 0.2,
        "curve": [{"coverage": 1.0, "risk": 0.2}],
    },
    "out_of_distribution": {
        "false_flags": 0.031, "required": {"flagged": 0.95, "false_flags": 0.05},
        "kinds": {"blank": {"flagged": 1.0, "pictures": 9, "met": True},
                  "noise": {"flagged": 0.4, "pictures": 9, "met": False}},
    },
    "slices": {
        "site": {
            "north": {"cells": 600, "patients": 60, "state": "measured", "accuracy": figure(0.91),
                      "sensitivity": figure(0.8), "specificity": None, "ece_debiased": figure(0.06)},
            "south": {"cells": 40, "patients": 4, "state": "insufficient", "reason": "fewer than 500 cells"},
        }
    },
}  # fmt: skip
SHORTCUTS: dict[str, Any] = {
    "network": {"balanced_accuracy": 0.9, "interval": [0.85, 0.95]}, "chance": 0.5,
    "forests": {
        "colour": {"state": "measured", "what": "six numbers", "balanced_accuracy": 0.7, "interval": [0.6, 0.8],
                   "network_minus": 0.2, "network_minus_interval": [0.1, 0.3]},
        "file size": {"state": "not available", "what": "bytes", "reason": "the manifest does not have it"},
    },
}  # fmt: skip


def answered(evidence: dict[str, Any]) -> list[tuple[int, str, str]]:
    found = items(MANIFEST, EVALUATION, evidence, intended_use="Decision support.", notes="made up", cells=50, units=8)
    return [(item.number, item.title, item.answer) for item in found]


def test_all_27_items_are_there_once_in_order_and_none_is_left_blank() -> None:
    found = answered(EVIDENCE)
    assert [number for number, _, _ in found] == list(range(1, 28))
    assert len({title for _, title, _ in found}) == 27
    for _, title, answer in found:
        assert len(title) > 3 and len(answer) > 20
        assert "None" not in answer and "{" not in answer


def test_items_are_answered_from_the_data_where_the_data_can() -> None:
    answers = {number: answer for number, _, answer in answered(EVIDENCE)}
    assert "50 test cells of 8 patients" in answers[10] and "healthy 20, L1 30" in answers[10]
    assert "focal" in answers[13] and "0.012" in answers[13]
    assert "0.62" in answers[15]
    assert "87.0%" in answers[23] and "12.0%" in answers[23]
    assert answers[24].startswith(NOT_APPLICABLE)
    assert [number for number in (3, 5, 6, 8, 14, 17, 18, 19, 20, 25) if SITE not in answers[number]] == []
    # A report that is not there is said to be unknown, not made up.
    assert "unknown" in {number: answer for number, _, answer in answered({})}[23]


def test_the_card_has_every_item_as_a_row_and_the_audit_before_it() -> None:
    card = model_card(
        MANIFEST, EVALUATION, intended_use="Decision | support.", notes=["made up"], cells=50, units=8,
        evidence=EVIDENCE, shortcuts=SHORTCUTS,
    )  # fmt: skip
    part = card[card.index("## TRIPOD+AI") :]
    rows = re.findall(r"^\| (\d+) \|", part, re.MULTILINE)
    assert rows == [str(k) for k in range(1, 28)]
    assert all(line.count("|") == 4 for line in part.splitlines() if re.match(r"\| \d+ \|", line))
    for shown in (
        "| site: south | 40 | 4 | insufficient | insufficient | insufficient | insufficient |",
        "| site: north | 600 | 60 | 0.910 (0.860 – 0.960) | 0.800 (0.750 – 0.850) | – | 0.060 (0.010 – 0.110) |",
        "| noise | 0.400 | 9 | no |",
        "| blank | 1.000 | 9 | yes |",
        "3.1% of these are",
        "0.870 (0.820 – 0.920) are answered",
        "| colour: six numbers | 0.700 (0.600 – 0.800) | 0.200 (0.100 – 0.300) |",
        "| file size: bytes | not available: the manifest does not have it | – |",
        "the network has 0.900 (0.850 – 0.950), chance 0.500",
    ):
        assert shown in card
    assert card.index("## Could it be had without the cell?") < card.index("## TRIPOD+AI")


def test_an_audit_that_is_missing_is_said_to_be() -> None:
    lines = evidence_sections({}, {})
    assert lines.count("Not measured.") == 4


def test_the_table_survives_a_bar_in_an_answer() -> None:
    found = items(MANIFEST, EVALUATION, {}, intended_use="a | b", notes="x", cells=1, units=1)
    assert all(line.count("|") == 4 for line in table(found)[6:-1])


def test_a_model_for_another_case_mix_says_so() -> None:
    def card(parameters: dict[str, Any]) -> str:
        manifest = MANIFEST.model_copy(update={"parameters": parameters})
        return model_card(manifest, EVALUATION, intended_use="Decision support.", notes=[], cells=50, units=8)

    rest = 0.25 / (len(MANIFEST.labels) - 1)
    shares = {label: 0.75 if label == MANIFEST.labels[0] else rest for label in MANIFEST.labels}
    assert f"for this case mix: {MANIFEST.labels[0]} 75.0%, " in card({"calibrate": {"priors": shares}})
    assert "case mix:" not in card({"calibrate": {"priors": {}}})
