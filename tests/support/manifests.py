"""Manifests of made-up cells, without pictures."""

import hashlib

import pandas as pd

from training.expectations import COLUMNS

LABELS = ("healthy", "L1", "L2", "L3")


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def row(label: str, patient: str, number: int, site: str = "site-a") -> dict[str, object]:
    """One cell as `prepare` would have it."""
    pixels = sha(f"{patient}/{number}/{label}")
    group = f"pixels:{pixels[:32]}"
    return {
        "path": f"cells/{pixels}.png", "sha256": sha(pixels), "pixels_sha256": pixels, "label": label,
        "patient": patient,
        "site": site, "stain": "wright-giemsa", "scanner": "scanner-a", "pixel_size_um": 0.15625,
        "source": f"{patient}#{number}", "order": number, "width": 128, "height": 128, "file_bytes": 20_000,
        "group": group, "near": group, "unit": patient or group,
        "brightness": 0.7, "contrast": 0.2, "sharpness": 0.03, "hue": -0.1, "saturation": 0.4,
    }  # fmt: skip


def manifest(patients: int = 12, cells: int = 5, *, site: str = "site-a", prefix: str = "p") -> pd.DataFrame:
    """`patients` of each label with `cells` each; the leukemic ones have one healthy cell more."""
    rows = []
    for label in LABELS:
        for number in range(patients):
            name = f"{prefix}-{label}-{number:02d}"
            rows += [row(label, name, k, site) for k in range(cells)]
            rows += [row("healthy", name, cells, site)] if label != "healthy" else []
    return pd.DataFrame(rows, columns=list(COLUMNS))


def anonymous(cells: int = 40) -> pd.DataFrame:
    """`cells` of each label, of nobody known."""
    return pd.DataFrame([row(label, "", k) for label in LABELS for k in range(cells)], columns=list(COLUMNS))
