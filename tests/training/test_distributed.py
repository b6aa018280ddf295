"""Two real processes share a training over gloo, as torchrun starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from service.contract.errors import ConfigError
from service.contract.files import write_atomic
from service.contract.image import encode_png, pixels_sha256
from tests.support.networks import SMALL, discs
from training.arrays import read_npz, write_npz
from training.augment import AugmentConfig
from training.checkpoint import Checkpoint
from training.distributed import Group, joined
from training.fit import Epoch, Examples, Fitted, TrainConfig, fit
from training.losses import Loss

REPO = Path(__file__).parents[2]
CONFIG = TrainConfig(epochs=4, patience=4, batch=16, threads=2, device="cpu", learning_rate=0.01)


def torchrun(*command: str, cwd: Path = REPO) -> str:
    """Standard output of two processes on this machine."""
    # `python -m` puts the working folder first; the package is found wherever that is.
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]
    ended = subprocess.run(started, cwd=cwd, env=environment, check=False, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


class Stop(Exception):
    """In the place of a kill."""


def shared(folder: Path) -> None:
    """What each process of the test below does: an undisturbed training, and one that stops and goes on."""
    cells, others = Examples(*discs(83)), Examples(*discs(31, seed=1))

    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise Stop

    with joined("cpu") as group:

        def run(**options: object) -> Fitted:
            return fit(cells, others, SMALL, CONFIG, AugmentConfig(), group=group, **options)  # type: ignore[arg-type]

        alone = run()
        kept = Checkpoint(folder / "checkpoint.npz", "key")
        try:
            run(checkpoint=kept, on_epoch=stop)
        except Stop:
            group.wait()
        again = run(checkpoint=kept)
        for name, found in (("undisturbed", alone), ("resumed", again)):
            write_npz(folder / f"{name}-{group.rank}.npz", found.weights)
            text = json.dumps({"resumed": found.resumed, "history": [vars(epoch) for epoch in found.history]})
            write_atomic(folder / f"{name}-{group.rank}.json", text)


def test_every_process_ends_with_the_same_weights_and_goes_on_to_them(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        "from tests.training.test_distributed import shared; shared(Path(sys.argv[1]))"
    )
    torchrun(str(script), str(tmp_path))
    first = read_npz(tmp_path / "undisturbed-0.npz")
    for name in ("undisturbed-1", "resumed-0", "resumed-1"):
        other = read_npz(tmp_path / f"{name}.npz")
        assert all(np.array_equal(value, other[key]) for key, value in first.items()), name
    said = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("undisturbed-0", "resumed-0", "resumed-1")]
    assert [one["resumed"] for one in said] == [0, 2, 2]
    assert said[0]["history"] == said[1]["history"] == said[2]["history"]
    # Other draws than one process makes, and other statistics of a batch: near its losses, not equal to them.
    single = fit(Examples(*discs(83)), Examples(*discs(31, seed=1)), SMALL, CONFIG, AugmentConfig())
    assert said[0]["history"][-1]["train_loss"] == pytest.approx(single.history[-1].train_loss, rel=0.2)
    assert not all(np.array_equal(value, single.weights[key]) for key, value in first.items())


def workspace(folder: Path) -> None:
    """The files that the train stage reads."""
    images, label = discs(60)
    rows = []
    for k, picture in enumerate(images):
        name = pixels_sha256(picture)
        write_atomic(folder / f"prepared/cells/{name}.png", encode_png(picture))
        split = "validation" if k >= 40 else "train"
        rows.append({"path": f"cells/{name}.png", "label": f"size {label[k]}", "split": split})
    table = pd.DataFrame(rows)
    table.drop(columns="split").to_parquet(folder / "prepared/manifest.parquet")
    table.to_parquet(folder / "prepared/split.parquet")
    labels = json.dumps({"labels": ["size 0", "size 1", "size 2"]})
    write_atomic(folder / "prepared/dataset.json", labels)
    model = {"channels": [4, 8, 8], "gru_hidden": 8, "features": 12, "dropout": 0.1}
    train = {"epochs": 2, "threads": 2, "device": "cpu", "batch": 16}
    write_atomic(folder / "params.yaml", yaml.safe_dump({"model": model, "train": train}))


def test_the_train_stage_runs_under_torchrun_and_one_process_writes(tmp_path: Path) -> None:
    workspace(tmp_path)
    write_npz(tmp_path / "build/pretrained.npz", {})
    said = torchrun("-m", "training.train", cwd=tmp_path)
    assert said.count("2 epochs of 40 cells") == 1 and said.count("kept epoch") == 1
    assert set(read_npz(tmp_path / "build/weights.npz")) >= {"classify.weight", "classify.bias"}
    assert json.loads((tmp_path / "build/model_config.json").read_text())["classes"] == 3
    assert json.loads((tmp_path / "reports/training/metrics.json").read_text())["step"] == 1
    assert list((tmp_path / "build").rglob("checkpoint/*")) == [], "what it would have gone on from is gone"


def test_shares_make_the_whole_batchs_loss() -> None:
    rng = torch.Generator().manual_seed(0)
    label = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2])
    logits = torch.randn(8, 3, generator=rng)
    for kind in ("weighted", "focal", "logit_adjusted"):
        loss = Loss(TrainConfig(loss=kind), label.numpy(), 3, "cpu")
        parts = [loss(logits[rank::2], label[rank::2], label) for rank in range(2)]
        assert sum(parts) / 2 == pytest.approx(float(loss(logits, label)), rel=1e-5)


def test_shares_are_all_of_a_batch_and_none_twice() -> None:
    index = torch.randperm(12)
    parts = [Group(rank, 3).share(index) for rank in range(3)]
    assert sorted(torch.cat(parts).tolist()) == list(range(12))
    assert torch.equal(Group().share(index), index)


def test_more_processes_than_cells_of_a_batch_are_refused() -> None:
    cells = Examples(*discs(6))
    with pytest.raises(ConfigError, match="8 processes"):
        fit(cells, cells, SMALL, CONFIG, AugmentConfig(), group=Group(0, 8))


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as group:
        assert group == Group() and group.first
