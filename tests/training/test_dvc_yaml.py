"""dvc.yaml against the code: what a stage imports, reads and is parameterised by is what reruns it."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parents[2]
PACKAGES = ("training", "service")
STAGES: dict[str, dict[str, object]] = yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"]
# Run by their names alone; their parameters are named by section.
BESIDE: dict[str, dict[str, object]] = yaml.safe_load((REPO / "training/dvc.yaml").read_text())["stages"]
ALL = STAGES | BESIDE
PARAMS: dict[str, object] = yaml.safe_load((REPO / "params.yaml").read_text())


def strings(stage: str, key: str) -> list[str]:
    """Entries of a list in dvc.yaml; of a mapping with options, its name."""
    entries = ALL[stage].get(key, [])
    assert isinstance(entries, list)
    return [next(iter(entry)) if isinstance(entry, dict) else str(entry) for entry in entries]


def outputs(stage: str) -> list[str]:
    return [path for key in ("outs", "metrics", "plots") for path in strings(stage, key)]


def covered(path: str, by: list[str]) -> bool:
    return any(path == entry or path.startswith(f"{entry}/") for entry in by)


def files_of(module: str) -> list[Path]:
    """The files that importing a module of the repository runs: its own, and the __init__ of each package above."""
    parts = module.split(".")
    found = [REPO.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    found.append(REPO.joinpath(*parts).with_suffix(".py"))
    return [path for path in found if path.is_file()]


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path) -> Iterator[str]:
    """Modules of the repository that a file imports anywhere in it; `from package import name` may name a module."""
    for node in ast.walk(tree(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def needed(stage: str) -> set[str]:
    """Files of the repository that a stage runs, those left out that hold no more than a docstring."""
    waiting, seen = files_of(f"training.{stage}"), set[Path]()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += [file for module in imported(path) for file in files_of(module)]
    return {path.relative_to(REPO).as_posix() for path in seen if any(map(runs, tree(path).body))}


def runs(statement: ast.stmt) -> bool:
    return not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))


def leaves(value: object, name: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}")
    else:
        yield name


def sections_read(stage: str) -> set[str]:
    """Dotted names that a stage's module asks of params.yaml: read_params("a", "b"), or parameters["a"]."""
    found = set[str]()
    for node in ast.walk(tree(REPO / "training" / f"{stage}.py")):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "read_params" and node.args:
            found.add(".".join(ast.literal_eval(argument) for argument in node.args))
        elif isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "parameters":
            found.add(str(ast.literal_eval(node.slice)))
    return found


def test_the_stages_are_those_of_the_design_one_file_each() -> None:
    assert list(STAGES) == [
        *("prepare", "validate", "split", "bounds", "pretrain", "train", "calibrate", "evaluate", "audit", "export"),
        *("champion", "gate", "package", "promote"),
    ]
    for stage in STAGES:
        assert STAGES[stage]["cmd"] == f"python -m training.{stage}"
        assert (REPO / "training" / f"{stage}.py").is_file()


@pytest.mark.parametrize("stage", ALL)
def test_every_module_that_a_stage_imports_is_a_dep(stage: str) -> None:
    missing = sorted(path for path in needed(stage) if not covered(path, strings(stage, "deps")))
    assert missing == [], f"add to the deps of {stage}"


@pytest.mark.parametrize("stage", ALL)
def test_no_module_is_a_dep_of_a_stage_that_does_not_import_it(stage: str) -> None:
    modules = {path for path in strings(stage, "deps") if path.endswith(".py")}
    assert sorted(modules - needed(stage)) == [], f"remove from the deps of {stage}"


@pytest.mark.parametrize("stage", ALL)
def test_a_stage_depends_on_files_that_exist_or_that_a_stage_makes(stage: str) -> None:
    made = [path for other in STAGES for path in outputs(other)]
    unknown = [path for path in strings(stage, "deps") if not covered(path, made) and not (REPO / path).exists()]
    assert unknown == []


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stages_module_names_of_the_pipelines_files_is_a_dep_or_an_output(stage: str) -> None:
    made = {path for other in STAGES for path in outputs(other)}
    named = {
        node.value
        for node in ast.walk(tree(REPO / "training" / f"{stage}.py"))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in made
    }
    assert sorted(path for path in named if not covered(path, strings(stage, "deps") + outputs(stage))) == []


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_named_by_leaf_and_exist(stage: str) -> None:
    known = {leaf for section in PARAMS for leaf in leaves(PARAMS[section], section)}
    assert set(strings(stage, "params")) <= known


@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_that_a_stage_reads_is_declared(stage: str) -> None:
    declared = strings(stage, "params")
    for name in sections_read(stage):
        value: object = PARAMS
        for part in name.split("."):
            assert isinstance(value, dict)
            value = value[part]
        assert [leaf for leaf in leaves(value, name) if leaf not in declared] == [], f"add to the params of {stage}"


@pytest.mark.parametrize("stage", ["bounds", "gate"])
def test_every_parameter_that_the_change_plan_bounds_reruns_what_holds_it_to_that(stage: str) -> None:
    sections = yaml.safe_load((REPO / "change_plan.yaml").read_text())["may_change"]["sections"]
    known = [leaf for section in PARAMS for leaf in leaves(PARAMS[section], section)]
    bounded = [leaf for leaf in known if any(leaf == name or leaf.startswith(f"{name}.") for name in sections)]
    assert [leaf for leaf in bounded if leaf not in strings(stage, "params")] == [], f"add to the params of {stage}"


def declared_beside() -> set[str]:
    """Parameters of the pipelines beside the root's; a stage per row names its own row."""
    found: set[str] = set()
    for file in (REPO / "training").rglob("dvc.yaml"):
        for stage in yaml.safe_load(file.read_text())["stages"].values():
            names = stage.get("do", stage).get("params", [])
            found |= {name.replace("${item}", item) for name in names for item in stage.get("foreach", [""])}
    return found


def test_every_parameter_reruns_some_stage() -> None:
    declared = {name for stage in STAGES for name in strings(stage, "params")}
    beside = tuple(f"{name}." for name in declared_beside())
    unread = [leaf for section in PARAMS for leaf in leaves(PARAMS[section], section) if leaf not in declared]
    assert sorted(leaf for leaf in unread if not f"{leaf}.".startswith(beside)) == []


@pytest.mark.parametrize("stage", BESIDE)
def test_a_stage_beside_the_pipeline_runs_its_module_at_the_root_and_declares_what_it_reads(stage: str) -> None:
    assert BESIDE[stage]["cmd"] == f"python -m training.{stage}"
    assert BESIDE[stage]["wdir"] == ".."
    declared = strings(stage, "params")
    assert [name for name in sections_read(stage) if not covered(name.replace(".", "/"), _as_paths(declared))] == []
    ours = [path for other in STAGES for path in outputs(other)]
    assert [path for path in outputs(stage) if covered(path, ours)] == []


def _as_paths(names: list[str]) -> list[str]:
    return [name.replace(".", "/") for name in names]


def test_the_stages_that_look_outside_run_always_and_only_they() -> None:
    assert [stage for stage in STAGES if STAGES[stage].get("always_changed")] == ["champion", "promote"]
    assert outputs("promote") == []


def test_outputs_lie_where_git_does_not_look() -> None:
    ignored = (REPO / ".gitignore").read_text().splitlines()
    for stage in ALL:
        for path in outputs(stage):
            assert f"/{path.split('/')[0]}/" in ignored, path


def test_metrics_and_plots_are_declared() -> None:
    assert "reports/evaluation.json" in strings("evaluate", "metrics")
    assert "reports/export.json" in strings("export", "metrics")
    assert "reports/contact_sheet.png" in strings("prepare", "plots")
    assert strings("evaluate", "plots")
