"""An archive is scored once, whatever happens on the way: shards, parts, rejects, and Ray Data around them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service import backfill
from service.backfill_parts import CELLS, PLAN, REJECTED, Cell, Plan, cells, distinct, opened, put, score, shards
from service.contract.artifact import read_artifact
from service.contract.decision import decide
from service.contract.errors import ConfigError
from service.contract.image import load_field, pixels_sha256
from service.contract.pixels import PixelStore
from service.contract.predictor import Predictor
from service.identity import IdentityError
from tests.support.artifacts import tiny_artifact
from tests.support.images import png, smear

ROOT = Path(__file__).resolve().parents[2]
UM = 0.2


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(read_artifact(tiny_artifact(tmp_path_factory.mktemp("model") / "artifact").path))


def archive(folder: Path, count: int) -> Path:
    """So many different pictures, one of them twice, and one file that is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:05d}.png").write_bytes(png(number))
    (folder / "zz-again.png").write_bytes(png(0))
    (folder / "zz-broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def answers(output: Path) -> list[dict[str, Any]]:
    """Every row that a reader of the output finds."""
    return [row for path in sorted((output / CELLS).iterdir()) for row in pq.read_table(path).to_pylist()]


def test_an_archive_is_cut_the_same_way_each_time_and_a_changed_one_is_another(tmp_path: Path) -> None:
    folder = archive(tmp_path / "a", 25)
    one, listing = shards(str(folder), size=10)
    assert [len(shard.names) for shard in one] == [10, 10, 7]
    assert shards(str(folder), size=10) == (one, listing)
    (folder / "00003.png").write_bytes(png(300) + b" ")
    assert shards(str(folder), size=10)[1] != listing


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "no picture"),
        (lambda folder: (folder / "x.parquet").write_bytes(b"nothing"), "no Parquet file"),
        (lambda folder: pq.write_table(pa.table({"picture": [b""]}), folder / "x.parquet"), "no column 'image'"),
        (lambda folder: pq.write_table(pa.table({"image": ["text"]}), folder / "x.parquet"), "no column 'image'"),
        (lambda folder: pq.write_table(pa.table({"image": [b""] * 9000}), folder / "x.parquet"), "row_group_size=512"),
    ],
)
def test_an_archive_that_makes_no_sense_is_one_line(tmp_path: Path, make: Any, says: str) -> None:
    make(tmp_path)
    with pytest.raises(ConfigError, match=says):
        shards(str(tmp_path))


def test_an_address_that_nothing_opens_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        shards("nosuch://bucket/x")
    with pytest.raises(ConfigError, match="no picture"):
        shards(str(tmp_path / "nowhere"))


def test_an_answer_is_the_services_own(predictor: Predictor) -> None:
    data = [png(number) for number in range(20)]
    every = [Cell(f"{number}", picture, UM if number % 2 else 0.0) for number, picture in enumerate(data)]
    table, rejected = score(predictor, iter([*every, every[3], Cell("bad", b"x", UM)]), embedding=True)
    assert rejected.to_pylist()[0]["name"] == "bad"
    rows = table.to_pylist()
    assert len(rows) == 20
    for cell, row in zip(every, rows, strict=True):
        pixels = load_field(cell.data, predictor.manifest.field, cell.pixel_size_um)
        alone = predictor.predict(pixels[None])
        wanted = decide(predictor.manifest, alone.probabilities[0], float(alone.ood_score[0]), cell.pixel_size_um > 0)
        assert row["pixels_sha256"] == pixels_sha256(pixels)
        assert (row["label"], row["refer"], tuple(row["refer_reasons"])) == (wanted.label, wanted.refer, wanted.reasons)
        shares = [row[f"p_{label}"] for label in predictor.manifest.labels]
        assert shares == pytest.approx(alone.probabilities[0].tolist(), abs=1e-6)
        assert row["embedding"] == pytest.approx(alone.embedding[0].tolist(), abs=1e-4)
        assert row["model_version"] == predictor.version


def test_a_file_that_cannot_be_read_is_rejected_and_stops_nothing(predictor: Predictor, tmp_path: Path) -> None:
    archive(tmp_path, 2)
    (tmp_path / "zz-away.png").symlink_to(tmp_path / "nowhere.png")
    (shard,), _ = shards(str(tmp_path))
    system, _ = opened(str(tmp_path))
    table, rejected = score(predictor, cells(system, shard, UM))
    assert table.num_rows == 2
    reasons = {Path(row["name"]).name: row["reason"] for row in rejected.to_pylist()}
    assert reasons.keys() == {"zz-away.png", "zz-broken.png"}
    assert reasons["zz-away.png"].startswith("cannot be read")


def test_a_bucket_is_as_good_as_a_folder(
    predictor: Predictor, tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, root = opened(f"s3://{s3_bucket}/{tmp_path.name}/")
    for number in range(3):
        system.pipe_file(f"{root}/in/{number}.png", png(number))
    cut, _ = shards(f"s3://{root}/in", size=2)
    for shard in cut:
        table, _ = score(predictor, cells(system, shard, UM))
        put(system, f"{root}/out/{CELLS}/{shard.part}", pa.concat_tables([table, table]))
    parts = [f"{root}/out/{CELLS}/{shard.part}" for shard in cut]
    assert distinct(system, parts, [""]) == 3
    plan = Plan("a", "b", 2, predictor.version, UM, False, False)
    assert backfill.agree(f"s3://{root}/new", plan) == set()
    assert backfill.agree(f"s3://{root}/new", plan) == set()
    with pytest.raises(ConfigError, match="another backfill"):
        backfill.agree(f"s3://{root}/new", replace(plan, model="other"))
    assert backfill.finish(f"s3://{root}/out", cut) == (0, 0)


def test_an_answer_to_another_picture_is_never_written(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = predictor.predict
    monkeypatch.setattr(predictor, "predict", lambda batch: honest(batch[::-1].copy()))
    with pytest.raises(IdentityError):
        score(predictor, iter([Cell("a", png(1), UM), Cell("b", png(2), UM)]))


def test_kept_pixels_are_judged_as_they_are(predictor: Predictor, tmp_path: Path) -> None:
    store = PixelStore(tmp_path / "pixels")
    names = {store.save(load_field(png(number), predictor.manifest.field, UM)) for number in range(5)}
    store.save(smear(9, 17))
    (shard,), _ = shards(str(store.folder))
    system, _ = opened(str(store.folder))
    table, rejected = score(predictor, cells(system, shard, UM), kept=True)
    assert set(table.column("pixels_sha256").to_pylist()) == names
    assert not any("unknown_scale" in row["refer_reasons"] for row in table.to_pylist())
    # The pixels do not say which scale they had, and an unknown one is referred, as the service does it.
    unsaid, _ = score(predictor, cells(system, shard, 0.0), kept=True)
    assert all("unknown_scale" in row["refer_reasons"] for row in unsaid.to_pylist())
    assert "17 × 17" in rejected.to_pylist()[0]["reason"]


def test_parquet_says_names_and_scales_a_row_group_is_a_shard(predictor: Predictor, tmp_path: Path) -> None:
    table = pa.table(
        {"image": [png(n) for n in range(6)], "name": [f"n{n}" for n in range(6)], "pixel_size_um": [UM] * 6}
    )
    table = table.set_column(2, "pixel_size_um", pa.array([UM, None, UM, UM, UM, UM]))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    cut, _ = shards(str(tmp_path), size=3)
    assert [(shard.row_group, shard.first, shard.rows) for shard in cut] == [(0, 0, 3), (0, 3, 1), (1, 0, 2)]
    assert [shard.number for shard in cut] == [0, 1, 2]
    system, _ = opened(str(tmp_path))
    found = [cell for shard in cut for cell in cells(system, shard, 0.5)]
    assert [cell.name for cell in found] == [f"n{n}" for n in range(6)]
    assert [cell.pixel_size_um for cell in found] == [UM, 0.5, UM, UM, UM, UM]
    assert found[2].data == png(2)


@pytest.mark.parametrize("prefixes", [[""], list("0123456789abcdef")])
def test_a_picture_of_two_parts_stays_in_the_first(tmp_path: Path, prefixes: list[str]) -> None:
    system, root = opened(str(tmp_path))
    given = [["0a", "1b", "2c"], ["1b", "3d"], ["2c", "0a", "fe"]]
    paths = [f"{root}/{number}.parquet" for number in range(3)]
    for path, names in zip(paths, given, strict=True):
        put(system, path, pa.table({"pixels_sha256": names, "row": list(range(len(names)))}))
    assert distinct(system, paths, prefixes) == 3
    assert [pq.read_table(path).column(0).to_pylist() for path in paths] == [["0a", "1b", "2c"], ["3d"], ["fe"]]
    assert distinct(system, paths, prefixes) == 0


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "service.backfill", *map(str, arguments)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{archive}", "{tmp}/out", "--artifact", "{tmp}/none"], "error:"),
        (["{archive}", "{tmp}/full", "--artifact", "{model}"], "not empty and no backfill's"),
        (["{tmp}/empty", "{tmp}/out", "--artifact", "{model}"], "no picture"),
        (["{archive}", "{tmp}/out"], "--artifact"),
        (["{archive}", "{tmp}/out", "--artifact", "{model}", "--pixel-size", "nan"], "no size of a pixel"),
        (["s3://nobody/x", "{tmp}/out", "--artifact", "{model}"], "cannot be read or written"),
        (["{archive}", "{archive}/00000.png/x", "--artifact", "{model}"], "cannot be read or written"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    archive(tmp_path / "archive", 2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    (tmp_path / "empty").mkdir()
    model = tiny_artifact(tmp_path / "model").path
    given = [text.format(archive=tmp_path / "archive", tmp=tmp_path, model=model) for text in arguments]
    done = subprocess.run(command(*given), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_two_at_once_into_one_output_are_refused(tmp_path: Path) -> None:
    with (
        backfill.alone(str(tmp_path)),
        pytest.raises(ConfigError, match="another backfill"),
        backfill.alone(str(tmp_path)),
    ):
        raise AssertionError


@pytest.mark.e2e
@pytest.mark.xdist_group("ray")
def test_killed_workers_and_a_killed_command_cost_no_cell(tmp_path: Path, predictor: Predictor) -> None:
    folder, output = archive(tmp_path / "archive", 2500), tmp_path / "out"
    line = command(folder, output, "--artifact", predictor.artifact.path, "--workers", 2, "--pixel-size", UM)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as first:
        _until(lambda: _parts(output) >= 1)
        assert _listening(first.pid) <= {"127.0.0.1", "::ffff:127.0.0.1"}
        for process in psutil.Process(first.pid).children(recursive=True):  # the command and its workers, at once
            process.kill()
        first.kill()
    done_before = _parts(output)
    assert done_before <= 5

    with subprocess.Popen(
        line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as second:
        _until(lambda: bool(_workers(second.pid)))
        os.kill(_workers(second.pid)[0], signal.SIGKILL)
        out, said = second.communicate(timeout=240)
    assert second.returncode == 0, said
    assert f"{done_before} done before" in said
    assert "1 came again" in out
    rows = answers(output)
    assert len(rows) == 2500
    assert len({row["pixels_sha256"] for row in rows}) == 2500
    (rejected,) = (output / REJECTED).iterdir()
    assert [Path(row["name"]).name for row in pq.read_table(rejected).to_pylist()] == ["zz-broken.png"]

    # Once more costs nothing; another model in the same place is refused.
    again = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "5 done before" in again.stderr
    more = subprocess.run([*line, "--embedding"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (more.returncode, "options differ" in more.stderr) == (2, True)
    other = tiny_artifact(tmp_path / "other", seed=5).path
    line[line.index("--artifact") + 1] = str(other)
    refused = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert PLAN in refused.stderr
    shutil.rmtree(output)


def _listening(pid: int) -> set[str]:
    """Addresses at which the command, or anything that it started, can be reached."""
    found = set()
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        try:
            found |= {one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN}
        except psutil.NoSuchProcess:
            continue
    return found


def _parts(output: Path) -> int:
    return len(list((output / CELLS).glob("*.parquet")))


def _workers(pid: int) -> list[int]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def _until(true: Any, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
