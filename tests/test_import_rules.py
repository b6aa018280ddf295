"""Who may import whom: the packages meet in files, tables and service.contract, never in Python calls."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("service", "training", "monitoring")
OURS = (*PACKAGES, "demo", "benchmarks", "tests")
CONTRACT = "service/contract/"
CONTRACT_NEEDS = {"numpy", "PIL", "cv2", "sqlalchemy", "pydantic", "pydantic_core"}
GRPC = ("grpc", "grpc_health", "grpc_reflection", "grpc_status", "grpc_tools")

# A library → the only places of the packages that may import it (a folder ends with a slash).
ONLY_IN: dict[str, tuple[str, ...]] = {
    "bentoml": ("service/bento.py", "training/package.py", "training/promote.py"),
    "torch": ("training/",),
    "onnxruntime": ("service/contract/predictor.py", "training/"),
    "alembic": ("service/migrate.py", "service/migrations/"),
    "opentelemetry": ("service/tracing.py",),
    "great_expectations": ("training/validate.py",),
    "dvclive": ("training/train.py",),
    "evidently": ("monitoring/reports.py",),
    "ray": ("service/backfill.py",),
    "fsspec": ("service/backfill_parts.py", "service/contract/shared_models.py"),
    "kubernetes": ("monitoring/kubernetes_job.py",),
} | dict.fromkeys(
    GRPC,
    (
        "service/grpc_server.py",
        "service/grpc_access.py",
        "service/grpc_status.py",
        "service/grpc_stream.py",
        "service/open_inference.py",
        "service/converters.py",
        "service/client.py",
        "service/client_access.py",
        "service/client_aio.py",
        "service/client_errors.py",
        "service/proto/",
    ),
)
# A package → what of ours it may import.
MAY_USE: dict[str, tuple[str, ...]] = {
    "service/contract/": ("service.contract",),
    "service/": ("service",),
    "training/": ("training", "service.contract"),
    "monitoring/": ("monitoring", "service.contract"),
}


@dataclass(frozen=True)
class Import:
    file: str
    line: int
    module: str

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def imports(root: Path) -> Iterator[Import]:
    """Every import of the three packages below `root`, also inside functions, conditions and import_module("…")."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            file = path.relative_to(root).as_posix()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), file)):
                for module in _modules(node, path, root):
                    yield Import(file, node.lineno, module)  # type: ignore[attr-defined]


def _modules(node: ast.AST, path: Path, root: Path) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [name.name for name in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = list(path.relative_to(root).parent.parts)[: None if level < 2 else 1 - level] if level else []
            source = ".".join([*base, *([module] if module else [])])
            # `from service import contract` imports service.contract; `from service.core import Core` service.core.
            return [f"{source}.{name.name}" if _is_module(root, f"{source}.{name.name}") else source for name in names]
        case ast.Call(func=function, args=[ast.Constant(value=str(module)), *_]) if _imports_by_name(function):
            return [module]
    return []


def _imports_by_name(function: ast.expr) -> bool:
    name = (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
    return name in {"import_module", "__import__", "importorskip"}


def _is_module(root: Path, module: str) -> bool:
    path = root.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def breaches(root: Path) -> list[str]:
    """One line for each import that the rules forbid."""
    found = []
    for item in imports(root):
        where = f"{item.file}:{item.line} imports {item.module}"
        allowed = ONLY_IN.get(item.top)
        if allowed is not None and not any(_in(item.file, place) for place in allowed):
            found.append(f"{where}: only {', '.join(allowed)} may")
        elif item.top in OURS:
            uses = next(uses for package, uses in MAY_USE.items() if item.file.startswith(package))
            if not any(f"{item.module}.".startswith(f"{use}.") for use in uses):
                found.append(f"{where}: only {', '.join(uses)} may be imported there")
        elif (
            item.file.startswith(CONTRACT)
            and allowed is None
            and item.top not in CONTRACT_NEEDS | sys.stdlib_module_names
        ):
            found.append(f"{where}: the contract needs no more than {', '.join(sorted(CONTRACT_NEEDS))}")
    return found


def _in(file: str, place: str) -> bool:
    return file.startswith(place) if place.endswith("/") else file == place


def test_nobody_imports_what_they_may_not() -> None:
    assert breaches(ROOT) == []


def test_the_walk_sees_the_packages() -> None:
    seen = {item.file.partition("/")[0] for item in imports(ROOT)}
    assert seen == set(PACKAGES)
    assert any(item.module == "onnxruntime" for item in imports(ROOT))


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("service/contract/store.py", "import torch"),
        ("service/contract/store.py", "import bentoml"),
        ("service/contract/store.py", "import grpc"),
        ("service/contract/store.py", "import evidently"),
        ("service/contract/store.py", "import requests"),
        ("service/contract/store.py", "import onnxruntime"),
        ("service/contract/store.py", "from service import core"),
        ("service/contract/store.py", "from service.core import Core"),
        ("service/contract/store.py", "from ..core import Core"),
        ("service/core.py", "import torch.nn as nn"),
        ("service/core.py", "def load():\n    import torch"),
        ("service/core.py", "import importlib\nimportlib.import_module('torch')"),
        ("service/core.py", "torch = __import__('torch')"),
        ("service/core.py", "try:\n    from bentoml import api\nexcept ImportError:\n    pass"),
        ("service/core.py", "from grpc import aio"),
        ("service/core.py", "from grpc_health.v1 import health"),
        ("service/core.py", "from training.datasets import synthetic"),
        ("service/core.py", "import monitoring"),
        ("service/core.py", "from tests.support import images"),
        ("service/settings.py", "if TYPE_CHECKING:\n    from monitoring.policy import Policy"),
        ("training/train.py", "import great_expectations as gx"),
        ("training/train.py", "from evidently import Report"),
        ("training/train.py", "import service"),
        ("training/train.py", "from service import client"),
        ("training/train.py", "from service.client import Client"),
        ("training/train.py", "import service.contractual"),
        ("training/train.py", "from monitoring.metrics import build"),
        ("training/validate.py", "import dvclive"),
        ("training/gate.py", "import bentoml"),
        ("training/datasets/deep.py", "from demo import story"),
        ("monitoring/drift.py", "from evidently.metrics import ColumnDrift"),
        ("monitoring/drift.py", "from service.core import Core"),
        ("monitoring/drift.py", "from training.figures import ece"),
        ("monitoring/drift.py", "import torch"),
        ("monitoring/drift.py", "import bentoml"),
    ],
)
def test_a_planted_breach_is_found(tmp_path: Path, file: str, code: str) -> None:
    for module in ("service/core.py", "service/client.py", "service/contract/image.py"):
        _write(tmp_path / module, "")
    _write(tmp_path / file, code)
    (found,) = breaches(tmp_path)
    assert found.startswith(f"{file}:")


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("service/contract/store.py", "import sqlite3, numpy\nfrom sqlalchemy import select\nfrom . import image"),
        ("service/contract/predictor.py", "import onnxruntime"),
        ("service/bento.py", "import bentoml"),
        ("service/converters.py", "import grpc"),
        ("service/proto/blastwatch/v1/blastwatch_pb2_grpc.py", "import grpc"),
        ("service/core.py", "from service.contract import image\nfrom .contract.image import decode"),
        ("training/package.py", "import bentoml"),
        ("training/train.py", "import torch, dvclive\nfrom service.contract import image\nfrom training import io"),
        ("monitoring/reports.py", "import evidently\nfrom service import contract\nfrom service.contract import store"),
    ],
)  # fmt: skip
def test_what_is_allowed_is_no_breach(tmp_path: Path, file: str, code: str) -> None:
    _write(tmp_path / "service/contract/image.py", "")
    _write(tmp_path / file, code)
    assert breaches(tmp_path) == []


def test_the_contract_pulls_nothing_heavy_in() -> None:
    """What the walk cannot see: an allowed library that imports a forbidden one."""
    modules = [
        f"service.contract.{path.stem}" for path in (ROOT / CONTRACT).glob("[!_]*.py") if path.stem != "predictor"
    ]
    code = (
        f"import sys, {', '.join(modules)}\n"
        f"print(sorted({{'torch', 'onnxruntime', 'bentoml', 'evidently', 'pandas', {', '.join(map(repr, GRPC))}}}"
        " & sys.modules.keys()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert answer.stdout == "[]\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
