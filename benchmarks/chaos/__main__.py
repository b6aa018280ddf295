"""Fault drills: `python -m benchmarks.chaos [--seed N] [--only FAULT …] [--seconds S]`, `… chaos soak --minutes 60`.

Writes `benchmarks/results/faults.md`; exit status 1 when a promise broke. Needs PostgreSQL (`make servers`), and root
for the faults of disks and networks; what this machine cannot have is skipped and named.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.chaos import (
    faults_machine,  # noqa: F401  (it registers its faults)
    faults_model,  # noqa: F401
    report,
)
from benchmarks.chaos.database import Database, Namespace, database
from benchmarks.chaos.drill import Fault, Outcome, Skipped, run
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.soak import section, soak
from service.contract.files import write_atomic

PAGE = Path(__file__).resolve().parents[1] / "results/faults.md"


def main(argv: list[str] | None = None) -> int:
    """Runs what is asked for; 1 when a promise broke."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, _leave)
    if arguments.command == "soak":
        return _soak(arguments.seed, arguments.minutes, arguments.page)
    chosen = [FAULTS[name] for name in arguments.only or FAULTS]
    return _drills(chosen, arguments.seed, arguments.seconds, arguments.page)


def _leave(*_: object) -> None:
    raise SystemExit(143)  # so that what was started is ended: servers, mounts, namespaces


def _drills(chosen: Sequence[Fault], seed: int, seconds: float, page: Path) -> int:
    started = time.monotonic()
    outcomes: list[Outcome] = []
    page.parent.mkdir(parents=True, exist_ok=True)
    before = page.read_text() if page.exists() else ""
    with _servers() as servers:
        for fault in chosen:
            began = time.monotonic()
            outcomes.append(_one(fault, servers, seed, seconds))
            _say(outcomes[-1], time.monotonic() - began)
            # After each: a run that is stopped leaves what it found.
            text = report.page(outcomes, seed=seed, seconds=seconds, took_s=time.monotonic() - started)
            write_atomic(page, report.with_soak_of(text, before).encode())
    return 1 if any(outcome.problems for outcome in outcomes) else 0


def _soak(seed: int, minutes: float, page: Path) -> int:
    with database() as server:
        found = soak(server, seed=seed, minutes=minutes)
    text = section(found)
    print(text)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(page, report.with_soak(page.read_text() if page.exists() else "# Faults\n", text).encode())
    return 1 if found.problems else 0


class _Servers:
    """PostgreSQL here, and one in a namespace for the faults that ask for it, started when first needed."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._found: dict[bool, Database] = {}

    def get(self, far: bool) -> Database:
        """Raises Skipped where there can be none."""
        if far not in self._found:
            namespace = self._namespace() if far else None
            try:
                self._found[far] = self._stack.enter_context(database(namespace))
            except FileNotFoundError as error:
                raise Skipped(str(error)) from None
        return self._found[far]

    def _namespace(self) -> Namespace:
        found = Namespace()
        self._stack.callback(found.close)
        try:
            found.open()
        except OSError as error:
            raise Skipped(f"no network namespace here ({error})") from None
        return found


@contextlib.contextmanager
def _servers() -> Iterator[_Servers]:
    with contextlib.ExitStack() as stack:
        yield _Servers(stack)


def _one(fault: Fault, servers: _Servers, seed: int, seconds: float) -> Outcome:
    try:
        return run(fault, servers.get(fault.namespace), seed=seed, seconds=seconds)
    except Skipped as error:
        return Outcome(fault.name, fault.what, skipped=str(error))
    except Exception as error:  # a drill that fails is a finding, and the others are still run
        return Outcome(fault.name, fault.what, problems=(f"the drill itself failed: {type(error).__name__}: {error}",))


def _say(outcome: Outcome, took_s: float) -> None:
    state = f"skipped: {outcome.skipped}" if outcome.skipped else "; ".join(outcome.problems) or "held"
    figures = f"{outcome.requests} requests, {outcome.failed} failed, {len(outcome.verdict.lost)} lost"
    print(f"{outcome.fault:20} {took_s:4.0f} s  {figures}  {state}", flush=True)
    for note in outcome.notes:
        print(f"{'':20}         {note}", flush=True)


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    made.add_argument("command", nargs="?", choices=("drills", "soak"), default="drills", help="(default: %(default)s)")
    made.add_argument("--minutes", type=float, default=60.0, help="of the soak (default: %(default)g)")
    made.add_argument("--seed", type=int, default=1, help="of every choice: moments, victims, jumps, pictures")
    made.add_argument("--only", nargs="+", choices=sorted(FAULTS), metavar="FAULT", help=f"of {', '.join(FAULTS)}")
    made.add_argument("--seconds", type=float, default=6.0, help="how long a fault lasts (default: %(default)g)")
    made.add_argument("--page", type=Path, default=PAGE, help="where the table goes (default: %(default)s)")
    return made


if __name__ == "__main__":
    sys.exit(main())
