"""A training that is killed goes on to the same weights, bit for bit, as one that is left alone."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.networks import SMALL, discs
from training.arrays import read_npz
from training.augment import AugmentConfig
from training.checkpoint import Checkpoint, key_of
from training.fit import Epoch, Examples, Fitted, TrainConfig, fit

REPO = Path(__file__).parents[2]
CONFIG = TrainConfig(epochs=5, patience=5, batch=16, threads=2, device="cpu", learning_rate=0.01)
EVERYTHING = AugmentConfig(rotate=20.0, zoom=0.05, shift=0.05, erase=0.1, mixup=0.2)


def fitted(
    checkpoint: Path | None = None, key: str = "it", config: TrainConfig = CONFIG, **callbacks: object
) -> Fitted:
    kept = Checkpoint(checkpoint, key) if checkpoint else None
    cells = Examples(*discs(80))
    others = Examples(*discs(30, seed=1))
    return fit(cells, others, SMALL, config, EVERYTHING, checkpoint=kept, **callbacks)  # type: ignore[arg-type]


def same(one: Fitted, other: Fitted) -> bool:
    return (
        one.history == other.history
        and list(one.weights) == list(other.weights)
        and all(np.array_equal(value, other.weights[name]) for name, value in one.weights.items())
    )


SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests.training.test_resume import fitted

seen = []
def on_step(cells):
    seen.append(cells)
    if len(seen) == 5 * 2 + 3:  # in the middle of the third epoch
        os.kill(os.getpid(), signal.SIGKILL)
fitted(Path(sys.argv[1]), on_step=on_step)
"""


def test_a_process_killed_in_the_middle_of_training_changes_no_bit(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint" / "train.npz"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    ended = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(read_npz(path)["history"]) == 2
    told: list[Epoch] = []
    resumed = fitted(path, on_epoch=told.append)
    undisturbed = fitted()
    assert resumed.resumed == 2 and undisturbed.resumed == 0
    assert tuple(told) == resumed.history
    assert same(resumed, undisturbed)
    assert not list(path.parent.glob(".*")), "nothing half-written is left"


@pytest.mark.parametrize(
    "change", [{"loss": "focal"}, {"loss": "logit_adjusted"}, {"average": 0.0}, {"amp": "on"}, {"patience": 1}]
)
def test_every_kind_of_training_goes_on_to_the_same_weights(tmp_path: Path, change: dict[str, object]) -> None:
    config = replace(CONFIG, threads=1, epochs=3, **change)  # type: ignore[arg-type]

    class Stop(Exception):
        pass

    def stop(epoch: Epoch) -> None:
        if epoch.number == 1:
            raise Stop

    with pytest.raises(Stop):
        fitted(tmp_path / "c.npz", config=config, on_epoch=stop)
    resumed = fitted(tmp_path / "c.npz", config=config)
    assert resumed.resumed == 1 and same(resumed, fitted(config=config))


def test_a_finished_training_that_was_not_told_off_is_only_read(tmp_path: Path) -> None:
    first = fitted(tmp_path / "c.npz")
    again = fitted(tmp_path / "c.npz")
    assert again.resumed == len(first.history) and same(first, again)
    Checkpoint(tmp_path / "c.npz", "it").delete()
    assert not (tmp_path / "c.npz").exists()


def test_the_state_of_another_training_or_a_damaged_one_is_never_used(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    fitted(path, config=replace(CONFIG, epochs=1))
    assert Checkpoint(path, "another").load() is None
    other = replace(CONFIG, epochs=2, seed=1)
    assert same(fitted(path, key="another", config=other), fitted(config=other))
    path.write_bytes(path.read_bytes()[:-100])
    assert Checkpoint(path, "another").load() is None


def test_the_key_is_of_settings_and_cells() -> None:
    key = key_of({"a": 1}, ["one", "two"])
    assert key == key_of({"a": 1}, iter(["one", "two"]))
    others = [key_of({"a": 2}, ["one", "two"]), key_of({"a": 1}, ["two", "one"]), key_of({"a": 1}, ["onetwo"])]
    assert len({key, *others}) == 4
