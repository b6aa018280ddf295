"""Scores an archive of cells with Ray Data: python -m service.backfill ARCHIVE OUTPUT --artifact DIR.

ARCHIVE is a folder or a bucket of pictures, Parquet with a column `image`, or (--kept) a service's kept pixels, to
judge the past with a new model. OUTPUT gets Parquet: in `cells/` one row a distinct picture, in `rejected/` what could
not be answered, with the reason.

What is done stays done: the same command goes on where it was stopped, however it was. Each pixel hash is in OUTPUT
exactly once when the command has ended with 0.
"""

import argparse
import contextlib
import fcntl
import logging
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from service.backfill_parts import (
    CELLS,
    PARQUET,
    PLAN,
    REJECTED,
    SHARD,
    Plan,
    Shard,
    cells,
    distinct,
    opened,
    put,
    put_bytes,
    reaching,
    rows_of,
    score,
    shards,
)
from service.contract.artifact import read_artifact
from service.contract.errors import CommandParser, ConfigError, run_command
from service.contract.predictor import Predictor
from service.contract.shared_models import model_store
from service.settings import load_settings

HASHES_AT_ONCE = 20_000_000
"""About 2 GB of them: more are looked through by their first hex digits."""
STORE_BYTES = 80 * 2**20
"""Ray's object store: nothing but the shards' names goes through it."""


@dataclass(frozen=True)
class Job:
    """What every worker has to know."""

    archive: str
    output: str
    artifact: str
    version: str
    pixel_size_um: float
    kept: bool
    embedding: bool


class Worker:
    """Scores shards in a process of its own; the model is loaded once."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._predictor = Predictor(read_artifact(Path(job.artifact), expect_version=job.version), threads=1)
        self._source, _ = opened(job.archive)
        self._target, self._root = opened(job.output)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A shard's part is written before it counts as done: one that is scored twice is the same part again."""
        shard = Shard(row["number"], tuple(row["names"]), row["row_group"], row["first"], row["rows"])
        job = self._job
        every = cells(self._source, shard, job.pixel_size_um)
        answers, rejected = score(self._predictor, every, kept=job.kept, embedding=job.embedding)
        if rejected.num_rows:
            put(self._target, f"{self._root}/{REJECTED}/{shard.part}", rejected)
        put(self._target, f"{self._root}/{CELLS}/{shard.part}", answers)
        return {"answers": answers.num_rows, "rejected": rejected.num_rows}


def main(argv: list[str] | None = None) -> int:
    """Run it; raises BlastwatchError with a line that says what to do."""
    options = _parser().parse_args(argv)
    artifact = options.artifact or _from_store(options.version)
    version = read_artifact(artifact, expect_version=options.version).version
    with reaching(options.archive):
        every, listing = shards(options.archive)
    archive = _absolute(options.archive)
    plan = Plan(archive, listing, len(every), version, options.pixel_size, options.kept, options.embedding)
    with alone(options.output), reaching(options.output):
        done = agree(options.output, plan)
        left = [shard for shard in every if shard.part not in done]
        print(f"{len(every)} shards of up to {SHARD} cells, {len(every) - len(left)} done before", file=sys.stderr)
        job = Job(
            archive, _absolute(options.output), str(Path(artifact).absolute()), version,
            options.pixel_size, options.kept, options.embedding,
        )  # fmt: skip
        if left:
            run(job, left, options.workers, len(every))
        again, rejected = finish(options.output, every)
    print(
        f"done: {options.output} has one row a picture ({again} came again, {rejected} could not be answered); model "
        f"{version}"
    )
    return 0


def run(job: Job, left: list[Shard], workers: int, shard_count: int) -> None:
    """Score the shards that are left. Raises BlastwatchError when one cannot be."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DEDUP_LOGS": "0",
        # Else Ray takes the address for "this host", and listens on all of its interfaces.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    here = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    import ray

    with tempfile.TemporaryDirectory(prefix="bw-", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            logging_level="ERROR",
            log_to_driver=False,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )
        try:
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            rows = [asdict(one) | {"names": list(one.names)} for one in left]
            found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                Worker, fn_constructor_args=(job,), compute=ray.data.ActorPoolStrategy(size=workers), num_cpus=1
            )
            _follow(found.iter_rows(), len(left), shard_count)
        except ray.exceptions.RayError as error:
            raise ConfigError(f"a shard could not be scored: {_last_line(error)}") from None
        finally:
            ray.shutdown()


def _follow(rows: Iterator[dict[str, Any]], left: int, shard_count: int) -> None:
    """A line that is written over on a terminal, and one every half minute elsewhere."""
    started = told = time.monotonic()
    answers = rejected = 0
    for number, row in enumerate(rows, 1):
        answers, rejected = answers + row["answers"], rejected + row["rejected"]
        now = time.monotonic()
        rate = answers / max(now - started, 1e-9)
        line = f"{shard_count - left + number} of {shard_count} shards, {answers} cells, {rejected} rejected"
        line += f", {rate:.0f}/s"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="" if number < left else "\n", file=sys.stderr, flush=True)
        elif now - told > 30 or number == left:
            print(line, file=sys.stderr, flush=True)
            told = now


def finish(output: str, every: list[Shard]) -> tuple[int, int]:
    """Each picture in one part only → how many came again, how many were rejected. Raises ConfigError when a part is
    missing.
    """
    system, root = opened(output)
    parts = [f"{root}/{CELLS}/{shard.part}" for shard in every]
    missing = [path for path in parts if not system.exists(path)]
    if missing:
        raise ConfigError(f"{len(missing)} parts are missing, the first is {missing[0]}: run the same command again")
    digits = "0123456789abcdef"
    many = SHARD * len(every)
    if many <= HASHES_AT_ONCE:
        prefixes = [""]
    elif many <= HASHES_AT_ONCE * len(digits):
        prefixes = list(digits)
    else:
        prefixes = [a + b for a in digits for b in digits]
    system.invalidate_cache()
    rejects = [path for path in system.find(f"{root}/{REJECTED}") if path.endswith(PARQUET)]
    return distinct(system, parts, prefixes), sum(rows_of(system, path) for path in rejects)


def agree(output: str, plan: Plan) -> set[str]:
    """The parts that are done, once it is sure that they are of this plan. Raises ConfigError when they are not."""
    system, root = opened(output)
    path = f"{root}/{PLAN}"
    if not system.exists(path):
        if system.exists(root) and system.find(root, maxdepth=1):
            raise ConfigError(f"{output} is not empty and no backfill's: give another folder")
        put_bytes(system, path, plan.to_json().encode())
        return set()
    if system.cat_file(path).decode() != plan.to_json():
        raise ConfigError(
            f"{output} is the output of another backfill (model, archive or options differ, see {PLAN} in it): "
            "give another folder"
        )
    system.invalidate_cache()
    return {name.rpartition("/")[2] for name in system.find(f"{root}/{CELLS}") if name.endswith(PARQUET)}


@contextlib.contextmanager
def alone(output: str) -> Iterator[None]:
    """One backfill an output on this host. Raises ConfigError while another one has it."""
    lock = Path(tempfile.gettempdir()) / f"blastwatch-backfill-{hash_of(output):08x}.lock"
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another backfill writes to {output}: wait for it to end") from None
        yield


def hash_of(output: str) -> int:
    """A number for an output, the same in every process."""
    return zlib.crc32(_absolute(output).encode())


def _from_store(version: str) -> Path:
    settings = load_settings()
    return model_store(settings.models, settings.models_url).path(version)


def _absolute(url: str) -> str:
    """A folder's path from anywhere; an address as it is."""
    return url.rstrip("/") if "://" in url else str(Path(url).absolute())


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m service.backfill",
        description="Scores an archive of cells with Ray Data: Parquet out, one row a distinct picture. The same "
        "command goes on where it was stopped.",
    )
    parser.add_argument("archive", metavar="ARCHIVE", help="a folder or s3://bucket/prefix of pictures or of Parquet")
    parser.add_argument("output", metavar="OUTPUT", help="a folder or s3://bucket/prefix: new, or this backfill's own")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--artifact", type=Path, metavar="DIR", help="the model, e.g. build/artifact")
    model.add_argument("--version", metavar="VERSION", help="or one of the model store")
    parser.add_argument(
        "--workers", type=_count, default=os.cpu_count() or 1, metavar="N", help="processes (default: %(default)s)"
    )
    parser.add_argument(
        "--pixel-size", type=_micrometres, default=0.0, metavar="UM",
        help="micrometres a pixel, where the archive does not say it; 0: unknown (default)",
    )  # fmt: skip
    parser.add_argument(
        "--kept",
        action="store_true",
        help="ARCHIVE is BLASTWATCH_PIXELS_DIR: kept pixels (give --pixel-size where each one's scale was known)",
    )
    parser.add_argument("--embedding", action="store_true", help="write embeddings, too")
    return parser


def _micrometres(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size < 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of a pixel in micrometres")
    return size


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes")
    return int(text)


if __name__ == "__main__":
    run_command(main)
