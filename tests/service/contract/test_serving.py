"""What the ledger's rows ask of workers, and that a share of keys is one and always the same."""

from pathlib import Path

import pytest

from service.contract.ledger import Ledger
from service.contract.serving import KINDS, Serving, Share, serving_of

KEYS = [f"patient {number}" for number in range(4000)]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/store.db")


def now(ledger: Ledger) -> Serving:
    return serving_of(ledger.rows(*KINDS))


def began(ledger: Ledger, what: str, version: str = "b" * 32) -> None:
    ledger.append(f"{what}_started", version=version, share=0.25, by="sre", why="to see")


def test_nothing_is_asked_at_first(ledger: Ledger) -> None:
    assert now(ledger) == Serving()


def test_the_kill_switch_goes_on_and_off_and_outlives_a_promotion(ledger: Ledger) -> None:
    ledger.append("refer_all_on", by="sre", why="odd answers")
    ledger.promote("a" * 32, None)
    assert now(ledger).refer_all
    ledger.append("refer_all_off", by="sre", why="understood")
    assert not now(ledger).refer_all


@pytest.mark.parametrize("what", ["canary", "shadow"])
def test_one_begins_is_replaced_and_ends(ledger: Ledger, what: str) -> None:
    began(ledger, what)
    first = getattr(now(ledger), what)
    assert (first.version, first.share) == ("b" * 32, 0.25)
    began(ledger, what, "c" * 32)
    second = getattr(now(ledger), what)
    assert second.version == "c" * 32
    assert second.salt != first.salt
    ledger.append(f"{what}_ended", version="c" * 32, by="sre", why="seen")
    assert now(ledger) == Serving()


def test_a_promotion_and_a_rollback_end_the_canary(ledger: Ledger) -> None:
    ledger.promote("a" * 32, None)
    began(ledger, "canary")
    ledger.promote("d" * 32, "a" * 32)
    assert now(ledger).canary is None
    began(ledger, "canary")
    ledger.rollback(by="sre")
    assert now(ledger).canary is None


def test_a_shadow_goes_on_until_it_is_in_production(ledger: Ledger) -> None:
    ledger.promote("a" * 32, None)
    began(ledger, "shadow")
    ledger.promote("c" * 32, "a" * 32)
    assert now(ledger).shadow is not None
    ledger.promote("b" * 32, "c" * 32)
    assert now(ledger).shadow is None


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_share_of_the_keys_is_in_it(share: float) -> None:
    one = Share("v", share, "salt")
    inside = [key for key in KEYS if one.has(key)]
    # Five standard deviations of a binomial draw.
    assert abs(len(inside) / len(KEYS) - share) < 5 * (share * (1 - share) / len(KEYS)) ** 0.5
    assert inside == [key for key in KEYS if Share("v", share, "salt").has(key)]
    assert set(inside) <= {key for key in KEYS if Share("v", share * 1.5, "salt").has(key)}


def test_another_draw_is_of_other_keys_and_a_whole_share_of_all() -> None:
    one, other = Share("v", 0.5, "a"), Share("v", 0.5, "b")
    agree = sum(one.has(key) == other.has(key) for key in KEYS) / len(KEYS)
    assert 0.45 < agree < 0.55
    assert all(Share("v", 1.0, "a").has(key) for key in KEYS)
