"""What became of every answer: each one that a caller has is on record once, as it was said, and is the right one."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.chaos.load import Said
from benchmarks.chaos.pictures import Truth
from service.contract.store import StoredPrediction

IN_A_ROW = 10
RECOVERY_S = 30.0
_CLOSE = 1e-4


@dataclass(frozen=True)
class Verdict:
    """Request ids by what is wrong with them; `unacknowledged` is on record and its caller never heard: allowed."""

    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    disputed: tuple[str, ...] = ()
    unacknowledged: int = 0

    @property
    def broken(self) -> list[str]:
        """One line for each promise that did not hold."""
        kinds = {"lost": self.lost, "doubled": self.doubled, "mixed up": self.mixed, "disputed": self.disputed}
        return [f"{len(ids)} {kind}, e.g. {ids[0]}" for kind, ids in kinds.items() if ids]


NOTHING_WRONG = Verdict()


def judge(said: Sequence[Said], stored: Iterable[StoredPrediction], truths: Mapping[int, Truth]) -> Verdict:
    """Holds answers against records and against what the models say of the pictures that were sent.

    A request that two models answered (it was sent again after a promotion) has a record of each: that is no double.
    """
    by_request: dict[str, list[StoredPrediction]] = defaultdict(list)
    disputed = []
    for item in stored:
        by_request[item.record.request_id].append(item)
        if item.disputed:
            disputed.append(item.record.request_id)
    lost, doubled, mixed = [], [], []
    acknowledged = set()
    for answer in said:
        acknowledged.add(answer.request_id)
        rows = [item.record for item in by_request.get(answer.request_id, ())]
        same = [row for row in rows if row.record_id == answer.record_id]
        if not same:
            lost.append(answer.request_id)
        if len(rows) > len({row.model_version for row in rows}):
            doubled.append(answer.request_id)
        truth = truths[answer.number]
        right = (
            int(answer.request_id.rpartition("-")[2]) == answer.number
            and answer.image_sha256 == truth.image_sha256
            and answer.pixels_sha256 == truth.pixels_sha256
            and answer.label == truth.labels.get(answer.version)
            and abs(answer.malignant - truth.malignant[answer.version]) < _CLOSE
        )
        kept = all(
            (row.image_sha256, row.pixels_sha256, row.label, row.model_version)
            == (answer.image_sha256, answer.pixels_sha256, answer.label, answer.version)
            and abs(row.malignant_probability - answer.malignant) < _CLOSE
            for row in same
        )
        if not (right and kept):
            mixed.append(answer.request_id)
    return Verdict(tuple(lost), tuple(doubled), tuple(mixed), tuple(disputed), len(by_request.keys() - acknowledged))


def recovered(probes: Sequence[tuple[float, float, bool]], ended: float, normal_s: float) -> float | None:
    """Seconds from `ended` to the first of IN_A_ROW answers in a row within `normal_s` each; None if there are none.

    probes: (when it ended, seconds it took, whether it was answered), in order; those asked before do not count.
    """
    row: list[float] = []
    for at, took, answered in probes:
        if at - took < ended:
            continue
        row = [*row, at] if answered and took <= normal_s else []
        if len(row) == IN_A_ROW:
            return row[0] - ended
    return None
