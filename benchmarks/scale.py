"""What a hundred million cells a day would take: `python -m benchmarks.scale` computes it and writes docs/scale.md.

Rates come from the result pages of the other benchmarks, as they stand; bytes are measured here, on records with
64-dimensional embeddings, in SQLite and, where the system's package is, in PostgreSQL.
"""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.monitoring_parts import records
from service.contract.records import PredictionRecord
from service.contract.store import Store
from service.frames import Entry, encode
from tests.support import postgres

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "scale.md"
CELLS = 10**8
DAY_S = 86_400
PEAK = 3.0
"""Assumed: the busiest hour has three times the day's mean."""
HEADROOM = 0.6
"""Assumed: a core is kept below this share of what it can do, so that one zone of three may go."""
RECORDS = 20_000
EACH = 100
DESIGN_CELLS, CORRELATION = 18.0, 0.5
"""Of a patient; and how alike a patient's cells are, as monitoring.long_view assumes."""


@dataclass(frozen=True)
class Measured:
    """serve: cells a second of one core; fast: a lone graph's, in batches; insert: rows a second of one writer; judge,
    read: seconds for a million answers; bytes of a record in the journal and in a store.
    """

    serve: float
    fast: float
    insert: float
    read: float
    judge: float
    evidently: float
    journal: float
    stored: float
    database: str


def figure(page: str, pattern: str) -> float:
    """The first number that a pattern finds in a result page. Raises ValueError where the page has none."""
    found = re.search(pattern, (RESULTS / page).read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{page} has no {pattern!r}: run its benchmark again")
    return float(found[1])


def measure() -> Measured:
    """Read the pages, write some records."""
    made = list(records(0, RECORDS // EACH, EACH))
    journal = sum(len(encode(Entry.prediction(record))) for record in made) / len(made)
    try:
        with postgres.running() as server:
            stored, database = in_postgresql(server.url(), made), "PostgreSQL"
    except (AssertionError, OSError):  # no such package here
        stored, database = in_sqlite(made), "SQLite"
    return Measured(
        serve=figure("serving.md", r"^\| ours, gRPC \| [^|]*\| ([0-9]+)"),
        fast=figure("serving.md", r"^\| in-process loop, batches of 16 \| ([0-9]+)"),
        insert=1e6 / figure("monitoring.md", r"PostgreSQL ([0-9]+) s\."),
        read=figure("monitoring.md", r"^\| PostgreSQL \| 1000000 \| [0-9]+ \| ([0-9.]+)"),
        judge=figure("monitoring.md", r"^\| PostgreSQL \| 1000000 \| [0-9]+ \| [0-9.]+ \| ([0-9.]+)"),
        evidently=figure("monitoring.md", r"^\| 1000000 \| ([0-9.]+) \|"),
        journal=journal,
        stored=stored,
        database=database,
    )


def in_sqlite(made: list[PredictionRecord]) -> float:
    """Bytes a record."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/store.db")
        store.insert_predictions(made)
        store.close()
        return sum(path.stat().st_size for path in Path(folder).iterdir()) / len(made)


def in_postgresql(url: str, made: list[PredictionRecord]) -> float:
    """Bytes a record, indexes and all."""
    store = Store(url)
    store.insert_predictions(made)
    store.close()
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        row = connection.execute("SELECT pg_total_relation_size('predictions')").fetchone()
    assert row is not None  # noqa: S101
    return int(row[0]) / len(made)


def report(at: Measured) -> str:
    """The paper."""
    mean = CELLS / DAY_S
    peak = mean * PEAK
    pods = peak / (at.serve * HEADROOM)
    writers = peak / at.insert
    day_gb, year_tb = CELLS * at.stored / 1e9, CELLS * at.stored * 365 / 1e12
    journal_mb = peak * at.journal / 1e6
    judged_s = (at.read + at.judge) * CELLS / 1e6
    patients = CELLS / DESIGN_CELLS
    effect = 1 + (DESIGN_CELLS - 1) * CORRELATION
    return f"""# A hundred million cells a day

Written by `python -m benchmarks.scale` from measured figures; every rate is of one core of the machine that its page names. Assumed, and to be doubted:
the busiest hour has {PEAK:g} times the day's mean, a core is kept below {HEADROOM:.0%} of what it can do, a patient has {DESIGN_CELLS:g} cells.

| measured | figure | where |
| --- | ---: | --- |
| answers a second of one worker on one core, gRPC, 16 callers | {at.serve:.0f} | [serving.md](../benchmarks/results/serving.md) |
| the graph alone in batches of 16, decoding included | {at.fast:.0f} | the same |
| answers a second that one shipper writes to PostgreSQL | {at.insert:.0f} | [monitoring.md](../benchmarks/results/monitoring.md) |
| a million answers read by the monitor, and judged, s | {at.read:.1f}, {at.judge:.1f} | the same |
| an answer in the journal, bytes | {at.journal:.0f} | this command, {RECORDS} records |
| an answer in {at.database}, indexes and all, bytes | {at.stored:.0f} | this command |

## Replicas

{CELLS:.0e} cells a day are {mean:.0f} a second, {peak:.0f} in the busiest hour: {peak:.0f} / ({at.serve:.0f} × {HEADROOM}) = **{pods:.0f} pods of one core**, {pods * DAY_S / PEAK / 3600:.0f} core-hours
a day if they follow the load. A graph alone answers {at.fast / at.serve:.1f} times as many: what is between is transport, queue and journal, and the most that a faster
front could save.

## Journal

At the peak {journal_mb:.1f} MB a second over all pods, {1e3 * journal_mb / pods:.0f} kB a second each: no disk notices. Its fsyncs do: one a batch, so that {at.serve * HEADROOM / 16:.0f} to
{at.serve * HEADROOM:.0f} a second a pod; a disk of 100 fsyncs a second needs full batches. With the store away a pod's 256 MiB last {256 * 2**20 / (at.journal * at.serve * HEADROOM) / 60:.0f} minutes at the peak's pace.

## Store

{at.insert:.0f} rows a second a writer: {peak:.0f} a second need **{writers:.1f} times what one shipper's transactions were measured at**; shippers of different pods write side by side, and one
PostgreSQL takes that on several cores as long as its log (about {2 * peak * at.stored / 1e6:.0f} MB a second, twice the rows) goes to a disk of its own. {day_gb:.0f} GB a day, {year_tb:.0f} TB a year. So:

- **Partition `predictions` by day** (`PARTITION BY RANGE (time)`): retention is then `DROP TABLE`, not {CELLS / 3600 / 24:.0f} deletions a second. The retention that
  exists deletes rows.
- **Keep days, not years, in the database**: 30 days are {30 * day_gb / 1e3:.1f} TB. Older days go to Parquet on object storage.
- The ledger has a row a decision: nothing.

## Monitoring

A window of a million answers is read and judged in {at.read + at.judge:.0f} s on one core, all {CELLS:.0e} in **{judged_s / 3600:.1f} core-hours a day**: one monitor keeps up ({judged_s / DAY_S:.0%} of a core). Evidently alone would take
{at.evidently * CELLS / 1e6 / 3600:.0f} core-hours.

It need not look at all. {patients:.1e} patients a day; a share p of cells has the standard error √(p(1−p)·D/n) with the design effect D = 1 + ({DESIGN_CELLS:g} − 1) × {CORRELATION:g} = {effect:.1f} (Kish 1965):

| cells looked at | patients | standard error of a share of 10 %, points |
| ---: | ---: | ---: |
{_errors(effect)}

Ten thousand cells say what a person would act on; a hundredth of the stream, drawn by patient, is a hundred times that. Reviews, not cells, are what is scarce.

## Costs

With a price of c for a core-hour and g for a GB-month of disk: {pods * 24 / PEAK:.0f} c a day for answers at the mean load ({pods * 24:.0f} c if pods do not follow it), {judged_s / 3600:.1f} c for the monitor,
{30 * day_gb:.0f} g a month for 30 days of answers. At c = 0.04 and g = 0.1 (what large clouds list, about, in dollars): {pods * 24 / PEAK * 0.04:.0f} a day for cores, {30 * day_gb * 0.1 / 30:.0f} a day for disk: the store costs more than the
network's arithmetic.

## What breaks first

1. **The store's growth**, within weeks: {day_gb:.0f} GB a day with no partition. Partition, retention, Parquet for what is older.
2. **One database's writes** in the busiest hour: {peak:.0f} rows a second. Embeddings, a quarter kilobyte and more of each row, out of the row into Parquet by the shipper; then a database
   a region: the ledger stays one.
3. **The shared volume of kept pixels**: 5 % of {CELLS:.0e} pictures, and every referred cell's on top, are {0.05 * CELLS:.0e} files a day and more: not what a network file system likes. Object storage, by the same hash.
4. **Idempotence across workers**: a retry asks the store whether it was answered. {peak:.0f} lookups a second by primary key are well within PostgreSQL's reach, but they are in a
   caller's way: only calls that are named can be retried, and only they ask.
5. Not the graph, and not the monitor.
"""


def _errors(effect: float) -> str:
    rows = []
    for cells in (1_000, 10_000, 100_000, 1_000_000):
        error = 100 * (0.1 * 0.9 * effect / cells) ** 0.5
        rows.append(f"| {cells} | {cells / DESIGN_CELLS:.0f} | {error:.2f} |")
    return "\n".join(rows)


def main() -> None:
    """Measure and write."""
    PAGE.write_text(report(measure()), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
