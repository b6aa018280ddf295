"""The generated code is what the generator makes of the sources, byte for byte."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "proto", "--out", tmp_path], check=True, capture_output=True)
    fresh, committed = contents(tmp_path), contents(ROOT / "service" / "proto")
    assert sorted(fresh) == sorted(committed)
    assert [name for name in fresh if fresh[name] != committed[name]] == []


def test_generating_over_code_that_was_imported_works(tmp_path: Path) -> None:
    compiled = tmp_path / "blastwatch/v1/__pycache__/blastwatch_pb2.cpython-311.pyc"
    compiled.parent.mkdir(parents=True)
    compiled.write_bytes(b"\xa7\r\r\n")
    subprocess.run([sys.executable, ROOT / "scripts" / "proto", "--out", tmp_path], check=True, capture_output=True)
    assert compiled.read_bytes() == b"\xa7\r\r\n"
    assert contents(tmp_path) == contents(ROOT / "service" / "proto")
