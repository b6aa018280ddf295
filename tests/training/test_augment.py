"""What the further changes do to pictures, and that what is off draws nothing."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.networks import smears
from training.augment import AugmentConfig, augment, erase, mix, move, turn
from training.models.stain import transmitted

OFF = AugmentConfig(0, 0, 0, 0, 0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blob(number: int, size: int = 65) -> Tensor:
    """float32 [number, 1, size, size]: a round spot off the centre, to its right."""
    y, x = np.mgrid[:size, :size] - size // 2
    spot = np.exp(-(y**2 + (x - 10) ** 2) / 18)
    return torch.from_numpy(spot.astype(np.float32)).expand(number, 1, size, size).contiguous()


class Moments(NamedTuple):
    """Of a spot: total light, and its centre right of and below the middle, in pixels."""

    total: Tensor
    right: Tensor
    down: Tensor


def moments(spot: Tensor) -> Moments:
    size = spot.shape[-1]
    axis = torch.arange(size) - size // 2
    total = spot.sum(dim=(1, 2, 3))
    right = (spot * axis).sum(dim=(1, 2, 3)) / total
    down = (spot * axis[:, None]).sum(dim=(1, 2, 3)) / total
    return Moments(total, right, down)


def test_what_is_off_draws_nothing() -> None:
    """The generator is where it was with the five changes that there were before."""
    images = torch.from_numpy(smears(6))
    for on in ("rotate", "zoom", "shift", "erase"):
        plain, further = seeded(), seeded()
        augment(images, AugmentConfig(), plain)
        augment(images, replace(AugmentConfig(), **{on: 0.2}), further)
        assert not torch.equal(plain.get_state(), further.get_state()), on
    again = seeded()
    augment(images, OFF, again)
    expected = seeded()
    half = 3
    torch.randint(0, 8, (6,), generator=expected)
    torch.rand(half, 1, 1, 1, generator=expected)
    torch.randn(8, 3, 32, 32, generator=expected)
    torch.randint(0, 8, (6 - half,), generator=expected)
    for number in (6 - half, 6, 6):
        torch.rand(number, 1, 1, 1, generator=expected)
    torch.randn(6, 3, 3, generator=expected)
    assert torch.equal(again.get_state(), expected.get_state())


def test_rotation_keeps_the_distance_from_the_centre_and_reaches_every_angle() -> None:
    found = moments(move(blob(300), replace(OFF, rotate=180.0), seeded()))
    distance = torch.hypot(found.right, found.down)
    assert distance.numpy() == pytest.approx(10, abs=0.1)
    angle = torch.atan2(found.down, found.right)
    assert np.histogram(angle.numpy(), bins=8, range=(-np.pi, np.pi))[0].min() > 15
    little = moments(move(blob(300), replace(OFF, rotate=10.0), seeded()))
    degrees = torch.rad2deg(torch.atan2(little.down, little.right)).abs()
    assert 9 < degrees.max() <= 10.2


def test_zoom_scales_areas_and_shift_moves() -> None:
    zoomed = moments(move(blob(200), replace(OFF, zoom=0.2), seeded()))
    size = zoomed.right / 10
    assert 0.79 < size.min() < 0.83 and 1.17 < size.max() < 1.21
    assert (zoomed.total / moments(blob(1)).total).numpy() == pytest.approx((size**2).numpy(), rel=0.05)
    shifted = moments(move(blob(200), replace(OFF, shift=0.1), seeded()))
    for moved in (shifted.right - 10, shifted.down):
        assert 5.5 < moved.abs().max() <= 6.6 and abs(moved.mean()) < 1


def test_no_move_is_no_change_and_what_comes_in_at_the_edge_is_the_picture_mirrored() -> None:
    light = transmitted(torch.from_numpy(smears(4)))
    assert torch.allclose(move(light, OFF, seeded()), light, atol=1e-5)
    flat = torch.full((8, 3, 32, 32), 0.7)
    assert torch.allclose(move(flat, replace(OFF, rotate=180.0, zoom=0.5, shift=0.4), seeded()), flat, atol=1e-5)


def test_erasing_covers_every_other_picture_with_its_mean() -> None:
    density = torch.rand(400, 3, 32, 32, generator=seeded(1))
    before = density.clone()
    erased = erase(density, 0.3, seeded())
    assert torch.equal(erased[1::2], before[1::2])
    changed = (erased[::2] != before[::2]).any(dim=1)  # (n, H, W)
    share = changed.float().mean(dim=(1, 2))
    assert 0.25 < share.max() <= 0.35 and abs(float(share.mean()) - 0.15) < 0.03
    k = int(share.argmax())
    rows, columns = changed[k].any(dim=1), changed[k].any(dim=0)
    assert int(changed[k].sum()) == int(rows.sum() * columns.sum()), "a rectangle"
    inside = erased[2 * k][:, changed[k]]
    assert torch.allclose(inside, before[2 * k].mean(dim=(1, 2))[:, None].expand_as(inside), atol=1e-6)


def test_mixing_is_a_weighted_sum_with_a_partner() -> None:
    density = torch.rand(16, 3, 8, 8, generator=seeded(1))
    mixed = mix(density, 0.4, seeded())
    assert sorted(mixed.partner.tolist()) == list(range(16))
    expected = mixed.share * density + (1 - mixed.share) * density[mixed.partner]
    assert torch.allclose(mixed.density, expected, atol=1e-6)
    shares = [mix(density, 0.2, seeded(seed)).share for seed in range(200)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.08)
    assert np.mean([share < 0.1 or share > 0.9 for share in shares]) > 0.5, "Beta(0.2, 0.2) is mostly near the ends"


def test_the_same_seed_makes_the_same_picture_with_everything_on() -> None:
    images = torch.from_numpy(smears(10))
    config = AugmentConfig(rotate=30, zoom=0.1, shift=0.1, erase=0.2)
    one, again, other = (augment(images, config, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.shape == (10, 3, 32, 32) and one.isfinite().all()


def test_turns_as_a_device_does_them_are_the_same_pictures() -> None:
    images = torch.from_numpy(smears(64))
    way = torch.randint(0, 8, (64,), generator=seeded())[:, None, None, None]
    there = torch.where(way & 1 == 1, torch.rot90(images, 1, dims=(1, 2)), images)
    there = torch.where(way & 2 == 2, torch.rot90(there, 2, dims=(1, 2)), there)
    assert torch.equal(torch.where(way >= 4, there.flip(2), there), turn(images, seeded()))


@pytest.mark.parametrize("change", [{"rotate": 181.0}, {"zoom": 1.0}, {"erase": -0.1}, {"mixup": 11.0}])
def test_changes_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        AugmentConfig(**change)
    AugmentConfig(rotate=180.0, mixup=10.0)
