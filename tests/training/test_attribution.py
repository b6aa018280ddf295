"""Integrated gradients add up to what they explain, and fall where a planted network looks."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support.networks import network, smears
from training.attribution import draw, inside, integrated_gradients, report
from training.datasets.masks import CYTOPLASM, NUCLEUS, REST
from training.models.stain import optical_density


def test_attribution_adds_up_to_the_logits_change_along_the_path() -> None:
    found, images = network(), smears(3)
    target = np.array([0, 1, 2])
    values = integrated_gradients(found, images, target, steps=3000)
    assert values.shape == (3, 32, 32)
    with torch.no_grad():
        density = optical_density(torch.from_numpy(images))
        glass = torch.quantile(density.flatten(2), 0.05, dim=2)[..., None, None].expand_as(density)
        change = (found(density)[0] - found(glass)[0])[range(3), target]
    assert values.sum(axis=(1, 2)) == pytest.approx(change.numpy(), rel=0.05, abs=0.04)  # untrained: full of kinks


def corner(density: Tensor) -> tuple[Tensor, Tensor]:
    """A network that looks at the upper left quarter alone."""
    seen = density[:, :, :16, :16].sum(dim=(1, 2, 3))
    return torch.stack([seen, -seen], dim=1), seen


def test_shares_are_of_where_the_network_looks() -> None:
    images = np.random.default_rng(0).integers(20, 120, (4, 32, 32, 3)).astype(np.uint8)
    images[:, 20:, 20:] = 255  # glass
    values = integrated_gradients(corner, images, np.zeros(4, dtype=np.int64), steps=4)
    mask = np.full((32, 32), REST, dtype=np.uint8)
    mask[:16, :16] = CYTOPLASM
    mask[4:8, 4:8] = NUCLEUS
    other = np.full((32, 32), REST, dtype=np.uint8)
    other[16:, 16:] = NUCLEUS
    found = inside(values, [mask, mask, other, other])
    assert found["cell"] == pytest.approx([1, 1, 0, 0]) and found["cell_area"] == pytest.approx([0.25] * 4)
    assert found["nucleus"][:2] == pytest.approx([16 / 256] * 2, abs=0.03)
    said = report(found, np.array(["a", "b", "c", "d"]))
    assert said["cell"]["value"] == 0.5 and said["cell"]["interval"][0] < 0.5 < said["cell"]["interval"][1]
    assert said["cell_over_area"]["value"] == pytest.approx(2.0)


def test_a_cell_that_nothing_speaks_for_is_counted_apart(tmp_path: Path) -> None:
    values = np.stack([np.ones((8, 8)), -np.ones((8, 8))])
    mask = np.full((8, 8), REST, dtype=np.uint8)
    mask[:4] = NUCLEUS
    said = report(inside(values, [mask, mask]), np.array(["a", "b"]))
    assert (said["cells"], said["without_positive_attribution"]) == (1, 1)
    assert said["cell"]["value"] == 0.5
    draw(tmp_path / "a.png", np.full((2, 8, 8, 3), 200, dtype=np.uint8), values, [mask, mask])
    assert Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())).width > 300
