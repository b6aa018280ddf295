"""A window against its model's reference → findings. Deterministic by seed."""

from collections.abc import Sequence
from typing import Final

from monitoring.findings import Family, Finding
from monitoring.judge_settings import JudgeSettings
from monitoring.window import Window
from service.contract.records import ReviewRecord
from service.contract.reference import Reference
from service.contract.statistics import STATISTICS
from service.contract.store import StoredPrediction

FINDINGS: Final[tuple[tuple[str, Family], ...]] = (
    ("label_shift", "label_shift"),
    ("embedding", "covariate"),
    ("embedding_spread", "covariate"),
    *((name, "covariate") for name in STATISTICS),
    ("smallest_share", "imbalance"),
    ("ratio_of_extremes", "imbalance"),
    ("normalised_entropy", "imbalance"),
    ("reviewed_balanced_accuracy", "performance"),
    ("requested_balanced_accuracy", "performance"),
    ("estimated_accuracy", "performance"),
    ("share_referred", "quality"),
    ("share_ood", "quality"),
    ("share_without_patient", "quality"),
)
"""Every finding that `judge` gives, in its order: always all of them, whatever their state."""


def judge(
    window: Window,
    reference: Reference,
    settings: JudgeSettings,
    seed: int,
    *,
    labels: Sequence[str],
    reviewed: Sequence[tuple[StoredPrediction, ReviewRecord]] = (),
) -> list[Finding]:
    """Judge a window of the model whose manifest has these `labels`; `reviewed` are reviews of that model's answers."""
    raise NotImplementedError
