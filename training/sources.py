"""Adds a data set to `data.sources` of params.yaml as a person would: one line more, every comment kept."""

from collections.abc import Mapping

import yaml

from service.contract.errors import ConfigError


def add_source(text: str, source: Mapping[str, str]) -> str:
    """params.yaml's text with `source` among data.sources; the same text when a source of that kind is there already.

    Raises ConfigError for a text without a list data.sources.
    """
    before = _sources(text)
    if any(entry.get("kind") == source["kind"] for entry in before if isinstance(entry, dict)):
        return text
    sources = _node(text)
    line = yaml.safe_dump(dict(source), default_flow_style=True, sort_keys=False, width=1000).strip()
    if sources.flow_style:
        end = text.rindex("]", 0, sources.end_mark.index)
        changed = f"{text[:end]}{', ' if sources.value else ''}{line}{text[end:]}"
    else:
        indent = " " * sources.start_mark.column
        end = text.find("\n", _last_mark(sources.value[-1]))
        end = len(text) if end < 0 else end
        changed = f"{text[:end]}\n{indent}- {line}{text[end:]}"
    if _sources(changed) != [*before, dict(source)]:
        raise ConfigError(f"params.yaml: cannot add a source by itself: add `- {line}` to data.sources")
    return changed


def _sources(text: str) -> list[object]:
    try:
        values = yaml.safe_load(text)["data"]["sources"]
    except (yaml.YAMLError, KeyError, TypeError):
        values = None
    if not isinstance(values, list):
        raise ConfigError("params.yaml has no list data.sources: restore it from git")
    return values


def _node(text: str) -> yaml.SequenceNode:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    for name in ("data", "sources"):
        assert isinstance(node, yaml.MappingNode)  # noqa: S101  (_sources has read this path)
        node = next(value for key, value in node.value if key.value == name)
    assert isinstance(node, yaml.SequenceNode)  # noqa: S101
    return node


def _last_mark(node: yaml.Node) -> int:
    """Where the node's last word ends; a block's own end lies after the comments that follow it."""
    if isinstance(node, yaml.ScalarNode) or getattr(node, "flow_style", False) or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _last_mark(last[1] if isinstance(last, tuple) else last)
