"""Evidence is at least one exactly where the level is reached, and grows as p falls."""

import numpy as np
import pytest

from monitoring.evidence import evidence


@pytest.mark.parametrize("level", [0.002, 0.01, 0.05])
def test_it_is_one_where_the_level_is_reached_and_not_before(level: float) -> None:
    assert evidence(level, level) == 1.0
    assert evidence(np.nextafter(level, 1), level) < 1.0
    assert evidence(np.nextafter(level, 0), level) >= 1.0
    assert [evidence(p, level) for p in (0.5, 0.9, 1.0)] == [0.0, 0.0, 0.0]
    found = [evidence(p, level) for p in (0.3, 0.1, 1e-3, 1e-6)]
    assert found == sorted(found)
