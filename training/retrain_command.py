"""The retraining's command line: its environment, its lock, and what goes into the ledger when it ends."""

import argparse
import contextlib
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from service.contract.errors import BlastwatchError, CommandParser, ConfigError, StoreUnavailable
from service.contract.lease import OWNER, RETRAINING, Lease, Leases, place, renewed, seconds_of
from service.contract.ledger import FENCE, Ledger, fence_of
from training.places import bentoml_home, models_dir, store_url
from training.priors import shares
from training.retrain import promote_approved, retrain
from training.workspace import RetrainingFailed, Workspace

LOCK = "retrain.lock"
LEDGER_PATIENCE_S = 120.0

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def main(argv: list[str] | None = None) -> int:
    """One retraining, or the promotion of one that waited. Raises ConfigError for bad input."""
    options = _parser().parse_args(argv)
    repo, work = options.repo.resolve(), options.work.absolute()
    if not _RUN.fullmatch(options.run):
        raise ConfigError(f"--run {options.run!r}: letters, digits, '.', '_' and '-' only")
    if not (repo / ".git").exists() or not (repo / ".dvc").is_dir():
        raise ConfigError(f"--repo {options.repo} is not the root of a Git work tree with DVC")
    folder: Path = work / options.run
    environment = job_environment(os.environ)
    os.nice(options.nice)
    ledger = Ledger(environment["BLASTWATCH_STORE_URL"])
    with single_flight(work, options.lock_fd) as lock, leased(work, options.run, environment) as fence:
        environment |= {FENCE: str(fence)}
        workspace = Workspace(repo, folder / "repo", f"retrain/{options.run}", environment, keep_open=[lock])
        ledger = ledger.fenced(fence)
        if options.promote:
            return _promote(workspace, ledger)
        if workspace.path.exists():
            raise ConfigError(f"{workspace.path} is there already: give each retraining a --run of its own")
        return _retrain(options, workspace, ledger, environment)


def job_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What the pipeline sees: absolute places, since it runs in a clone; nothing of a Git or DVC command around it."""
    kept = {k: v for k, v in environ.items() if not k.startswith("GIT_") and k not in ("DVC_ROOT", "DVC_STAGE")}
    url = store_url(environ)
    if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
        url = f"sqlite:///{Path(url.removeprefix('sqlite:///')).absolute()}"
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "1",
        "BENTOML_DO_NOT_TRACK": "true",
        "BLASTWATCH_STORE_URL": url,
        "BLASTWATCH_PIXELS_DIR": str(Path(environ.get("BLASTWATCH_PIXELS_DIR") or "var/pixels").absolute()),
        "BLASTWATCH_MODELS_DIR": str(models_dir(environ)),
        "BENTOML_HOME": str(bentoml_home(environ)),
    }


@contextlib.contextmanager
def single_flight(work: Path, descriptor: int | None) -> Iterator[int]:
    """Hold the lock that a trigger handed down, or take it. Raises ConfigError when a retraining runs already."""
    if descriptor is not None:
        yield descriptor
        return
    work.mkdir(parents=True, exist_ok=True)
    with (work / LOCK).open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"a retraining runs already in {work}: wait for it to end") from None
        yield handle.fileno()


@contextlib.contextmanager
def leased(work: Path, run: str, environment: Mapping[str, str]) -> Iterator[int]:
    """Hold the lease that a trigger handed down, or take it, and renew it; → its number. Call it with the lock held.

    Raises ConfigError when a retraining runs on another host, Conflict when what was handed down was taken over.
    """
    leases, seconds = Leases(environment["BLASTWATCH_STORE_URL"]), seconds_of(environment)
    holder, fence = f"retraining {run}", fence_of(environment)
    if fence is not None:
        lease = Lease(RETRAINING, environment.get(OWNER) or place(work), holder, fence)
    else:
        taken = leases.take(RETRAINING, place(work), holder, seconds)
        if taken is None:
            raise ConfigError("a retraining runs already on another host: wait for it to end")
        lease = taken
    with renewed(leases, lease, seconds, lost=_end):
        yield lease.fence


def cost(started: float) -> dict[str, float]:
    """What this process and those that it waited for have used since `started` (of time.monotonic).

    seconds, processor_seconds, and peak_memory_bytes: the resident set of whichever single process had most.
    """
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "seconds": round(time.monotonic() - started, 1),
        "processor_seconds": round(sum(each.ru_utime + each.ru_stime for each in used), 1),
        "peak_memory_bytes": max(each.ru_maxrss for each in used) * 1024,  # Linux counts in KiB
    }


def record(ledger: Ledger, kind: str, **body: object) -> None:
    """Append the result; hours of work are worth waiting some minutes for the ledger. Raises StoreUnavailable."""
    deadline = time.monotonic() + LEDGER_PATIENCE_S
    while True:
        try:
            ledger.append(kind, **body)
            return
        except StoreUnavailable as error:
            if time.monotonic() > deadline:
                raise
            print(f"the ledger cannot be reached ({error}): trying again", file=sys.stderr, flush=True)
            time.sleep(2)


def _retrain(options: argparse.Namespace, workspace: Workspace, ledger: Ledger, environment: Mapping[str, str]) -> int:
    if options.lock_fd is None and OWNER not in environment:  # a trigger would have put it on record
        record(ledger, "retraining_started", run=options.run, why="started by hand", priors=options.priors)
    started = time.monotonic()
    try:
        result = retrain(options.run, workspace, ledger, environment, options.priors)
    except (BlastwatchError, OSError) as error:
        reason = " ".join(str(error).split())
        print(f"error: the retraining failed: {reason}", file=sys.stderr, flush=True)
        record(ledger, "retraining_failed", run=options.run, reason=reason, cost=cost(started))
        return 1
    print(json.dumps(asdict(result), indent=2), flush=True)
    record(ledger, "retraining_finished", **asdict(result), cost=cost(started))
    _keep_reports(workspace)
    if result.gate == "passed" and not result.promoted:
        places = f"--run {options.run} --repo {workspace.source} --work {options.work}"
        print(f"model {result.version} waits for approval. To give it:")
        print(f"  python -m service.contract.ledger approve {result.version} --by ROLE")
        print(f"  python -m training.retrain --promote {places}")
    elif not options.keep_work:
        workspace.remove()
    return 0


def _end() -> None:
    """The lease is another's: nothing that this job still does could count."""
    print("error: another host took this retraining's place: it ends", file=sys.stderr, flush=True)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGTERM)  # what it started, too
    os.kill(os.getpid(), signal.SIGTERM)


def _promote(workspace: Workspace, ledger: Ledger) -> int:
    try:
        version = promote_approved(workspace, ledger)
    except RetrainingFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    workspace.remove()
    print(f"model {version} is in production")
    return 0


def _keep_reports(workspace: Workspace) -> None:
    """For people, beside the log: the clone goes."""
    reports = workspace.path / "reports"
    if reports.is_dir():
        shutil.copytree(reports, workspace.path.parent / "reports", dirs_exist_ok=True)


def _priors(text: str) -> dict[str, float]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict) or not values:
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object of labels and their shares")
    shares(values, tuple(values))  # the pipeline knows the labels
    return {str(label): float(share) for label, share in values.items()}


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m training.retrain",
        description="Retrain on reviewed cells in a clone of the repository, and put the result on a branch and in the "
        "ledger. `python -m monitoring.trigger retrain` starts it with freeze, budget and cooldown in force.",
    )
    parser.add_argument("--run", required=True, metavar="ID", help="names the branch retrain/ID and the folder DIR/ID")
    parser.add_argument(
        "--repo", type=Path, default=Path(), metavar="PATH", help="the repository (default: the current folder)"
    )
    parser.add_argument("--work", type=Path, default=Path("var/work"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--keep-work", action="store_true", help="keep the clone when it is no longer needed")
    parser.add_argument(
        "--priors", type=_priors, metavar="JSON", help='train nothing: answer for this case mix, {"label": share, ...}'
    )
    parser.add_argument("--promote", action="store_true", help="promote the candidate of this run, now approved")
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="yield to other processes, as nice(1) has it")
    parser.add_argument("--lock-fd", type=int, default=None, help=argparse.SUPPRESS)
    return parser
