"""Which cells belong together: exact copies, near-duplicates, patients, and the units that a split may not divide."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from training.datasets import DatasetError
from training.duplicates import Pairs
from training.units import members

Index = npt.NDArray[np.int64]
_SHOWN = 5


def without_copies(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Rows without repeats of the same pixels of the same patient (or of nobody named), and how many were left out.

    Copies under two patients stay. Raises DatasetError for one picture with two labels, naming both.
    """
    first = table.drop_duplicates("pixels_sha256").set_index("pixels_sha256")[["source", "label"]]
    original = first.loc[table["pixels_sha256"]].reset_index(drop=True)
    wrong = np.flatnonzero((original["label"] != table["label"].reset_index(drop=True)).to_numpy())
    if len(wrong):
        one, other = original.iloc[wrong[0]], table.iloc[wrong[0]]
        raise DatasetError(
            f"{one['source']} and {other['source']} are the same picture, but labelled {one['label']!r} and "
            f"{other['label']!r}: correct one, or remove both"
        )
    kept = ~table.duplicated(["pixels_sha256", "patient"])
    return table[kept], int((~kept).sum())


def with_units(table: pd.DataFrame, pairs: Pairs, block: int) -> pd.DataFrame:
    """The table with `near` and `unit`: smallest name (group; patient or group) of what hangs together.

    Near-duplicates hang together, and copies. A unit is a connected component over patient, near-duplicates and the
    picture that cells were cut out of; of cells that have neither patient nor such a picture, `block` consecutive ones
    of one set and label hang together too, for files that follow each other are often of one person.
    """
    group = table["group"].to_numpy()
    near = components(len(table), [_codes(table["group"])], [(pairs.one, pairs.other)])
    patient, cut = table["patient"], table["set"].astype(str) + "/" + table["field"]
    named, of_field = (patient != "").to_numpy(), (table["field"] != "").to_numpy()
    alone = ~named & ~of_field
    number = table[alone].groupby(["set", "label"], sort=False).cumcount() // block
    blocks = pd.Series("", index=table.index)
    blocks[alone] = table["set"].astype(str)[alone] + "/" + table["label"][alone] + "/" + number.astype(str)
    keys = [near, _codes(patient, named), _codes(cut, of_field), _codes(blocks, alone)]
    return table.assign(near=_least(near, group), unit=_least(components(len(table), keys, []), members(table)))


def components(count: int, keys: Sequence[Index], edges: Sequence[tuple[Index, Index]]) -> Index:
    """Of `count` nodes, which component each is in: nodes of an equal key (−1 is none) are linked, and so are edges."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = [np.concatenate([np.zeros(0, np.int64), *(edge[side] for edge in edges)]) for side in (0, 1)]
    for key in keys:
        there = np.flatnonzero(key >= 0)
        _, first, inverse = np.unique(key[there], return_index=True, return_inverse=True)
        ends = [np.concatenate([ends[0], there]), np.concatenate([ends[1], there[first[inverse]]])]
    graph = coo_array((np.ones(len(ends[0]), dtype=np.int8), (ends[0], ends[1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def notes(table: pd.DataFrame, copies: int, block: int) -> list[str]:
    """What a reader of results must know about copies, near-duplicates and cells of nobody named."""
    found = []
    if copies:
        found.append(f"{copies} exact copies left out (the same pixels of one patient, or of nobody named)")
    size = table.groupby("near", sort=False)["near"].transform("size")
    twins = table[(size > 1).to_numpy()]
    if len(twins):
        groups = [rows for _, rows in twins.groupby("near", sort=True)]
        found.append(
            f"{len(twins)} cells are near-duplicates of others, in {len(groups)} groups of up to {int(size.max())}, "
            "which no split divides: reports/near_duplicates.png shows them"
        )
        found += _of_two(groups, "label", "have different labels", "look at them, and correct one")
        found += _of_two(
            groups, "patient", "are of different patients", "these are one unit; one person may have two ids"
        )
    anonymous = table[(table["patient"] == "").to_numpy()]
    if len(anonymous):
        together = [
            "near-duplicates stay together",
            *(["so do cells cut out of one picture"] if (anonymous["field"] != "").any() else []),
            *([f"so do {block} consecutive cells of a label"] if block > 1 else []),
        ]
        found.append(
            f"WARNING: {len(anonymous)} cells of {', '.join(sorted(set(anonymous['site'])))} name no patient. "
            f"{', '.join(together).capitalize()}, but cells of one person may be both trained on and tested with: "
            "figures on them are too good"
        )
    return found


def _of_two(groups: Sequence[pd.DataFrame], column: str, what: str, advice: str) -> list[str]:
    mixed = [rows for rows in groups if rows[column].nunique() > 1]
    if not mixed:
        return []
    shown = "; ".join(
        " and ".join(
            f"{row['source']} ({row[column] or 'nobody'})" for _, row in rows.drop_duplicates(column).iterrows()
        )
        for rows in mixed[:_SHOWN]
    )
    more = f"; and {len(mixed) - _SHOWN} more" if len(mixed) > _SHOWN else ""
    return [f"WARNING: {len(mixed)} groups of near-duplicates {what}: {shown}{more}: {advice}"]


def _codes(values: "pd.Series[str]", where: npt.NDArray[np.bool_] | None = None) -> Index:
    codes = pd.factorize(values)[0].astype(np.int64)
    return codes if where is None else np.where(where, codes, -1)


def _least(component: Index, names: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """The smallest name in each node's component."""
    least: dict[int, str] = {}
    for number, name in zip(component.tolist(), names.tolist(), strict=True):
        if number not in least or name < least[number]:
            least[number] = name
    return np.array([least[number] for number in component.tolist()], dtype=object)
