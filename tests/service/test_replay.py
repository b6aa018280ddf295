"""Answers of a real engine, computed once more from what was kept or from the file that was sent."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from service.contract.errors import ConfigError, NotFound
from service.contract.records import PredictionRecord
from service.domain import Cell
from service.replay import main
from tests.service.running import Site, started
from tests.support.images import png

CELLS = 3


@pytest.fixture
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[PredictionRecord]:
    """Three records of one batch, in the store of a site that the command finds through the environment."""
    site = Site(tmp_path)
    site.promote(site.add().version)
    settings = site.settings(image_retention="all", max_batch=CELLS, max_wait_ms=1000)
    cells = [Cell(png(k), request_id=f"cell-{k}", pixel_size_um=0.2 if k else 0.0) for k in range(CELLS)]

    async def classify() -> None:
        async with started(settings) as engine:
            await asyncio.gather(*(engine.core().classify(cell, transport="grpc", client="local") for cell in cells))

    asyncio.run(classify())
    for name in ("root", "store_url", "models_dir"):
        monkeypatch.setenv(f"BLASTWATCH_{name.upper()}", str(getattr(settings, name)))
    found = sorted((stored.record for stored in site.store.predictions()), key=lambda record: record.request_id)
    assert [record.batch_size for record in found] == [CELLS] * CELLS
    return found


def forget_pixels(root: Path) -> None:
    for path in (root / "var/pixels").glob("*/*.png"):
        path.unlink()


def put(root: Path, record: PredictionRecord, **changes: object) -> str:
    """A changed copy of the record under a name of its own."""
    copy = replace(record, record_id="f" * 32, request_id="copy", **changes)  # type: ignore[arg-type]
    store = Site(root).store
    store.insert_predictions([copy])
    store.close()
    return copy.record_id


def test_kept_pixels_give_the_same_answer_bit_for_bit(
    answered: list[PredictionRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    for record in answered:
        assert main([record.record_id]) == 0
        out = capsys.readouterr().out
        assert "the same, bit for bit" in out
        assert record.model_version in out
        assert f"{record.probabilities[record.label]:.9f}" in out
    assert "unknown_scale" in answered[0].refer_reasons


def test_without_kept_pixels_it_takes_the_file_that_was_sent(
    answered: list[PredictionRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_pixels(tmp_path)
    with pytest.raises(NotFound, match="--image FILE"):
        main([answered[1].record_id])
    sent, other = tmp_path / "sent.png", tmp_path / "other.png"
    sent.write_bytes(png(1))
    other.write_bytes(png(2))
    assert main([answered[1].record_id, "--image", str(sent)]) == 0
    assert "the same, bit for bit" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="not the file that was sent"):
        main([answered[1].record_id, "--image", str(other)])
    with pytest.raises(ConfigError, match="cannot be read"):
        main([answered[1].record_id, "--image", str(tmp_path / "nowhere.png")])


def test_a_record_that_says_something_else_is_found(
    answered: list[PredictionRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = answered[1]
    off = {name: p + (1e-4 if name == record.label else 0.0) for name, p in record.probabilities.items()}
    assert main([put(tmp_path, record, probabilities=off)]) == 1
    assert "NOT the same: probabilities differ by up to 1.0e-04 on the same runtime" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "status"),
    [({}, 0), ({"refer": True, "refer_reasons": ("uncertain",)}, 1), ({"label": "other"}, 1)],
    ids=["same", "another referral", "another label"],
)
def test_another_runtime_is_not_compared_bit_for_bit(
    answered: list[PredictionRecord],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    status: int,
) -> None:
    near = {name: p + 1e-8 for name, p in answered[1].probabilities.items()}
    name = put(tmp_path, answered[1], runtime="onnxruntime 0.1 elsewhere", probabilities=near, **changes)
    assert main([name]) == status
    out = capsys.readouterr().out
    assert "not comparable bit for bit: 'onnxruntime 0.1 elsewhere' answered" in out
    assert ("NOT the same" in out) == bool(status)


def test_what_is_not_there_is_one_line(answered: list[PredictionRecord], tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no record"):
        main(["0" * 32])
    name = put(tmp_path, answered[1], model_version="0" * 32)
    with pytest.raises(NotFound, match="no model 0000"):
        main([name])
