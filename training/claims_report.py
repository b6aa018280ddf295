"""What the trainings of `claims` say: a table, paired differences, and a verdict that the numbers decide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from training import bootstrap, figures
from training.equal_networks import CNN, GRU, LSTM, Cost
from training.figures import Floats, Integers
from training.fold_runs import Job, Material
from training.folds import Paired, paired_interval

if TYPE_CHECKING:
    from training.claims import ClaimsConfig
    from training.models.cnn_gru import CnnGruConfig

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
CHEAPER = 0.05
"""A cost that is lower by less than this share is the same cost: the parameter counts are no nearer than that."""


@dataclass(frozen=True)
class Told:
    """One training of one system on one training set."""

    system: str
    training_set: str
    job: Job


def report(
    called: Mapping[tuple[str, str], Integers],
    sizes: Mapping[str, int],
    cost: Mapping[str, Cost],
    networks: Mapping[str, "CnnGruConfig"],
    material: Material,
    labels: Sequence[str],
    config: "ClaimsConfig",
) -> dict[str, Any]:
    """From what each (training set, system) calls every cell, [repeats, n], and the mean `sizes` of training sets."""
    weight = bootstrap.patient_weights(
        material.unit, material.label, material.classes, draws=config.bootstrap, seed=config.seed
    )
    accuracy = {
        name: {system: _interval(called[name, system], material, weight) for system in (CNN, LSTM, GRU)}
        for name in sizes
    }

    def difference(name: str, one: str, other: str, *, balanced: bool) -> Paired:
        return paired_interval(
            material.unit, material.label, called[name, one], called[name, other],
            balanced=balanced, draws=config.bootstrap, seed=config.seed,
        )  # fmt: skip

    # Where classes are as they are tested, accuracy; where one was made rare, each class counts alike.
    gru_lstm = {name: difference(name, GRU, LSTM, balanced=name == "imbalanced") for name in sizes}
    gru_cnn = {name: difference(name, GRU, CNN, balanced=name == "imbalanced") for name in sizes}
    subsets = {name: gru_cnn[name] for name in sizes if name != "all"}
    return {
        "cells": len(material.label),
        "units": len(np.unique(material.unit)),
        "labels": list(labels),
        "folds": config.folds,
        "repeats": config.repeats,
        "rare": config.rare,
        "margin": config.margin,
        "training_cells": dict(sizes),
        "cost": {name: vars(one) for name, one in cost.items()},
        "hidden": {
            name: {"channels": list(one.channels), "hidden": 0 if one.rnn == "none" else one.gru_hidden}
            for name, one in networks.items()
        },
        "figures": accuracy,
        "gru_minus_lstm": {name: _json(one) for name, one in gru_lstm.items()},
        "gru_minus_cnn": {name: _json(one) for name, one in gru_cnn.items()},
        "claims": [
            {
                "claim": "A GRU is cheaper than an LSTM at the same accuracy",
                **_said(cheaper_at_the_same(gru_lstm["all"], cost[GRU], cost[LSTM], config.margin)),
            },
            {
                "claim": "The hybrid beats the CNN alone on small or imbalanced data",
                **_said(better_on_subsets(subsets, config.margin)),
            },
        ],
    }


def cheaper_at_the_same(difference: Paired, gru: Cost, lstm: Cost, margin: float) -> tuple[str, str]:
    """Verdict and reason. It must cost less by CHEAPER in one way and not more in the other; and be as good."""
    adds, ms = gru.multiply_adds / lstm.multiply_adds - 1, gru.ms / lstm.ms - 1
    costs = f"at as many weights {adds:+.1%} multiply-adds and {ms:+.1%} ms an image"
    said = f"accuracy {_text(difference)}"
    if max(adds, ms) > CHEAPER or min(adds, ms) > -CHEAPER:
        return FAILS, f"{costs}: not cheaper; {said}"
    if difference.worse:
        return FAILS, f"{costs}, but {said}: worse"
    if difference.low > -margin:
        return HOLDS, f"{costs}; {said}: not worse by {margin:g}"
    return OPEN, f"{costs}; {said}: a loss of {margin:g} is not excluded"


def better_on_subsets(differences: Mapping[str, Paired], margin: float) -> tuple[str, str]:
    """Verdict and reason: it must be better on each of them; it fails where each excludes a gain of `margin`."""
    each = {name: better(one, margin) for name, one in differences.items()}
    verdicts = set(each.values())
    reason = "; ".join(f"{name}: {_text(one)}, {each[name]}" for name, one in differences.items())
    if verdicts == {HOLDS}:
        return HOLDS, reason
    return (FAILS if FAILS in verdicts and HOLDS not in verdicts else OPEN), reason


def better(difference: Paired, margin: float) -> str:
    """Whether the first of the two is better, by the interval of their difference."""
    if difference.better:
        return HOLDS
    return FAILS if difference.worse or difference.high < margin else OPEN


def markdown(found: Mapping[str, Any]) -> str:
    """reports/claims.md from reports/claims.json's content."""
    sets = list(found["training_cells"])
    lines = [
        "# The review's claims, tested",
        "",
        f"{found['cells']} cells of {found['units']} patients or pictures ({', '.join(found['labels'])}), "
        f"{found['repeats']} × {found['folds']} folds, the same for all; intervals are 95 % over resampled units. "
        f"Imbalanced: {found['rare']} cut to a part in training alone. Differences below {found['margin']:g} make no "
        "difference: a claimed gain does not hold where the interval ends below that. "
        "ms: processor time of one picture in torch, one thread, in turns.",
        "",
        "## Verdicts",
        "",
        *(f"- **{one['claim']}: {one['verdict']}.** {one['because']}." for one in found["claims"]),
        "",
        "## Accuracy, and balanced accuracy, by what was trained on",
        "",
        "| system | " + " | ".join(f"{name} ({found['training_cells'][name]} cells)" for name in sets) + " |",
        "|---|" + "---|" * len(sets),
    ]
    for system in (CNN, LSTM, GRU):
        texts = []
        for name in sets:
            one = found["figures"][name][system]
            texts.append(
                f"{one['accuracy']:.3f} ({one['accuracy_low']:.3f} to {one['accuracy_high']:.3f}), "
                f"{one['balanced_accuracy']:.3f}"
            )
        lines.append(f"| {system} | " + " | ".join(texts) + " |")
    for key, title in (("gru_minus_cnn", "CNN-GRU − CNN"), ("gru_minus_lstm", "CNN-GRU − CNN-LSTM")):
        lines.append(f"| {title} | " + " | ".join(_text(Paired(**found[key][name])) for name in sets) + " |")
    lines += [
        "",
        "Differences are of accuracy, and on the imbalanced set of balanced accuracy.",
        "",
        "## What they cost",
        "",
        "| system | filters | hidden | parameters | multiply-adds (M) | ms an image |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found["cost"].items():
        shape = found["hidden"].get(name)
        filters, hidden = ("–".join(map(str, shape["channels"])), shape["hidden"]) if shape else ("", "")
        lines.append(
            f"| {name} | {filters} | {hidden} | {one['parameters']} "
            f"| {one['multiply_adds'] / 1e6:.2f} | {one['ms']:.2f} |"
        )
    lines += ["", "The last row is not at equal parameters, and was not trained: it shows what equal width would cost."]
    lines += ["", *(f"- {note}" for note in found.get("notes", []))]
    return "\n".join(lines).rstrip() + "\n"


def _interval(called: Integers, material: Material, weight: Any) -> dict[str, float]:
    drawn = [bootstrap.confusions(weight, material.label, one, material.classes) for one in called]
    plain = [figures.confusion_matrix(material.label, one, material.classes) for one in called]
    found: dict[str, float] = {}
    for name, figure in (("accuracy", figures.accuracy), ("balanced_accuracy", figures.balanced_accuracy)):
        values: Floats = np.mean([figure(one) for one in drawn], axis=0)
        low, high = bootstrap.interval(values) or (float("nan"), float("nan"))
        mean = float(np.mean([figure(one) for one in plain]))
        found |= {name: round(mean, 6), f"{name}_low": round(low, 6), f"{name}_high": round(high, 6)}
    return found


def _said(found: tuple[str, str]) -> dict[str, str]:
    return {"verdict": found[0], "because": found[1]}


def _json(found: Paired) -> dict[str, float]:
    return {name: round(value, 6) for name, value in vars(found).items()}


def _text(found: Paired) -> str:
    return f"{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
