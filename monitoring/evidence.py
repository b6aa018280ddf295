"""How much of the way to a level a p value goes, so that evidence and effect have one unit in a finding's severity."""

from scipy import stats


def evidence(p: float, level: float) -> float:
    """The normal quantile of p as a share of the level's: at least 1 exactly where p ≤ level, at least 0."""
    share = max(0.0, float(stats.norm.isf(min(p, 1.0)))) / float(stats.norm.isf(level))
    # Where both meet exactly, the ratio of quantiles must not round to the other side of one.
    return max(share, 1.0) if p <= level else min(share, 1.0 - 1e-9)
