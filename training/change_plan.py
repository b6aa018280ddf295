"""The predetermined change control plan (`change_plan.yaml`) as a typed object.

It says what a retraining may change and what every candidate is held to. Source: FDA, "Marketing Submission
Recommendations for a Predetermined Change Control Plan for AI-Enabled Device Software Functions", final December 2024,
reissued August 2025.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contract.errors import ConfigError

PLAN_FILE = Path("change_plan.yaml")

Share = Annotated[float, Field(ge=0, le=1)]
Difference = Annotated[float, Field(ge=-1, le=1)]
Value = bool | int | float | str | None


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(_Part):
    """A hyperparameter that may take any number in [minimum, maximum], or a list of such numbers."""

    minimum: float
    maximum: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self

    def allows(self, value: object) -> bool:
        """Whether `value` is inside the range; a boolean is not a number here, and an empty list is nothing."""
        if isinstance(value, list):
            return bool(value) and all(self.allows(element) for element in value)
        return isinstance(value, int | float) and not isinstance(value, bool) and self.minimum <= value <= self.maximum

    def __str__(self) -> str:
        return f"from {self.minimum:g} to {self.maximum:g}"


class Choice(_Part):
    """A hyperparameter that may take one of a few values."""

    one_of: tuple[Value, ...] = Field(min_length=1)

    def allows(self, value: object) -> bool:
        """Whether `value` is one of them, type included: `1` is not `true`."""
        return any(type(value) is type(choice) and value == choice for choice in self.one_of)

    def __str__(self) -> str:
        return "one of " + ", ".join(str(choice) for choice in self.one_of)


class MayChange(_Part):
    """The description of modifications: what a retraining may change by itself."""

    data: Literal[True]
    """More cells; the frozen test set is kept whatever is added."""
    weights: Literal[True]
    """Weights, temperature and thresholds."""
    sections: tuple[str, ...]
    """Sections of params.yaml, or dotted names in it, whose every entry must be named in `hyperparameters`."""
    hyperparameters: dict[str, Range | Choice]
    """Dotted name in params.yaml → what was assessed."""


class ModelField(_Part):
    """Pixels of the network's input, the physical field they show (µm), the share of a picture of unknown scale, and
    whether large JPEGs are decoded at a fraction of their size.
    """

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    field_um: float = Field(gt=0)
    crop: float = Field(default=1.0, gt=0, le=1)
    reduced: bool = False


class MustNotChange(_Part):
    """The device that was assessed."""

    intended_use: str = Field(min_length=1)
    labels: tuple[str, ...] = Field(min_length=2)
    malignant: tuple[str, ...] = Field(min_length=1)
    field: ModelField

    @model_validator(mode="after")
    def _malignant_are_labels(self) -> Self:
        if unknown := set(self.malignant) - set(self.labels):
            raise ValueError(f"malignant names {sorted(unknown)}, which labels lacks")
        return self


class TestSet(_Part):
    """Least test cells, and patients that they are of, of each label."""

    cells: int = Field(gt=0)
    patients: int = Field(gt=0)


class Floors(_Part):
    """Absolute bounds on the frozen test set; `calibration_error` is an upper one."""

    sensitivity: Share
    specificity: Share
    balanced_accuracy: Share
    calibration_error: Share
    answered: Share


class Slices(_Part):
    """Floors for each site, stain and scanner that has at least `cells` test cells from `patients` patients of the side
    in question; `calibration_error` is an upper bound for each that has `calibration_cells` of any side.
    """

    cells: int = Field(gt=0)
    patients: int = Field(gt=0)
    sensitivity: Share
    specificity: Share
    calibration_cells: int = Field(gt=0)
    calibration_error: Share


class Margin(_Part):
    """Least lower end of the 95 % interval of a difference in balanced accuracy."""

    margin: Difference


class NonInferiority(Margin):
    """The same of balanced accuracy, and of sensitivity."""

    sensitivity_margin: Difference


class Export(_Part):
    """Most that the exported graph's probabilities may differ from the trained network's."""

    probability_difference: float = Field(gt=0)


class Budget(_Part):
    """Most that the graph may cost: median milliseconds for one cell, bytes, weights of the network."""

    latency_ms: float = Field(gt=0)
    model_bytes: int = Field(gt=0)
    parameters: int = Field(gt=0)


class Impact(_Part):
    """The impact assessment, for the reader."""

    benefits: str
    risks: str
    fallback: str


class ChangePlan(_Part):
    """change_plan.yaml."""

    plan_version: Literal[1]
    approval: Literal["person", "automatic"]
    approvers: tuple[str, ...]
    """Roles whose approval counts; empty: any role."""
    may_change: MayChange
    must_not_change: MustNotChange
    test_set: TestSet
    floors: Floors
    slices: Slices
    non_inferiority: NonInferiority
    shortcut: Margin
    export: Export
    budget: Budget
    impact: Impact


class Breach(NamedTuple):
    """A parameter outside what was assessed; `bounds` is None for one that the plan does not name."""

    name: str
    value: object
    bounds: Range | Choice | None

    def __str__(self) -> str:
        assessed = "not in the change plan" if self.bounds is None else f"assessed: {self.bounds}"
        return f"{self.name} = {self.value} ({assessed})"


def breaches(may_change: MayChange, parameters: Mapping[str, object]) -> list[Breach]:
    """Every entry of the plan's sections in `parameters` (params.yaml, nested) that is unnamed or out of bounds."""
    found = []
    for section in may_change.sections:
        value: object = parameters
        for part in section.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        for name, leaf in _leaves(value, section):
            bounds = may_change.hyperparameters.get(name)
            if bounds is None or not bounds.allows(leaf):
                found.append(Breach(name, leaf, bounds))
    return found


def _leaves(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}")
    else:
        yield name, value


def parse_plan(text: str, name: str = str(PLAN_FILE)) -> ChangePlan:
    """Read a change plan from YAML.

    Raises:
        ConfigError: not YAML, or not a change plan; says which line of the plan is wrong.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise ConfigError(f"{name} is empty or not a mapping: restore it from version control")
    try:
        return ChangePlan.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(str(part) for part in e['loc']) or 'plan'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{name} is not a change plan this version can enforce: {wrong}") from None


def load_plan(path: Path = PLAN_FILE) -> ChangePlan:
    """Read the change plan file.

    Raises:
        ConfigError: no such file, or not a change plan.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is missing: no candidate is judged without a change plan; restore it from git"
        ) from None
    return parse_plan(text, str(path))
