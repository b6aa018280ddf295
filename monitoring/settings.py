"""What an operator may set of the monitor: one class, read once and passed in.

Names start with BLASTWATCH_MONITOR_; what the monitor shares with the service (store, pixels, models, root) has the
service's names. Numbers of the tests and of the policy are nested: BLASTWATCH_MONITOR_JUDGE__MIN_CELLS,
BLASTWATCH_MONITOR_POLICY__COOLDOWN_S. An unknown name, a value out of its range or settings that contradict each other
stop the start with one line that says what to do (`ConfigError`).
"""

import difflib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from monitoring.judge_settings import JudgeSettings, PolicySettings
from service.contract.errors import ConfigError

PREFIX = "BLASTWATCH_MONITOR_"
NESTED = "__"
SQLITE = "sqlite:///"

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """Settings of the monitor. Each field is BLASTWATCH_MONITOR_<FIELD IN CAPITALS>, unless it says otherwise."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=NESTED,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_by_name=True,
    )

    root: Path = Field(default=Path(), validation_alias="BLASTWATCH_ROOT")
    """BLASTWATCH_ROOT: the folder that relative paths of the other settings start from; default: the current one."""

    store_url: str = Field(default="sqlite:///var/store.db", validation_alias="BLASTWATCH_STORE_URL")
    """BLASTWATCH_STORE_URL: the database of predictions, reviews, ledger and windows, as a SQLAlchemy URL."""

    pixels_dir: Path = Field(default=Path("var/pixels"), validation_alias="BLASTWATCH_PIXELS_DIR")
    """BLASTWATCH_PIXELS_DIR: where the service keeps pixels for review and training."""

    models_dir: Path | None = Field(default=None, validation_alias="BLASTWATCH_MODELS_DIR")
    """BLASTWATCH_MODELS_DIR: a folder a model version; default: models/blastwatch below BENTOML_HOME (var/bentoml)."""

    models_url: str = Field(default="", validation_alias="BLASTWATCH_MODELS_URL")
    """BLASTWATCH_MODELS_URL: where hosts share models, e.g. s3://bucket/models; empty: the folder is all there is."""

    host: str = "127.0.0.1"
    """Where the monitor listens: an IP address. Beyond loopback it needs the token file and TLS, and then asks for the
    token everywhere but at /healthz."""

    port: int = Field(default=9109, ge=1, le=65535)
    """The port of /metrics, /healthz, /reports/ and /alerts."""

    interval_s: Seconds = 15.0
    """Seconds between two looks at everything: store, ledger, reviews, retrainings."""

    poll_s: Seconds = 1.0
    """Seconds between two looks for new answers alone: they are shown, and judged when they close a window."""

    reports_dir: Path = Path("var/reports")
    """Evidently's HTML reports are written to windows/ in it."""

    reports: bool = True
    """Whether an Evidently report is written for each window."""

    report_cells: int = Field(default=500, ge=50)
    """Cells of a window, and of the reference, that a report is drawn from: its time grows with them."""

    ui_port: int = Field(default=0, ge=0, le=65535)
    """The port of Evidently's UI, on loopback; 0: none, and no workspace is kept. `make monitor` sets 9110. It is a
    process of its own of some 320 MB, and each window then takes seconds more in the background."""

    reports_kept: int = Field(default=100, ge=1)
    """Reports kept, of about 4 MB each; the oldest go first."""

    trigger: Literal["local", "alerts", "none"] = "local"
    """`local` starts retrainings as processes of this machine; `alerts` too, but leaves it to Alertmanager's webhook to
    ask for one that is due, so that its silences and mute times hold; `none` only says that one is due."""

    runner: Literal["process", "kubernetes"] = "process"
    """Where a retraining that is started runs: a process of this machine, or a Job of the cluster that this is in."""

    kubernetes_namespace: str = ""
    """The namespace of the Jobs; default: the monitor's own."""

    kubernetes_template: str = "blastwatch-retraining"
    """The suspended CronJob whose jobTemplate a retraining's Job is made from."""

    token_file: Path | None = None
    """A file with the SHA-256, in hex, of the token that Alertmanager sends to /alerts; without it the webhook is
    off."""

    tls_certificate: Path | None = None
    """PEM file with the certificate that the monitor shows; read at the start."""

    tls_key: Path | None = None
    """PEM file with its key."""

    recalibrate: Literal["local", "advise"] = "local"
    """What follows from a change of the case mix alone: `local` makes a candidate for the new case mix, which meets the
    gate and the change plan like any other; `advise` only says so, in the ledger and the log."""

    repo: Path = Path()
    """The Git work tree with dvc.yaml that a retraining clones. It is never changed but for a branch retrain/<run>."""

    work_dir: Path = Path("var/work")
    """A folder a retraining, with its log, and the lock that lets only one run."""

    keep_work: bool = False
    """Whether a finished retraining's clone stays in work_dir."""

    retrain_timeout_s: Seconds = 6 * 3600.0
    """Seconds after which a retraining is stopped and recorded as failed."""

    retrain_grace_s: Seconds = 20.0
    """Seconds that a stopped retraining has to end by itself."""

    lease_s: Seconds = 120.0
    """Seconds that a retraining may be silent before another host may take its place: longer than a database takes to
    fail over, short against the hours of a retraining. It renews its lease four times as often."""

    retrain_nice: int = Field(default=10, ge=0, le=19)
    """How much a retraining yields to other processes of this machine, as nice(1) has it: answers come first."""

    on_exit: Literal["stop", "leave"] = "stop"
    """What becomes of a retraining that this monitor started when the monitor is told to stop: it is stopped and
    recorded as failed, or left to finish (the next monitor picks it up)."""

    seed: int = Field(default=0, ge=0)
    """Seed of resampling and permutations; a window's id is mixed in."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much the monitor logs."""

    judge: JudgeSettings = JudgeSettings()
    """Numbers of windows and tests."""

    policy: PolicySettings = PolicySettings()
    """Numbers of the policy."""

    calendar: Path | None = None
    """A file (TOML or JSON) of planned changes, read again when it changes: what it announces is judged by itself;
    none: nothing is planned."""

    @field_validator("host", mode="after")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            return str(ipaddress.ip_address("127.0.0.1" if value == "localhost" else value))
        except ValueError:
            raise ValueError("must be an IP address, e.g. 127.0.0.1") from None

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _protected(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError(f"set {PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY, or neither")
        if self.exposed and (self.tls_certificate is None or self.token_file is None):
            raise ValueError(
                f"{PREFIX}HOST is {self.host}: without authentication and TLS the monitor listens on loopback only "
                f"(set 127.0.0.1, or {PREFIX}TOKEN_FILE, {PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY)"
            )
        return self

    @model_validator(mode="after")
    def _absolute(self) -> Self:
        """Makes every path absolute at once: a retraining works in another folder."""
        root = self.root.expanduser().absolute()
        home = Path(os.environ.get("BENTOML_HOME") or "var/bentoml")
        object.__setattr__(self, "root", root)
        object.__setattr__(self, "models_dir", root / (self.models_dir or home / "models" / "blastwatch").expanduser())
        for name in ("token_file", "tls_certificate", "tls_key", "calendar"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, root / getattr(self, name).expanduser())
        for name in ("pixels_dir", "reports_dir", "repo", "work_dir"):
            object.__setattr__(self, name, root / getattr(self, name).expanduser())
        object.__setattr__(self, "store_url", _absolute_url(self.store_url, root))
        return self

    @property
    def exposed(self) -> bool:
        """Whether other machines reach it."""
        return not ipaddress.ip_address(self.host).is_loopback

    @property
    def models(self) -> Path:
        """Where model artifacts are."""
        assert self.models_dir is not None  # noqa: S101  (set by _absolute)
        return self.models_dir

    @property
    def windows_dir(self) -> Path:
        """Where the reports of windows are."""
        return self.reports_dir / "windows"

    @property
    def workspace_dir(self) -> Path:
        """Where Evidently's workspace is."""
        return self.reports_dir / "workspace"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment and what is passed in; no hidden files."""
        return init_settings, env_settings


def load_settings(**values: object) -> Settings:
    """Reads the settings from the environment; `values` win over it.

    Raises ConfigError with one line that names the setting and says what to do.
    """
    refuse_unknown(os.environ)
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError("; ".join(_line(dict(problem)) for problem in error.errors())) from None


def environment_names() -> set[str]:
    """Every name that the monitor reads, the nested ones included."""
    names = set()
    for field, info in Settings.model_fields.items():
        name = info.validation_alias if isinstance(info.validation_alias, str) else PREFIX + field.upper()
        names.add(name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            names.update(f"{name}{NESTED}{inner.upper()}" for inner in info.annotation.model_fields)
    return names


def refuse_unknown(environ: Mapping[str, str]) -> None:
    """Raises ConfigError when `environ` has a BLASTWATCH_MONITOR_* name that nothing reads: a typo must not pass."""
    known = environment_names()
    for name in sorted(environ):
        upper = name.upper()  # pydantic reads names whatever their case
        if upper.startswith(PREFIX) and upper not in known:
            near = difflib.get_close_matches(upper, sorted(known), n=1)
            hint = f"did you mean {near[0]}?" if near else "see `python -m monitoring --help` for the names"
            raise ConfigError(f"{name} is not a setting of the monitor: {hint}")


def _line(problem: Mapping[str, object]) -> str:
    location = problem["loc"]
    text = str(problem["msg"]).removeprefix("Value error, ")
    if isinstance(location, tuple) and location:
        first = str(location[0])
        name = (
            first if first.startswith("BLASTWATCH_") else PREFIX + NESTED.join(str(part).upper() for part in location)
        )
        return f"{name} = {problem['input']!r}: {text}"
    return text


def _absolute_url(url: str, root: Path) -> str:
    """A relative SQLite path becomes absolute below `root`; any other URL stays."""
    path = url.removeprefix(SQLITE)
    if path == url or path.startswith((":memory:", "/")) or not path:
        return url
    return f"{SQLITE}{(root / path).absolute()}"
