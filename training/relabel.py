"""Readers' labels over those of other sources: two labels for a picture are a mistake, unless a reader gave one."""

from collections import Counter

import pandas as pd

from training.datasets.carried import by_reader


def readers_win(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Cells (pixels_sha256, label, source, …) with each reader's label on every copy of the picture that was read.

    Pictures of the frozen test set are not concerned: the export of reviewed cells leaves them out. Where readers
    disagree with each other about a picture, it stays as it is, for `prepare` to refuse.

    Returns:
        The table, its order and index kept, and a note on how many labels changed and how.
    """
    read = table[[by_reader(source) for source in table["source"]]]
    agreed = read.groupby("pixels_sha256")["label"].agg(["first", "nunique"])
    theirs = table["pixels_sha256"].map(agreed.loc[agreed["nunique"] == 1, "first"])
    corrected = (theirs.notna() & (theirs != table["label"])).to_numpy()
    if not corrected.any():
        return table, []
    changes = Counter(zip(table["label"][corrected], theirs[corrected], strict=True))
    shown = ", ".join(f"{number} from {old} to {new}" for (old, new), number in sorted(changes.items()))
    note = f"{int(corrected.sum())} cells of other sources have the label that a reader gave their picture: {shown}"
    return table.assign(label=table["label"].where(~corrected, theirs)), [note]
