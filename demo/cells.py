"""The demo's patients: who sends what, from which site, and who is never reviewed."""

from training.datasets import SourceCell, synthetic

OLD_SITE = "site-a"
NEW_SITE = "site-b"

# Patients by diagnosis. The new site is an adult clinic: another case mix beside another scanner.
OLD_MIX = {"healthy": 10, "L1": 10, "L2": 5, "L3": 2}
NEW_MIX = {"healthy": 40, "L1": 34, "L2": 40, "L3": 26}
TRICKLE_MIX = {"healthy": 40, "L1": 34, "L2": 40, "L3": 26}
JUDGE_MIX = {"healthy": 16, "L1": 16, "L2": 16, "L3": 16}
CELLS_PER_PATIENT = 10


def old_site_cells(seed: int = 101) -> list[SourceCell]:
    """A quiet day at the site that the model was trained for."""
    return synthetic.stream(OLD_SITE, seed=seed, patients=OLD_MIX, cells_per_patient=CELLS_PER_PATIENT, prefix="quiet")


def new_site_cells(site: str = NEW_SITE, seed: int = 102) -> list[SourceCell]:
    """The stream that the demo is about; `site` lets a test send the same patients' mix without the shift."""
    mix = NEW_MIX if site == NEW_SITE else {name: 5 * count for name, count in OLD_MIX.items()}
    return synthetic.stream(site, seed=seed, patients=mix, cells_per_patient=CELLS_PER_PATIENT, prefix="stream")


def trickle_cells(seed: int = 103) -> list[SourceCell]:
    """Cells that keep coming while the pipeline runs."""
    return synthetic.stream(
        NEW_SITE, seed=seed, patients=TRICKLE_MIX, cells_per_patient=CELLS_PER_PATIENT, prefix="trickle"
    )


def judging_cells(site: str, seed: int) -> list[SourceCell]:
    """Cells of patients that nobody reviewed and no model was trained on."""
    return synthetic.stream(site, seed=seed, patients=JUDGE_MIX, cells_per_patient=8, prefix="judge")
