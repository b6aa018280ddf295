"""Points params.yaml at a data set with one command, and says what to run next.

    python -m training.configure all_idb2 --root data/ALL_IDB2

The set is opened first, so that a wrong folder is refused before anything changes. Only the entries that the set needs
are rewritten; every other line and comment of params.yaml stays.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from service.contract.errors import CommandParser, ConfigError, run_command
from service.contract.files import write_atomic
from training.datasets import Counted, open_dataset, open_datasets
from training.io import PARAMS_FILE
from training.recommended import BLAST, COMMON, HEALTHY, RECOMMENDED


@dataclass(frozen=True)
class Change:
    """One entry of params.yaml: its dotted name, and its value before and after."""

    name: str
    before: object
    after: object


def source_of(kind: str, root: str, options: Mapping[str, object], *, binary: bool) -> dict[str, object]:
    """The entry of data.sources for a set, opened to see that it is there.

    Raises DatasetError and ConfigError as the loader does; ConfigError for `binary` of a set without blasts.
    """
    if binary and "labels" in options:
        raise ConfigError("--binary makes a map of labels of its own: leave it out, or the option labels")
    known = RECOMMENDED[kind]
    source = {"kind": kind, "root": root, **known.options, **options}
    dataset = open_dataset(source)
    if "labels" in options:
        return source
    labels = dict(known.labels) or {label: label for label in dataset.labels}
    labels = {label: name for label, name in labels.items() if label in dataset.labels}
    if binary:
        if not dataset.malignant:
            hint = "name its malignant classes: --option malignant=[NAME]" if kind == "folder" else "leave --binary out"
            raise ConfigError(f"{kind}: no label of {', '.join(dataset.labels)} means a blast: {hint}")
        labels = {label: BLAST if label in dataset.malignant else HEALTHY for label in labels}
    return source if labels == {label: label for label in dataset.labels} else {**source, "labels": labels}


def configure(text: str, source: Mapping[str, object], *, add: bool = False) -> tuple[str, list[Change]]:
    """params.yaml's text with `source` as its only source, or `add`ed to those that are there; and what changed.

    Raises ConfigError for a text that lacks an entry or that cannot be changed, and what opening the sources raises.
    """
    params = _loaded(text)
    sources = [*(_entry(params, "data.sources") if add else []), dict(source)]
    datasets = open_datasets(sources)
    labels = [label for dataset in datasets for label in dataset.labels]
    before = _entry(params, "data.labels") if add else [HEALTHY]
    # Kept in their order, for it is the order of probabilities; with healthy first in a new list.
    ordered = [label for label in before if label in labels] + labels
    wanted: dict[str, object] = {"data.labels": list(dict.fromkeys(ordered)), "data.sources": sources}
    if not add:
        # What suits one set may not suit those that it joins: there a person decides.
        wanted |= {**COMMON, **RECOMMENDED[str(source["kind"])].settings}
    changes = []
    for name, value in wanted.items():
        old = _entry(params, name)
        if old != value:
            changes.append(Change(name, old, value))
            text = replaced(text, name, value)
    if _loaded(text) != _changed(params, changes):
        raise ConfigError("params.yaml cannot be changed by this command: edit it by hand, data/README.md has examples")
    return text, changes


def replaced(text: str, name: str, value: object) -> str:
    """YAML text with another value of the entry `name` (dotted); other lines stay as they are, comments included."""
    key, node = _nodes(text, name)
    start, end = key.start_mark.index, _last_mark(node)
    indent = " " * key.start_mark.column
    return text[:start] + f"\n{indent}".join(_lines(name.rsplit(".", 1)[-1], value)) + text[end:]


def _nodes(text: str, name: str) -> tuple[Any, Any]:
    node = YAML().compose(text)
    key = node
    for part in name.split("."):
        key, node = next((found, value) for found, value in node.value if found.value == part)
    return key, node


def _last_mark(node: Any) -> int:
    """Where the node's last word ends: a block's own end lies after the comments that follow it."""
    if isinstance(node.value, str) or getattr(node, "flow_style", False) or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _last_mark(last[1] if isinstance(last, tuple) else last)


def _lines(key: str, value: object) -> list[str]:
    """An entry as params.yaml writes it: on one line, a list of maps (the sources) as a block."""
    if not (isinstance(value, list) and any(isinstance(item, Mapping) for item in value)):
        return [f"{key}: {_flow(value)}"]
    yaml = YAML()
    yaml.width = 4096
    yaml.default_flow_style = None  # lists and maps without others in them on one line
    yaml.indent(mapping=2, sequence=4, offset=2)
    buffer = io.StringIO()
    yaml.dump({key: value}, buffer)
    return buffer.getvalue().rstrip("\n").splitlines()


def _loaded(text: str) -> dict[str, Any]:
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"params.yaml is not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(value, dict):
        raise ConfigError("params.yaml is empty: restore it from git")
    return value


def _entry(params: Mapping[str, Any], name: str) -> Any:
    value: Any = params
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(f"params.yaml lacks {name}: restore the file from git")
        value = value[part]
    return value


def _changed(params: Mapping[str, Any], changes: Sequence[Change]) -> dict[str, Any]:
    done = {section: dict(entries) if isinstance(entries, dict) else entries for section, entries in params.items()}
    for change in changes:
        *path, name = change.name.split(".")
        inner = done
        for part in path:
            inner[part] = dict(inner[part])
            inner = inner[part]
        inner[name] = change.after
    return done


def _options(pairs: Sequence[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise ConfigError(f"--option {pair}: expected NAME=VALUE")
        try:
            found[name] = YAML(typ="safe", pure=True).load(value)
        except YAMLError:
            raise ConfigError(f"--option {name}: {value!r} is not YAML") from None
    return found


def _report(source: Mapping[str, object], changes: Sequence[Change], *, add: bool) -> list[str]:
    dataset, known = open_dataset(source), RECOMMENDED[str(source["kind"])]
    counts = dataset.counts if isinstance(dataset, Counted) else {}
    lines = [f"{dataset.name}: {', '.join(f'{count} {label}' for label, count in counts.items())}"]
    lines += [f"  {note}" for note in dataset.notes]
    lines += [f"{change.name}: {_flow(change.before)} → {_flow(change.after)}" for change in changes]
    if not changes:
        lines.append("params.yaml says all this already")
    if known.why:
        lines.append(f"why: {known.why}")
    if add and known.settings:
        settings = ", ".join(f"{name} {_flow(value)}" for name, value in known.settings.items())
        lines.append(f"not changed, for it concerns the other sources too: by itself the set would get {settings}")
    if not Path(str(source["root"])).absolute().is_relative_to(Path("data").absolute()):
        lines.append(
            "the set lies outside data/, where DVC does not look: put it there (`dvc add`, `dvc import`), or run "
            "`dvc repro --force prepare` after it has changed"
        )
    lines += [
        "next: `dvc repro training/dvc.yaml:cross_validate` for figures over folds, `dvc repro` for a model",
        "the gate refuses labels and fields other than those of change_plan.yaml: another task is another device, with "
        "a plan of its own",
    ]
    return lines


def _flow(value: object) -> str:
    yaml = YAML()
    yaml.width = 4096
    yaml.default_flow_style = True
    buffer = io.StringIO()
    yaml.dump([value], buffer)
    return buffer.getvalue().strip()[1:-1]


def main(argv: list[str] | None = None) -> int:
    """Point params.yaml at a data set: data.labels, data.sources, and what the set asks for besides."""
    parser = CommandParser(prog="python -m training.configure", description=main.__doc__)
    parser.add_argument("kind", choices=sorted(RECOMMENDED), help="which set, see data/README.md")
    parser.add_argument("--root", required=True, help="folder of the set")
    parser.add_argument("--binary", action="store_true", help="healthy and blast instead of the set's own labels")
    parser.add_argument(
        "--add", action="store_true", help="beside the sources that are there, instead of in their place"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the source, as YAML; repeatable",
    )
    options = parser.parse_args(argv)
    try:
        text = PARAMS_FILE.read_text(encoding="utf-8")
    except OSError:
        raise ConfigError(f"{PARAMS_FILE} cannot be read: run this in the repository's root") from None
    source = source_of(options.kind, options.root, _options(options.option), binary=options.binary)
    changed, changes = configure(text, source, add=options.add)
    if changes:
        write_atomic(PARAMS_FILE, changed.encode())
    print("\n".join(_report(source, changes, add=options.add)))
    return 0


if __name__ == "__main__":
    run_command(main)
