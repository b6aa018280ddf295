"""Probabilities → label and referral. Pure, so that training, service and replay decide alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from service.contract.artifact import Manifest

UNCERTAIN = "uncertain"
OUT_OF_DISTRIBUTION = "out_of_distribution"
UNKNOWN_SCALE = "unknown_scale"
KILL_SWITCH = "kill_switch"
"""No finding about the cell: an operator has every answer referred."""


@dataclass(frozen=True)
class Decision:
    """What is answered: `refer` asks for a human to look, `reasons` says why, in a fixed order."""

    label: str
    malignant_probability: float
    refer: bool
    reasons: tuple[str, ...]


def decide(
    manifest: Manifest,
    probabilities: Sequence[float] | npt.NDArray[np.floating],
    ood_score: float,
    pixel_size_known: bool,
) -> Decision:
    """Decide on calibrated probabilities [C], in the order of `manifest.labels`.

    Refers when the largest probability is below the abstain threshold (`uncertain`), when the OOD score is above its
    threshold (`out_of_distribution`), and when the scale is unknown to a model whose data had one (`unknown_scale`).
    Of equal probabilities the first label wins. Raises ValueError for a wrong number of probabilities.
    """
    values = [float(value) for value in probabilities]
    if len(values) != len(manifest.labels):
        raise ValueError(f"{len(values)} probabilities for {len(manifest.labels)} labels")
    largest = max(values)
    reasons = []
    # Written so that a NaN, which compares false with everything, is referred rather than passed.
    if not largest >= manifest.thresholds.abstain:
        reasons.append(UNCERTAIN)
    if not ood_score <= manifest.thresholds.ood:
        reasons.append(OUT_OF_DISTRIBUTION)
    if manifest.scale_known and not pixel_size_known:
        reasons.append(UNKNOWN_SCALE)
    malignant = sum(p for label, p in zip(manifest.labels, values, strict=True) if label in manifest.malignant)
    label = manifest.labels[values.index(largest)]
    return Decision(label, min(1.0, malignant), bool(reasons), tuple(reasons))


def referred_by_switch(decision: Decision) -> Decision:
    """The decision while the kill switch is on: for a person, whatever the model says."""
    return replace(decision, refer=True, reasons=(*decision.reasons, KILL_SWITCH))


def without_kill_switch(reasons: Sequence[str]) -> tuple[str, ...]:
    """The reasons that the model itself gave: what monitoring counts and replay compares."""
    return tuple(reason for reason in reasons if reason != KILL_SWITCH)
