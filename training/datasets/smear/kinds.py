"""What cells of a kind look like: one row a kind.

Sources: Bennett et al., "Proposals for the classification of the acute leukaemias" (FAB), Br J Haematol 33 (1976)
451–458, and haematology texts. They disagree on L1's size, and cells vary, so the distributions overlap: no single
figure tells a kind.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind's distributions. Pairs are (mean, SD) unless said otherwise; lengths in µm; contrasts are relative."""

    label: str
    diameter: tuple[float, float]
    diameter_range: tuple[float, float]
    """Smallest and largest."""
    nucleus_ratio: tuple[float, float]
    """Nucleus diameter over cell diameter; its square is the nucleus's share of the cell."""
    oval: float
    """SD of the nucleus's elongation."""
    irregular: float
    """SD of each harmonic of the nucleus's outline."""
    indented: float
    """Probability of each of two notches."""
    notch_depth: float
    folded: float
    """Probability of a fold across the nucleus."""
    chromatin_density: tuple[float, float]
    clump: tuple[float, float]
    """Contrast of coarse chromatin blocks."""
    clump_um: float
    """Their wavelength."""
    stipple: tuple[float, float]
    """Contrast of fine chromatin."""
    stipple_um: float
    nucleoli: tuple[int, int]
    """Fewest and most."""
    nucleolus_radius: tuple[float, float]
    nucleolus_contrast: float
    basophilia: tuple[float, float]
    """Blue dye in the cytoplasm."""
    vacuoles: tuple[int, int]
    """Fewest and most."""
    granules: tuple[int, int]
    """Fewest and most azurophilic granules."""


KINDS: dict[str, Kind] = {
    "small lymphocyte": Kind(
        label="healthy",
        diameter=(9.6, 0.9),
        diameter_range=(7.0, 11.5),
        nucleus_ratio=(0.87, 0.03),
        oval=0.05,
        irregular=0.012,
        indented=0.10,
        notch_depth=0.10,
        folded=0.0,
        chromatin_density=(1.15, 0.12),
        clump=(0.26, 0.06),
        clump_um=2.3,
        stipple=(0.06, 0.02),
        stipple_um=0.8,
        nucleoli=(0, 0),
        nucleolus_radius=(0.5, 0.1),
        nucleolus_contrast=0.4,
        basophilia=(0.40, 0.10),
        vacuoles=(0, 0),
        granules=(0, 0),
    ),
    "large lymphocyte": Kind(
        label="healthy",
        diameter=(12.2, 1.3),
        diameter_range=(9.0, 15.0),
        nucleus_ratio=(0.73, 0.05),
        oval=0.12,
        irregular=0.015,
        indented=0.15,
        notch_depth=0.14,
        folded=0.0,
        chromatin_density=(1.02, 0.12),
        clump=(0.22, 0.06),
        clump_um=2.3,
        stipple=(0.07, 0.02),
        stipple_um=0.8,
        nucleoli=(0, 0),
        nucleolus_radius=(0.5, 0.1),
        nucleolus_contrast=0.4,
        basophilia=(0.34, 0.10),
        vacuoles=(0, 0),
        granules=(0, 9),
    ),
    "L1": Kind(
        label="L1",
        diameter=(11.3, 1.3),
        diameter_range=(9.0, 15.0),
        nucleus_ratio=(0.89, 0.03),
        oval=0.06,
        irregular=0.018,
        indented=0.28,
        notch_depth=0.16,
        folded=0.03,
        chromatin_density=(1.00, 0.12),
        clump=(0.06, 0.03),
        clump_um=2.0,
        stipple=(0.07, 0.02),
        stipple_um=0.8,
        nucleoli=(0, 1),
        nucleolus_radius=(0.45, 0.10),
        nucleolus_contrast=0.35,
        basophilia=(0.50, 0.12),
        vacuoles=(0, 0),
        granules=(0, 0),
    ),
    "L2": Kind(
        label="L2",
        diameter=(14.4, 1.5),
        diameter_range=(11.0, 18.0),
        nucleus_ratio=(0.81, 0.05),
        oval=0.12,
        irregular=0.035,
        indented=0.65,
        notch_depth=0.26,
        folded=0.45,
        chromatin_density=(0.90, 0.12),
        clump=(0.11, 0.05),
        clump_um=1.7,
        stipple=(0.16, 0.05),
        stipple_um=0.75,
        nucleoli=(1, 3),
        nucleolus_radius=(0.85, 0.18),
        nucleolus_contrast=0.55,
        basophilia=(0.52, 0.18),
        vacuoles=(0, 1),
        granules=(0, 0),
    ),
    "L3": Kind(
        label="L3",
        diameter=(13.4, 1.0),
        diameter_range=(11.0, 16.5),
        nucleus_ratio=(0.76, 0.04),
        oval=0.06,
        irregular=0.012,
        indented=0.06,
        notch_depth=0.10,
        folded=0.0,
        chromatin_density=(1.00, 0.10),
        clump=(0.04, 0.02),
        clump_um=1.7,
        stipple=(0.20, 0.04),
        stipple_um=0.65,
        nucleoli=(2, 4),
        nucleolus_radius=(0.65, 0.12),
        nucleolus_contrast=0.6,
        basophilia=(0.85, 0.15),
        vacuoles=(8, 18),
        granules=(0, 0),
    ),
}
KIND_NAMES = tuple(KINDS)
