"""TRIPOD+AI's 27 items, each answered from the pipeline's own data or said to be somebody else's to answer.

Collins et al., "TRIPOD+AI statement: updated guidance for reporting clinical prediction models that use regression or
machine learning methods", BMJ 2024;385:e078378, table 2. The titles are in our words. An answer is never missing: it is
a figure or a place to look, `not applicable` with the reason, or `for the deploying site to fill in` with what it is.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from service.contract.artifact import Manifest

NOT_APPLICABLE = "not applicable"
SITE = "for the deploying site to fill in"


class Item(NamedTuple):
    """One item: its number in the statement, what it asks, and the answer."""

    number: int
    title: str
    answer: str


def items(
    manifest: Manifest,
    evaluation: Mapping[str, Any],
    evidence: Mapping[str, Any],
    *,
    intended_use: str,
    notes: str,
    cells: int,
    units: int,
) -> list[Item]:
    """All 27, in order; of the artifact's manifest and the reports of the stages evaluate and audit."""
    parameters = manifest.parameters
    labels = ", ".join(manifest.labels)
    train, split = (_mapping(parameters.get(name)) for name in ("train", "split"))
    abstention = _mapping(evidence.get("abstention"))
    sizes = ", ".join(
        f"{name} {_mapping(entry).get('cells')}" for name, entry in _mapping(evaluation.get("per_class")).items()
    )
    answers = (
        ("title: a prediction model, its population and its outcome",
         f"a network that sorts single white cells of stained smears into {labels}"),
        ("abstract: a structured summary", "the sections above: intended use, model, figures, limits"),
        ("background: the clinical setting, why, and known differences between groups of people",
         f"{intended_use} Known health inequalities: {SITE}"),
        ("objectives: development, evaluation, or both", "development, and evaluation on patients never trained on"),
        ("data: where from, and from when", f"{notes}; dates of collection: {SITE}"),
        ("participants: settings, criteria, treatments",
         f"sites as in the tables of this card; criteria and treatments: {SITE}"),
        ("preparation of the data: preprocessing, checks, alike for all groups",
         f"decoded and brought to {manifest.field_um:g} µm in {manifest.height} × {manifest.width} pixels by the "
         "function that the service calls; expectations in reports/data_docs; the same for every cell"),
        ("outcome: what is predicted, how and by whom assessed",
         f"one of {labels}, a label of the picture as its source gives it; who labelled, and blinded to what: {SITE}"),
        ("predictors: what goes in, and how it was chosen",
         "the pixels alone; no age, sex or other record of the patient is used"),
        ("sample size: how many, and why so many",
         f"{cells} test cells of {units} patients ({sizes}); all there were, the intervals say what they allow"),
        ("missing data", "a cell without a readable picture or label stops the pipeline; nothing is imputed"),
        ("analysis: split, model, tuning, calibration, measures, differences between groups",
         f"split by patient (test {split.get('test', '?')}, validation {split.get('validation', '?')}), frozen; "
         f"trained for at most {train.get('epochs', '?')} epochs with early stopping, then calibrated on validation "
         "patients; intervals by resampling patients; figures by site, stain, scanner and label"),
        ("class imbalance: what was done, and that probabilities are right again after it",
         f"{train.get('loss', '?')} loss, class weights to the power of {train.get('class_weight', '?')}; "
         "calibrated afterwards, debiased error "
         f"{_number(evaluation.get('ece_debiased'))}"),
        ("fairness: what was done about differences between groups",
         f"figures by site, stain and scanner; age, sex and ancestry are not in the data: {SITE}"),
        ("what the model gives: probabilities or classes, and thresholds",
         f"a probability for each label; below {manifest.thresholds.abstain:.4g}, or with an out-of-distribution score "
         f"above {manifest.thresholds.ood:.4g}, it refers to a person"),
        ("training against evaluation: how the data differ",
         "other patients of the same sources; another hospital's cells are not among them unless a site above is"),
        ("ethical approval and consent", f"{SITE}: this pipeline does not see it"),
        ("open science: funding, interests, protocol, registration, data, code",
         f"code {manifest.code_revision or 'without a revision'}, "
         f"data {manifest.dataset_revision or 'without a revision'}; the change plan is the "
         f"protocol for retraining; funding, interests and registration: {SITE}"),
        ("patients and the public: how they were involved", f"{SITE}: they were not, in making this software"),
        ("participants: flow and characteristics",
         f"{cells} test cells of {units} patients; characteristics of the patients: {SITE}"),
        ("development: participants and outcomes in each analysis", f"test cells by label: {sizes}"),
        ("specification: how to use the model elsewhere",
         "the artifact: serve/model.onnx and serve/manifest.json hold all that an answer depends on"),
        ("performance: with intervals, in key groups, heterogeneity",
         f"the tables above; answered {_percent(abstention.get('coverage'))} of test cells, of which wrong "
         f"{_percent(abstention.get('risk'))}"),
        ("updating: results of any recalibration",
         f"{NOT_APPLICABLE}: a retraining makes a new model with a card of its own; the ledger names both"),
        ("interpretation: the main results, fairness, earlier studies",
         "held against forests that see no cell (above), and docs/results; what it means at a site: " + SITE),
        ("limitations", "the section Limits above"),
        ("use in practice: poor input, the user's part, further research",
         "unreadable pictures are refused, strange or uncertain ones referred; a person can override every answer "
         "(docs/clinical-use.md)"),
    )  # fmt: skip
    return [Item(number, title, answer) for number, (title, answer) in enumerate(answers, start=1)]


def table(found: list[Item]) -> list[str]:
    """Markdown lines."""
    return [
        "## TRIPOD+AI",
        "",
        "The 27 items of the statement (BMJ 2024;385:e078378), in our words.",
        "",
        "| item | asks for | answer |",
        "|---|---|---|",
        *(f"| {item.number} | {item.title} | {' '.join(item.answer.replace('|', '/').split())} |" for item in found),
        "",
    ]


def _percent(figure: object) -> str:
    value = _mapping(figure).get("value")
    return f"{value:.1%}" if isinstance(value, float) else "unknown"


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "unknown"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
