"""Who answers, as the ledger has it beside the version in production: everything referred, a canary, a shadow.

Each is a row, with who asked for it and why, so that what a patient was answered can be explained years later.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from service.contract.ledger import Row

REFER_ALL_ON, REFER_ALL_OFF = "refer_all_on", "refer_all_off"
CANARY_STARTED, CANARY_ENDED = "canary_started", "canary_ended"
SHADOW_STARTED, SHADOW_ENDED = "shadow_started", "shadow_ended"
KINDS = (
    "promoted",
    "rolled_back",
    *(REFER_ALL_ON, REFER_ALL_OFF, CANARY_STARTED, CANARY_ENDED, SHADOW_STARTED, SHADOW_ENDED),
)
"""The rows that `serving_of` reads."""


@dataclass(frozen=True)
class Share:
    """A version and its share (0 to 1) of what there is, chosen by a hash: a key is always on the same side."""

    version: str
    share: float
    salt: str

    def has(self, key: str) -> bool:
        """Whether `key` (of a patient, of a record) belongs to the share."""
        digest = hashlib.blake2b(key.encode(), key=self.salt.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.share * 2**64


@dataclass(frozen=True)
class Serving:
    """What the ledger asks of every worker. refer_all: each answer is for a person to look at (the kill switch)."""

    refer_all: bool = False
    canary: Share | None = None
    shadow: Share | None = None


def serving_of(rows: Iterable[Row]) -> Serving:
    """The state after these rows (of KINDS, oldest first).

    A promotion or a rollback ends a canary: it was held against the model that is gone. A shadow goes on, until its
    version itself is in production.
    """
    refer_all, canary, shadow = False, None, None
    for row in rows:
        match row.kind:
            case "refer_all_on" | "refer_all_off":
                refer_all = row.kind == REFER_ALL_ON
            case "canary_started":
                canary = _share(row)
            case "shadow_started":
                shadow = _share(row)
            case "canary_ended":
                canary = None
            case "shadow_ended":
                shadow = None
            case "promoted" | "rolled_back":
                canary = None
                now = str(row.body["to"]) if row.kind == "rolled_back" else row.version
                shadow = None if shadow is not None and shadow.version == now else shadow
    return Serving(refer_all, canary, shadow)


def _share(row: Row) -> Share:
    # The row's hash: another canary is another draw of patients.
    return Share(row.version, float(row.body["share"]), row.hash)
