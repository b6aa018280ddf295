"""Killed at any moment, on a disk that forgets what was not synced: what was answered is in the store, once."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from service.contract.store import Store
from tests.service.crash_worker import POINTS, Death, Life, recover
from tests.support.entries import prediction, review

CHAINS = 20
LIVES = 10  # a chain: each life finds what the ones before it left behind
PASSINGS = {"enqueue": 25, "write": 10, "fsync": 10, "reply": 25, "ship": 3, "truncate": 3}


class Nursery:
    """A process that lives lives."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.service.crash_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def live(self, life: Life) -> Death:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(life)), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return Death([(name, number) for name, number in answer["answered"]], answer["killed"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where the system has such a folder: the disk that matters here is the forgetful one."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@dataclass
class Verdict:
    """Answers compared with the store by their ids."""

    answered: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    one = Nursery()
    yield one
    one.close()


def run(nursery: Nursery, folder: Path, verdict: Verdict, *, seed: int, points: list[str], mutant: str = "") -> None:
    """A chain of lives that end at these points, a recovery, and the comparison."""
    rng = random.Random(seed)
    root, url = folder / "journal", f"sqlite:///{folder / 'store.db'}"
    store = Store(url)
    answered: list[tuple[str, int]] = []
    for number, point in enumerate(points):
        life = Life(
            str(root), url, f"{seed}.{number}", rng.randrange(2**32), point, rng.randint(1, PASSINGS[point]), mutant
        )
        death = nursery.live(life)
        assert death.killed, f"{life} was not killed"
        verdict.killed[point] += 1
        answered += death.answered
    assert recover(root, store)
    if not mutant:
        assert list(root.iterdir()) == []  # nothing set aside as damaged, no folder left
    compare(store, answered, verdict)
    store.close()


def compare(store: Store, answered: list[tuple[str, int]], verdict: Verdict) -> None:
    found = [stored.record for stored in store.predictions()]
    seen = Counter(record.record_id for record in found)
    records = {record.record_id: record for record in found}
    reviews = {one.review_id: one for _, one in store.reviewed()}
    verdict.answered += len(answered)
    verdict.doubled += [name for name, times in seen.items() if times > 1]
    for name, number in answered:
        sent = prediction(number, name)
        if sent.record_id not in records:
            verdict.lost.append(sent.record_id)
        elif records[sent.record_id] != sent:
            verdict.altered.append(sent.record_id)
        if number % 3 == 0 and review(number, name).review_id not in reviews:
            verdict.lost.append(review(number, name).review_id)


def test_two_hundred_kills_lose_nothing_and_double_nothing(nursery: Nursery, fast_path: Path) -> None:
    verdict = Verdict()
    for chain in range(CHAINS):
        points = [POINTS[(chain * LIVES + life) % len(POINTS)] for life in range(LIVES)]
        random.Random(chain).shuffle(points)
        folder = fast_path / str(chain)
        folder.mkdir()
        run(nursery, folder, verdict, seed=chain, points=points)
        assert verdict.lost == verdict.doubled == verdict.altered == [], f"chain {chain}"
    assert verdict.killed.total() == 200
    assert min(verdict.killed[point] for point in POINTS) >= 33
    assert verdict.answered > 1000


@pytest.mark.parametrize(
    ("mutant", "points"),
    [
        ("never syncs", ["write", "reply"]),
        ("never syncs names", ["fsync", "reply"]),
        ("answers first", ["write", "enqueue"]),
        ("removes first", ["truncate"]),
    ],
)
def test_without_the_promise_the_same_check_finds_losses(
    nursery: Nursery, fast_path: Path, mutant: str, points: list[str]
) -> None:
    verdict = Verdict()
    run(nursery, fast_path, verdict, seed=1, points=points * (12 // len(points)), mutant=mutant)
    assert verdict.lost
    assert verdict.doubled == verdict.altered == []
