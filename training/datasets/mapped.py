"""The option `labels` of every kind: a set's labels under the pipeline's names, so that sets can be combined.

    labels: {Benign: healthy, Early: blast, Pre: blast}

A label of the set that the map lacks is left out, and counted in the notes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from service.contract.errors import ConfigError
from training.datasets import Counted, Dataset, SourceCell


class Mapped:
    """`dataset` with its labels renamed; labels that the map lacks are left out."""

    def __init__(self, dataset: Dataset, labels: Mapping[str, str]) -> None:
        """`labels`: the set's label → the pipeline's; see `checked_map`."""
        self._dataset = dataset
        self._labels = dict(labels)
        self._left_out: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """The set's own."""
        return self._dataset.name

    @property
    def scale_known(self) -> bool:
        """As of the whole set."""
        return self._dataset.scale_known

    @property
    def labels(self) -> tuple[str, ...]:
        """The pipeline's labels that occur, in the map's order."""
        return tuple(dict.fromkeys(self._labels.values()))

    @property
    def malignant(self) -> tuple[str, ...]:
        """A label is malignant when any label of the set that it stands for is."""
        return tuple(name for name in self.labels if set(self._stands_for(name)) & set(self._dataset.malignant))

    @property
    def counts(self) -> dict[str, int]:
        """Cells of each label, of a set that knows its own; empty of one that does not."""
        known = self._dataset.counts if isinstance(self._dataset, Counted) else {}
        found: Counter[str] = Counter()
        for label, count in known.items():
            if label in self._labels:
                found[self._labels[label]] += count
        return {name: found[name] for name in self.labels if found[name]}

    @property
    def notes(self) -> list[str]:
        """The set's, what its labels stand for here, and how many cells were left out (so far, of an uncounted set)."""
        renamed = [
            f"{', '.join(of)} → {name}" for name in self.labels if (of := self._stands_for(name)) and of != [name]
        ]
        notes = [*self._dataset.notes, *(["labels: " + "; ".join(renamed)] if renamed else [])]
        for name in self.malignant:
            if harmless := sorted(set(self._stands_for(name)) - set(self._dataset.malignant)):
                notes.append(
                    f"WARNING: {name} is malignant, but {', '.join(harmless)} of the set is not and counts as it"
                )
        counts = self._dataset.counts if isinstance(self._dataset, Counted) else self._left_out
        if missing := [label for label in self._dataset.labels if label not in self._labels]:
            cells = ", ".join(f"{label} ({counts.get(label, 0)} cells)" for label in missing)
            notes.append(f"left out, for the map of labels lacks them: {cells}")
        return notes

    def cells(self) -> Iterator[SourceCell]:
        """The set's cells that the map keeps, in the set's order."""
        self._left_out.clear()
        for cell in self._dataset.cells():
            if cell.label in self._labels:
                yield replace(cell, label=self._labels[cell.label])
            else:
                self._left_out[cell.label] += 1

    def _stands_for(self, name: str) -> list[str]:
        return [label for label, mapped in self._labels.items() if mapped == name]


def checked_map(dataset: Dataset, labels: object) -> dict[str, str]:
    """The option `labels` of `dataset` as a map. Raises ConfigError when it is none, or names what the set lacks."""
    if not isinstance(labels, Mapping) or not labels or not all(_is_name(v) for pair in labels.items() for v in pair):
        raise ConfigError(
            f"data.sources, {dataset.name}: labels must be a map from the set's labels to yours, such as "
            f"{{{dataset.labels[0] if dataset.labels else 'theirs'}: healthy}}, not {labels!r}"
        )
    if unknown := [name for name in labels if name not in dataset.labels]:
        raise ConfigError(
            f"data.sources, {dataset.name}: labels maps {', '.join(map(repr, unknown))}, which the set lacks; it has "
            f"{', '.join(dataset.labels)}"
        )
    return dict(labels)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
