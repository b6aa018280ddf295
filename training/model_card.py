"""model_card.md: what a clinician, a buyer or an auditor asks first. Generated: no figure is retyped."""

from collections.abc import Mapping, Sequence

from service.contract.artifact import Manifest
from training import tripod
from training.card_evidence import evidence_sections
from training.priors import priors_of

FIGURES = {
    "sensitivity": "Sensitivity (malignant cells called malignant)",
    "specificity": "Specificity (healthy cells called healthy)",
    "precision": "Precision",
    "f1": "F1",
    "roc_auc": "ROC AUC, malignant against healthy",
    "accuracy": "Accuracy over all labels",
    "balanced_accuracy": "Balanced accuracy over all labels",
    "ece": "Expected calibration error",
    "ece_debiased": "The same, less its bias on few cells",
    "shortcut_balanced_accuracy": "For comparison: balanced accuracy of a forest on six colour numbers",
    "size_shortcut_balanced_accuracy": "For comparison: balanced accuracy of a forest on cell and nucleus size",
}


def _case_mix(manifest: Manifest) -> list[str]:
    priors = priors_of(manifest.parameters, manifest.labels)
    if priors is None:
        return []
    mix = ", ".join(f"{label} {share:.1%}" for label, share in zip(manifest.labels, priors, strict=True))
    return [
        f"- Answers for this case mix: {mix}. Calibration errors below count the test cells for these shares; referral "
        "by risk and coverage is of the test cells as they are"
    ]


def model_card(
    manifest: Manifest,
    evaluation: Mapping[str, object],
    *,
    intended_use: str,
    notes: Sequence[str],
    cells: int,
    units: int,
    evidence: Mapping[str, object] | None = None,
    shortcuts: Mapping[str, object] | None = None,
) -> str:
    """Markdown.

    Args:
        manifest: with its informational fields.
        evaluation: reports/evaluation.json.
        intended_use: as the change plan has it.
        notes: what the data set says about itself.
        cells: number of test cells.
        units: number of patients among them (groups of duplicates where patients are unknown).
        evidence: reports/evidence.json.
        shortcuts: reports/shortcuts.json.
    """
    labels = ", ".join(f"{label} (malignant)" if label in manifest.malignant else label for label in manifest.labels)
    known = "with known scale" if manifest.scale_known else "whose data had no known scale"
    if manifest.crop < 1:
        known += f"; of a picture without a scale the central {manifest.crop:.0%}"
    if manifest.reduced:
        known += "; large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size"
    lines = [
        "# Model card",
        "",
        "## Intended use",
        "",
        intended_use,
        "",
        "It answers one cell at a time and may refer any of them to a person. It must not be used for treatment",
        "decisions, on other specimens than stained blood smears, or where nobody looks at what it refers.",
        "",
        "## Model",
        "",
        f"- Labels: {labels}",
        f"- Input: {manifest.height} × {manifest.width} RGB pixels showing {manifest.field_um:g} µm, {known}",
        f"- Refers a cell when its largest probability is below {manifest.thresholds.abstain:.4g} or its "
        f"out-of-distribution score above {manifest.thresholds.ood:.4g}",
        *_case_mix(manifest),
        f"- Made {manifest.created or 'at an unknown time'} from code {manifest.code_revision or 'without a revision'} "
        f"and data {manifest.dataset_revision or 'without a revision'}",
        "",
        f"## Figures on {cells} unseen cells of {units} patients",
        "",
        "| figure | value | 95 % interval (patients resampled) |",
        "|---|---|---|",
        *_rows(evaluation),
        "",
        "The test set is frozen: no patient of it was ever trained on.",
        "",
        *_table("Per label", evaluation.get("per_class")),
        *_table("Per site", evaluation.get("per_site")),
        *evidence_sections(evidence or {}, shortcuts or {}),
        "## Data",
        "",
        *([f"- {note}" for note in notes] or ["- The data set says nothing about itself."]),
        "",
        "## Limits",
        "",
        "- Figures hold for the sites, stains and scanners above; elsewhere watch the monitor before trusting them.",
        *(["- L1, L2 and L3 are morphology. They no longer guide treatment."] if "L1" in manifest.labels else []),
        "- Probabilities are calibrated on the case mix of the validation patients; another mix shifts them.",
        "",
        *tripod.table(
            tripod.items(
                manifest,
                evaluation,
                evidence or {},
                intended_use=intended_use,
                notes="; ".join(notes) or "the data set says nothing about itself",
                cells=cells,
                units=units,
            )
        ),
    ]
    return "\n".join(lines)


def _rows(evaluation: Mapping[str, object]) -> list[str]:
    reasons, intervals = (_mapping(evaluation.get(name)) for name in ("not_applicable", "intervals"))
    rows = []
    for key, title in FIGURES.items():
        value = evaluation.get(key)
        shown = f"not applicable: {reasons.get(key, 'no reason given')}" if value is None else _number(value)
        pair = intervals.get(key)
        interval = " – ".join(_number(end) for end in pair) if isinstance(pair, Sequence) and value is not None else ""
        rows.append(f"| {title} | {shown} | {interval} |")
    return rows


def _table(title: str, entries: object) -> list[str]:
    """One row an entry of a mapping of mappings; scalars only."""
    table = {name: _mapping(entry) for name, entry in _mapping(entries).items()}
    columns = [key for key, value in next(iter(table.values()), {}).items() if not isinstance(value, Mapping | list)]
    if not columns:
        return []
    return [
        f"## {title}",
        "",
        f"| | {' | '.join(column.replace('_', ' ') for column in columns)} |",
        "|---" * (len(columns) + 1) + "|",
        *(
            f"| {name} | {' | '.join(_number(entry.get(column)) for column in columns)} |"
            for name, entry in table.items()
        ),
        "",
    ]


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
