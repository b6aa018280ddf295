"""Label shift: answers for another case mix than the one that the network was calibrated on.

Where only the shares of the labels change, p(x | y) stays, and the posterior follows from the old one by the ratio of
the shares (Saerens, Latinne and Decaestecker, Neural Computation 14 (2002) 21–41, equation 4). In logits that is a
shift of each class, so nothing is trained: `calibrate.priors` in params.yaml names the shares of where the model is
used, and figures that depend on them, such as the calibration error, count each test cell for what it stands for there.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import yaml

from service.contract.errors import ConfigError
from training.figures import Floats, Integers

SUM_TOLERANCE = 0.005
"""Shares that people and reports round to two or four digits still are shares."""


def priors_of(parameters: Mapping[str, object], labels: Sequence[str]) -> Floats | None:
    """`calibrate.priors` of params.yaml as shares [C] in the order of `labels`; None where none are named.

    Raises ConfigError unless each label has a share above 0 and together they are 1.
    """
    section = parameters.get("calibrate")
    named = section.get("priors") if isinstance(section, Mapping) else None
    return None if not named else shares(named, labels)


def shares(named: object, labels: Sequence[str]) -> Floats:
    """{label: share} → [C], summing to 1. Raises ConfigError."""
    if not isinstance(named, Mapping) or set(named) != set(labels):
        raise ConfigError(f"calibrate.priors must have a share for each of {', '.join(labels)}, and for nothing else")
    values = [named[label] for label in labels]
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != len(labels) or not all(math.isfinite(one) and one > 0 for one in numbers):
        raise ConfigError("calibrate.priors: each share must be a number above 0")
    total = math.fsum(numbers)
    if abs(total - 1) > SUM_TOLERANCE:
        raise ConfigError(f"calibrate.priors: the shares sum to {total:g}, not to 1")
    return np.array(numbers) / total


def log_ratio(priors: Floats, label: Integers) -> Floats:
    """What is added to the logits [C] of a network that was calibrated on cells with these labels [n].

    Raises ConfigError when a label has no such cell.
    """
    seen = np.bincount(label, minlength=len(priors)) / max(len(label), 1)
    if (seen == 0).any():
        raise ConfigError("calibrate.priors needs validation cells of every label: add data, or take the priors out")
    ratio: Floats = np.log(priors) - np.log(seen)
    return ratio


def cell_weights(priors: Floats | None, label: Integers) -> Floats:
    """For how many cells each of these counts [n], so that their labels have the shares `priors`; the mean is 1."""
    if priors is None:
        return np.ones(len(label))
    seen = np.bincount(label, minlength=len(priors)) / max(len(label), 1)
    weight: Floats = np.divide(priors, seen, out=np.zeros(len(priors)), where=seen > 0)[label]
    return np.asarray(weight / weight.mean())


def with_priors(text: str, named: Mapping[str, float]) -> str:
    """params.yaml's text with `calibrate.priors` set to these, everything else as it was. Raises ConfigError."""
    line = f"  priors: {yaml.safe_dump(dict(named), default_flow_style=True, sort_keys=False, width=1000).strip()}"
    lines, found = text.splitlines(), None
    for number, one in enumerate(lines):
        if one.startswith("calibrate:"):
            found = number
        elif found is not None and one.startswith("  priors:"):
            lines[number] = line
            break
        elif found is not None and one[:1] not in ("", " ", "#"):
            lines.insert(found + 1, line)
            break
    changed = "\n".join(lines) + "\n"
    try:
        before = yaml.safe_load(text)
        before["calibrate"]["priors"] = dict(named)
    except (yaml.YAMLError, KeyError, TypeError):
        raise ConfigError("params.yaml has no section calibrate: restore it from git") from None
    try:
        right = yaml.safe_load(changed) == before
    except yaml.YAMLError:
        right = False
    if not right:
        raise ConfigError(f"params.yaml: cannot set the priors by itself: put `{line.strip()}` into calibrate")
    return changed
