"""What a round came to: the figures, the targets, and the closing table."""

from dataclasses import dataclass

from demo.compare import Comparison
from demo.story import percent, points
from demo.traffic import Tally


@dataclass(frozen=True)
class Outcome:
    """What the round came to."""

    model_before: str
    model_after: str
    new_site: Comparison
    old_site: Comparison
    tally: Tally
    lost: frozenset[str]
    seconds: float
    reports: tuple[tuple[str, str], ...]

    @property
    def summary(self) -> dict[str, object]:
        """`summary.json`: shares in 0–1, seconds of wall time."""
        return {
            "model_before": self.model_before,
            "model_after": self.model_after,
            "new_site_balanced_accuracy_before": self.new_site.before,
            "new_site_balanced_accuracy_after": self.new_site.after,
            "new_site_gain_interval": list(self.new_site.interval),
            "old_site_change": self.old_site.gain,
            "new_site_cells": self.new_site.cells,
            "new_site_patients": self.new_site.patients,
            "requests": self.tally.requests,
            "failed_requests": len(self.tally.failures),
            "records": len(self.tally.records),
            "lost_records": len(self.lost),
            "seconds": round(self.seconds, 1),
        }

    def missed(self) -> list[str]:
        """The targets that this round did not meet, in words."""
        low, _ = self.new_site.interval
        checks = [
            (self.new_site.gain >= 0.05, f"the gain on the new site is {points(self.new_site.gain)}, 5 were asked for"),
            (low > 0, f"the gain's interval reaches down to {points(low)}, above 0 was asked for"),
            (self.old_site.gain >= -0.02, f"the old site changed by {points(self.old_site.gain)}, −2 were allowed"),
            (self.new_site.cells >= 400, f"compared on {self.new_site.cells} cells, 400 were asked for"),
            (self.new_site.patients >= 40, f"compared on {self.new_site.patients} patients, 40 were asked for"),
            (
                self.new_site.smallest_class >= 40,
                f"the smallest class has {self.new_site.smallest_class} cells, 40 were asked for",
            ),
            (
                not self.tally.failures,
                f"{len(self.tally.failures)} requests failed, the first: {self.tally.failures[:1]}",
            ),
            (not self.lost, f"{len(self.lost)} answered records are not in the store"),
        ]
        return [words for met, words in checks if not met]

    def rows(self) -> list[tuple[str, str]]:
        """The closing table."""
        low, high = self.new_site.interval
        return [
            ("model before → after", f"{self.model_before} → {self.model_after}"),
            ("new site, balanced accuracy", f"{percent(self.new_site.before)} → {percent(self.new_site.after)}"),
            ("", f"{points(self.new_site.gain)}, 95 % interval {points(low)} to {points(high)}"),
            ("", f"{self.new_site.cells} cells of {self.new_site.patients} patients that neither model has seen"),
            ("old site, balanced accuracy", f"{percent(self.old_site.before)} → {percent(self.old_site.after)}"),
            ("requests", f"{self.tally.requests}, of which {len(self.tally.failures)} failed"),
            ("records", f"{len(self.tally.records)} answered, of which {len(self.lost)} lost"),
            ("time", f"{self.seconds:.0f} s"),
            *self.reports,
        ]
