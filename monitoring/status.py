"""Where things stand, read from the store and the ledger alone, for the page at the monitor's root."""

from contextlib import closing
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from monitoring import policy
from monitoring.history import History
from monitoring.runs import Retraining, policy_state, retrainings, seconds
from monitoring.settings import Settings
from monitoring.verdict import JudgedWindow, PastDecision
from service.contract.ledger import Ledger

WINDOWS = 40
DECISIONS = 60
RETRAININGS = 8


@dataclass(frozen=True)
class Pace:
    """How the monitor itself is doing.

    alive  whether its loop came round lately, `age_s` seconds ago
    store_up  whether its last look at the store worked
    cells, patients  what the open window holds so far
    """

    alive: bool
    age_s: float
    store_up: bool = True
    cells: int = 0
    patients: int = 0


@dataclass(frozen=True)
class Status:
    """What is on record, oldest first; times in seconds since the epoch.

    windows   of all models; `judged` only those of the model in production
    since     when the model in production was put there
    slices    those that have an alarm
    """

    now: float
    production: str | None
    since: float | None
    windows: tuple[JudgedWindow, ...]
    judged: tuple[JudgedWindow, ...]
    decisions: tuple[PastDecision, ...]
    retrainings: tuple[Retraining, ...]
    alarms: tuple[str, ...]
    pending: tuple[str, ...]
    slices: tuple[str, ...]
    frozen: bool
    breaker_open: bool
    min_cells: int
    min_patients: int
    window_age_limit_s: float

    @property
    def last(self) -> JudgedWindow | None:
        """The newest window of the model in production."""
        return self.judged[-1] if self.judged else None

    @property
    def running(self) -> bool:
        """Whether a retraining runs."""
        return bool(self.retrainings) and self.retrainings[-1].outcome == "running"

    @property
    def overdue(self) -> bool:
        """Whether the last window is older than a window can get: nothing was judged, or no cells came."""
        return self.last is not None and self.now - self.last.closed > self.window_age_limit_s


def pace(registry: CollectorRegistry, alive: bool, age_s: float) -> Pace:
    """The monitor's own gauges, as its loop set them last."""

    def gauge(name: str) -> float:
        return registry.get_sample_value(f"blastwatch_monitor_{name}") or 0.0

    up, cells, patients = gauge("store_up"), gauge("open_window_cells"), gauge("open_window_patients")
    return Pace(alive, age_s, bool(up), int(cells), int(patients))


def read_status(settings: Settings, now: float) -> Status:
    """Raises StoreUnavailable when store or ledger cannot be reached."""
    with closing(Ledger(settings.store_url)) as ledger, closing(History(settings.store_url)) as history:
        rows, production = ledger.rows(), ledger.production()
        state = policy_state(rows, *history.memory())
        windows = history.windows(last=WINDOWS)
        judged = history.windows(production, last=WINDOWS) if production else []
        decisions = history.decisions(last=DECISIONS)
    put = [seconds(row) for row in rows if row.kind in ("promoted", "rolled_back")]
    watched = state.model_version == production
    return Status(
        now=now,
        production=production,
        since=put[-1] if put and production else None,
        windows=tuple(windows),
        judged=tuple(judged),
        decisions=tuple(decisions),
        retrainings=tuple(retrainings(rows)[-RETRAININGS:]),
        alarms=state.alarms if watched else (),
        pending=state.pending if watched else (),
        slices=state.slices if watched else (),
        frozen=state.frozen,
        breaker_open=policy.breaker_open(state, settings.policy),
        min_cells=settings.judge.min_cells,
        min_patients=settings.judge.min_patients,
        window_age_limit_s=settings.judge.max_window_age_s,
    )
