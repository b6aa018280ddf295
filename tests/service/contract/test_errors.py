import re
import subprocess
import sys

import pytest

from service.contract import errors
from service.contract.errors import BlastwatchError, CommandParser, NotReady, Overloaded, StoreUnavailable, run_command


def _drawn() -> dict[str, str]:
    """{class: parent} as the module's docstring draws it."""
    drawn, path = {}, ["BlastwatchError"]
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ((?:│   |    )*)[├└]── (\w+)", line):
            depth = len(match[1]) // 4 + 1
            drawn[match[2]] = path[depth - 1]
            path[depth:] = [match[2]]
    return drawn


def test_the_drawn_tree_is_the_tree() -> None:
    actual = {
        name: value.__bases__[0].__name__
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BlastwatchError) and value is not BlastwatchError
    }
    assert actual == _drawn()
    assert len(actual) == 16


def test_overloaded_says_when_to_ask_again() -> None:
    assert Overloaded().retry_after_s == 1.0
    assert Overloaded("full", retry_after_s=2.5).retry_after_s == 2.5
    assert str(Overloaded("full")) == "full"


def test_an_absent_store_is_not_readiness() -> None:
    assert issubclass(StoreUnavailable, NotReady)


def test_a_command_ends_with_one_line_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str] | None) -> None:
        raise BlastwatchError("no data\n  at all:\tbring some")

    with pytest.raises(SystemExit) as exit_:
        run_command(main)
    assert exit_.value.code == 2
    assert capsys.readouterr() == ("", "error: no data at all: bring some\n")


@pytest.mark.parametrize(("status", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_command_ends_with_its_status(status: int | None, code: int) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda argv: status)
    assert exit_.value.code == code


def test_an_interrupt_is_not_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str] | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit_:
        run_command(main)
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_is_not_hidden() -> None:
    def main(argv: list[str] | None) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(main)


def test_a_reader_that_leaves_is_no_error() -> None:
    code = (
        "from service.contract.errors import run_command\n"
        "def main(argv):\n"
        "    for _ in range(100_000): print('x' * 80)\n"
        "run_command(main)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_a_wrong_argument_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser(prog="tool")
    parser.add_argument("--count", type=int)
    with pytest.raises(SystemExit) as exit_:
        parser.parse_args(["--count", "many"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: argument --count: invalid int value: 'many' (see tool --help)\n"
