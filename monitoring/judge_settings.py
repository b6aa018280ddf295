"""Every number that judging and deciding use, each with its reason. Nested into the monitor's settings."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Floor = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class JudgeSettings(_Settings):
    """What a window must hold, and when a finding is drift."""

    min_cells: Count = 200
    """Cells (with a patient) at which a window may close. design.md, Monitoring."""

    min_patients: Annotated[int, Field(ge=3)] = 10
    """Patients at which a window may close. design.md, Monitoring."""

    max_window_age_s: Positive = 7 * 86400.0
    """Seconds after which a window that did not fill expires as insufficient: what is older than a week mixes
    shifts."""

    q: Share = 0.05
    """Share of false findings a family may have (Benjamini and Hochberg 1995), and the level of single tests."""

    confidence: Share = 0.95
    """Coverage of every interval."""

    bootstraps: Annotated[int, Field(ge=100)] = 500
    """Patient bootstrap draws for an interval; the end points of a 95 % interval then rest on about 12 draws each."""

    permutations_per_hypothesis: Annotated[int, Field(ge=20)] = 20
    """Permutations of a family of m hypotheses: this × m / q, so that the smallest p can pass BH by a factor of 20."""

    min_reference_patients: Annotated[int, Field(ge=3)] = 8
    """Patients that the reference must have, below which the tests say `unknown`: fewer do not show how patients
    differ."""

    label_floor: Share = 0.10
    """Smallest change of a class's share, in absolute terms, that is called label shift: below it recalibrated priors
    move the answers by less than the calibration's own error."""

    min_singular_value: Share = 0.25
    """Smallest singular value of P(answer | label) for which shares can be estimated: an error of the answers' shares
    grows by at most its inverse (Lipton et al. 2018, theorem 3)."""

    covariate_floor: Floor = 1.0
    """Smallest covariate effect that is called drift, in patient-level standard deviations. A medium shift, which must
    be found, is 1.5; what a reference of a few dozen patients is off by itself stays below 1.0."""

    embedding_weight: Share = 0.5
    """The embedding's part of the family's error: it is all that the model reads of a cell, the rest explains."""

    max_weight: Positive = 10.0
    """Cap of a reference patient's weight when reweighting: one patient shall not speak for ten others."""

    min_comparable: Share = 0.15
    """Share of the window's information that must remain once the class mix is accounted for, below which covariate
    shift is `unknown`: window and reference then have hardly any class in common."""

    min_spread_cells: Annotated[int, Field(ge=2)] = 3
    """Cells a patient must have to say how much cells of one patient differ."""

    long_cells: Count = 800
    """Cells that the last windows must have to be judged together: four windows of the default size."""

    long_patients: Annotated[int, Field(ge=10)] = 40
    """Patients that they must have: a class three times as frequent among them is twice its standard error away."""

    long_windows: Count = 8
    """Windows that are judged together at most: what is older is another world."""

    long_q: Share = 0.01
    """The level of the long view's covariate family. Stricter than `q`: one long view is enough to fire."""

    long_covariate_floor: Floor = 1.3
    """Smallest covariate effect of the long view that is called drift, in patient-level standard deviations. Of 100
    simulated quiet years a floor of 1.2 fired in a few, by references that chance had moved so far."""

    long_label_level: Share = 0.002
    """The level of the long view's case mix. A mix wanders by itself; a new one for the priors may come once in years,
    not in weeks."""

    novel_tail: Share = 0.01
    """Share of a reference like the window's patients that lies beyond the bound of being unlike."""

    novel_floor: Share = 0.11
    """Smallest share of patients unlike any of the reference's that is called drift. Of 100 simulated quiet years 0.08
    fired 0.3 times in one, in few hospitals, whose references lack by chance a kind of patient that comes."""

    mmd_level: Share = 0.01
    """The level of the long view's maximum mean discrepancy. One long view is enough to fire."""

    mmd_floor: Floor = 0.25
    """Smallest maximum mean discrepancy that is called drift, in deviations of a patient, all directions together. Of
    400 simulated quiet hospitals one had 0.24 or more."""

    long_patients_reviewed: Annotated[int, Field(ge=10)] = 60
    """Patients whose latest reviews the long view counts: about a thousand cells' worth. Older ones hide what is
    new."""

    smallest_share_factor: Share = 0.25
    """The rarest class may fall to this share of the rarest one's in the reference. Relative, because 1.5 % of L3 is
    what childhood leukemia looks like (FAB: at most 3 % of the leukemic), not a fault."""

    extremes_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 4.0
    """The ratio of the commonest to the rarest class may grow to this many times the reference's."""

    entropy_factor: Share = 0.6
    """The normalised entropy of the classes may fall to this share of the reference's."""

    max_share_referred: Share = 0.5
    """Share of cells referred to a person above which the service no longer takes work off anybody."""

    max_share_ood: Share = 0.2
    """Share of cells out of distribution: the threshold lets about 1 to 5 % of known cells over it."""

    max_share_without_patient: Share = 0.5
    """Share of cells without a patient above which the tests speak for a minority of the cells."""

    min_reviewed_cells: Count = 50
    """Randomly sampled reviews below which performance is insufficient."""

    min_reviewed_patients: Annotated[int, Field(ge=3)] = 10
    """Patients among them."""

    min_reviewed_per_class: Count = 5
    """Reviews of a class below which its sensitivity does not enter balanced accuracy."""

    max_reviews: Count = 1000
    """Latest reviews that count, by the order of the answers: performance is of now, not of the model's whole life."""

    performance_margin: Share = 0.05
    """Points of balanced accuracy that may be lost: the gate's non-inferiority margin."""

    calibration_floor: Share = 0.03
    """Smallest share of answers wrong beyond what the model says of itself that is called drift: the calibration error
    that a model may have when it is let in."""

    min_ece_cells: Count = 500
    """Reviewed cells below which no calibration error is shown: the bound of 0.03 is for slices of as many."""

    max_disagreement: Share = 0.2
    """Share of the cells read twice on which the readers may differ. Two readers who are each wrong, independently, on
    every tenth cell differ on at most twice as many: labels less sure than that show no loss of a few points."""

    picture_tail: Annotated[float, Field(gt=0, lt=0.5)] = 0.005
    """Share of the reference's cells beyond each end of what counts as its range of sharpness, brightness or
    saturation."""

    max_share_outside: Share = 0.1
    """Share of a window's cells that may lie outside that range: ten times what is expected at both ends, which leaves
    room for one patient in ten whose slide is unlike the others'."""

    slice_min_cells: Count = 100
    """Cells (with a patient) that a slice, or what planned changes leave of a window, must have: half a window."""

    slice_min_patients: Annotated[int, Field(ge=3)] = 8
    """Patients that a slice must have: as many as of the reference, below which nothing shows how patients differ."""

    max_slices: Count = 8
    """Slices judged a window, the largest: each one more makes the others harder to find, and is a label of gauges."""


class PolicySettings(_Settings):
    """When findings become decisions. design.md, Monitoring, policy."""

    fire_windows: Count = 3
    """Windows that must be out …"""

    fire_of: Count = 5
    """… of this many last ones that said anything."""

    clear_windows: Count = 5
    """Windows in a row, of those that said anything, that must be clear for an alarm to go."""

    clear_below: Share = 0.7
    """A window is clear when every finding is below this share of what `drift` asks."""

    slice_gone_s: Positive = 30 * 86400.0
    """Seconds after which a slice that no window judged is gone, and its alarm with it: a scanner that was taken away
    has no windows that could clear it."""

    cooldown_s: Floor = 24 * 3600.0
    """Seconds between the starts of two retrainings."""

    budget_runs: Count = 2
    """Retrainings …"""

    budget_period_s: Positive = 7 * 86400.0
    """… that may start within this many seconds."""

    breaker_refusals: Count = 2
    """Refused candidates in a row that open the breaker; only a person closes it."""

    min_reviewed_cells: Count = 200
    """Reviewed cells with pixels that a retraining needs: about one window's worth of the new world."""

    min_reviewed_patients: Count = 10
    """Patients that they must come from: fewer can be learned by heart."""

    schedule_days: Floor = 0.0
    """Days since the start of the last retraining, or since the first model went into production, after which one is
    asked for whatever the windows say; 0 is never. Off by default: a model that nothing speaks against is not improved
    by another draw of chance."""

    schedule_hour: Annotated[int, Field(ge=0, le=23)] | None = None
    """Hour of the day, in UTC, within which a scheduled one may start, e.g. 2 for 02:00 to 02:59; none: any."""

    enough_reviews: Annotated[int, Field(ge=0)] = 0
    """New reviewed cells with pixels that ask for a retraining by themselves; 0 is never. Off by default: reviews are
    mostly of the cells that were hard, and that there are many says nothing of the model."""
