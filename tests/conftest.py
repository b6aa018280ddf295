"""What every test starts from: none of this machine's settings, one thread a library, no telemetry, fixed examples."""

import os

import pytest
from hypothesis import settings

# Set before any test module imports a numeric library; child processes inherit it.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["DO_NOT_TRACK"] = "1"
os.environ["BENTOML_DO_NOT_TRACK"] = "true"

# The same examples on every machine, and no failure because a machine is slow.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own BLASTWATCH_* settings must neither break nor rescue a test; where data lies may be said."""
    for name in list(os.environ):
        if name.startswith("BLASTWATCH_") and name != "BLASTWATCH_DATA":
            monkeypatch.delenv(name)
