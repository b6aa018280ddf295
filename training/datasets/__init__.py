"""Data sets: one file a set, one small Protocol. A set names its cells; `training.prepare` decodes and checks them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast, runtime_checkable

from service.contract.errors import ConfigError


@dataclass(frozen=True)
class SourceCell:
    """One cell as its source has it, before it is brought to a model's field.

    `image` is the file's bytes; `patient` a stable id or a pseudonym, never a real patient's id, "" when the set names
    none; `pixel_size_um` is µm per pixel, 0 when unknown; `source` says where it comes from (set and file), for people;
    `field` names the picture that several cells were cut out of, "" when a cell has a picture of its own: cells of one
    field overlap and share a patient, so no split may divide them. `fitted`: the picture is a model's field already, as
    the service keeps it, and is not cropped again.
    """

    image: bytes
    label: str
    patient: str
    site: str
    stain: str
    scanner: str
    pixel_size_um: float
    source: str
    field: str = ""
    fitted: bool = False


class Dataset(Protocol):
    """A set of labelled cells. `cells` yields them in a stable order and may raise DatasetError."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def scale_known(self) -> bool:
        """Whether every cell's `pixel_size_um` is known."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that occur."""
        ...

    @property
    def malignant(self) -> tuple[str, ...]:
        """Those that mean a blast."""
        ...

    @property
    def notes(self) -> list[str]:
        """What a reader of results must know about the set."""
        ...

    def cells(self) -> Iterator[SourceCell]:
        """Every cell, in an order that does not change between runs."""
        ...


@runtime_checkable
class Counted(Protocol):
    """A set that knows how many cells it has before any picture is read."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Cells of each label."""
        ...


class DatasetError(ConfigError):
    """A data set is missing, incomplete or not what its loader knows; the message says which file and what to do."""


FAB_BLASTS = ("L1", "L2", "L3")
"""Labels that mean a malignant cell, in sets that use the FAB names."""

KINDS = (
    "synthetic",
    "reviewed",
    "all_idb1",
    "all_idb2",
    "taleqani",
    "c_nmc",
    "bccd",
    "tecom_wbc",
    "folder",
)

_NEVER_TOGETHER = {
    ("all_idb1", "all_idb2"): "the cells of ALL-IDB2 were cut out of the pictures of ALL-IDB1, so one cell could be "
    "trained on and tested with: name one of the two",
}


def open_dataset(config: Mapping[str, object]) -> Dataset:
    """The data set that one entry of `data.sources` in params.yaml describes: {kind: …, options of that kind}.

    With the option `labels`, which every kind has, its labels are renamed or left out: see `training.datasets.mapped`.
    Raises ConfigError for an unknown kind or option, DatasetError when the set is not there.
    """
    kind = config.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"data.sources: kind is {kind!r}, known are {', '.join(KINDS)}")
    # Imported on demand: a set's own dependencies are needed only where it is used.
    opener = cast("Callable[[Mapping[str, object]], Dataset]", import_module(f"{__name__}.{kind}").open_dataset)
    dataset = opener({key: value for key, value in config.items() if key not in ("kind", "labels")})
    if "labels" not in config:
        return dataset
    from training.datasets.mapped import Mapped, checked_map

    return Mapped(dataset, checked_map(dataset, config["labels"]))


def open_datasets(configs: Sequence[Mapping[str, object]]) -> list[Dataset]:
    """All entries of `data.sources`, in their order.

    Raises what `open_dataset` does, and ConfigError for two sets that have cells in common by construction.
    """
    kinds = {config.get("kind") for config in configs}
    for pair, reason in _NEVER_TOGETHER.items():
        if kinds.issuperset(pair):
            raise ConfigError(f"data.sources: {' and '.join(pair)} cannot be used together: {reason}")
    return [open_dataset(config) for config in configs]
