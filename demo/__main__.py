"""`python -m demo`: once round the loop; `make demo` runs this."""

import argparse
import json
import signal
import sys
from pathlib import Path

from demo.outcome import Outcome
from demo.processes import sweep
from demo.round import go_round
from demo.story import Story
from demo.workspace import Workspace, claimed, lay
from service.contract.errors import BlastwatchError, ConfigError, run_command
from service.contract.files import write_atomic


def main(argv: list[str] | None = None) -> int:
    """Run the demo.

    Returns:
        0 when the loop closed and met its targets, 1 when it did not.

    Raises:
        BlastwatchError: something is missing on the machine, or a part ended early.
    """
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Once round the loop: train, serve, drift, review, retrain, promote, compare. Ten minutes or so.",
    )
    parser.add_argument(
        "--root", type=Path, default=Path("var/demo"), help="workspace, emptied at the start (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="draws which reviewed patients test the candidate; the same one gives the same figures on the same "
        "machine (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)

    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    workspace = Workspace(arguments.root.resolve())
    source = Path(__file__).resolve().parent.parent
    story = Story()
    try:
        with claimed(workspace.root):
            if swept := sweep(workspace.root / "processes.json"):
                story.say(f"ended {swept} processes that an earlier demo had left")
            if taken := workspace.ports.taken():
                ports = ", ".join(f"{port} ({name})" for name, port in taken)
                raise ConfigError(
                    f"in use on this machine: port {ports}; stop what listens there and run the demo again"
                )
            for note in lay(workspace, source, arguments.seed):
                story.say(f"note: {note}")
            outcome = go_round(workspace, story)
    except KeyboardInterrupt:
        print("\ninterrupted: every process is stopped; run it again when you like", file=sys.stderr)
        return 130
    write_atomic(workspace.root / "summary.json", json.dumps(outcome.summary, indent=2) + "\n")
    story.table(outcome.rows())
    return _verdict(outcome)


def _verdict(outcome: Outcome) -> int:
    missed = outcome.missed()
    for line in missed:
        print(f"MISSED: {line}", file=sys.stderr)
    return 1 if missed else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


__all__ = ["BlastwatchError", "main"]

if __name__ == "__main__":
    run_command(main)
