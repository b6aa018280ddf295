"""What an operator may set: one class, environment names with the prefix BLASTWATCH_, read once and passed in.

An unknown BLASTWATCH_* name, a value out of its range or two settings that contradict each other stop the start with
one line that says what to do (`ConfigError`).
"""

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from service.contract.errors import ConfigError

PREFIX = "BLASTWATCH_"
FOREIGN = ("BLASTWATCH_DATA",)
FOREIGN_PREFIXES = ("BLASTWATCH_MONITOR_", "BLASTWATCH_CLIENT_")
SQLITE = "sqlite:///"
SERVICE_LINK = re.compile(r"BLASTWATCH_((\w+_)?SERVICE_(HOST|PORT)\w*|PORT(_\d+_(TCP|UDP)\w*)?)")

Port = Annotated[int, Field(ge=1, le=65535)]
Names = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Settings of the service. Each field is the environment variable BLASTWATCH_<FIELD IN CAPITALS>."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    root: Path = Path()
    """The folder that relative paths of the other settings start from; default: where the service was started."""

    store_url: str = "sqlite:///var/store.db"
    """The database of predictions, reviews, ledger and heartbeats, as a SQLAlchemy URL."""

    journal_dir: Path = Path("var/journal")
    """Answers go here, fsynced, before they leave; a shipper moves them to the store."""

    journal_max_bytes: int = Field(default=256 * 2**20, ge=2**16)
    """A journal of this size (the store is away for long) refuses work rather than answer off the record."""

    pixels_dir: Path = Path("var/pixels")
    """Decoded pixels kept for review and training, without metadata."""

    image_retention: Literal["none", "referred_and_sample", "all"] = "referred_and_sample"
    """Whose pixels are kept: of no cell, of referred cells and a random share of the rest, or of every cell."""

    image_sample: float = Field(default=0.05, ge=0, le=1)
    """The random share that `referred_and_sample` keeps, chosen by a hash."""

    image_retention_days: int = Field(default=30, ge=1)
    """Pixels older than this are deleted."""

    prediction_retention_days: int | None = Field(default=None, ge=1)
    """Answers on record that are older than this are deleted from the store; default: kept."""

    review_retention_days: int | None = Field(default=None, ge=1)
    """Reviews that are older than this are deleted from the store; default: kept."""

    key_file: Path = Path("var/keys/pseudonym.key")
    """The key that turns patient ids into pseudonyms; made on the first start (mode 0600)."""

    models_dir: Path | None = None
    """Model artifacts, one folder a version; default: models/blastwatch below BENTOML_HOME (var/bentoml)."""

    models_url: str = ""
    """Where hosts share models, e.g. s3://bucket/models: what MODELS_DIR does not have is fetched from there. Access is
    by AWS' usual variables."""

    seed_model: Path | None = None
    """An artifact folder that is served while the ledger names no model; default: the one inside the Bento, if any."""

    http_host: str = "127.0.0.1"
    """Where HTTP listens: an IP address."""

    http_port: Port = 3000
    """The port of HTTP."""

    grpc_host: str = "127.0.0.1"
    """Where gRPC listens: an IP address."""

    grpc_port: Port = 50051
    """The port of gRPC."""

    health_host: str = "127.0.0.1"
    """Where the health-only gRPC server listens: an IP address; the one listener that may leave loopback."""

    health_port: Port = 50052
    """The port of the health-only server, for probes that cannot present a certificate."""

    tokens_file: Path | None = None
    """Who may call and with which role; `python -m service.tokens` keeps it. Without one every caller is `local`."""

    tls_certificate: Path | None = None
    """The certificate (PEM, with its chain) that HTTP and gRPC present; without one they speak plain text."""

    tls_key: Path | None = None
    """The certificate's private key (PEM, no passphrase)."""

    tls_client_ca: Path | None = None
    """gRPC takes only callers with a certificate by this authority (PEM); the tokens file has their names and roles."""

    auth_failures: int = Field(default=10, ge=1, le=1000)
    """Failed attempts from one address within a minute, in a worker, after which it is not listened to for a while."""

    auth_pause_s: float = Field(default=60.0, gt=0, le=86400)
    """How long it is not listened to, in seconds."""

    audit_dir: Path = Path("var/audit")
    """Who called what, when and with which outcome: a file a worker and day, one JSON object a line."""

    audit_retention_days: int = Field(default=365, ge=1)
    """Audit files older than this are deleted."""

    workers: int = Field(default=1, ge=1, le=64)
    """Processes; each has its own copy of the model."""

    threads: int = Field(default=1, ge=1, le=256)
    """Threads that one worker computes a batch with."""

    max_batch: int = Field(default=16, ge=1, le=1024)
    """Cells computed together at most."""

    max_wait_ms: float = Field(default=4.0, ge=0, le=1000)
    """How long the first cell of a batch waits for company, in milliseconds."""

    max_queue: int = Field(default=256, ge=1)
    """Cells in work at once in a worker; more are refused as overloaded."""

    max_queue_ms: float = Field(default=500.0, gt=0, le=600_000)
    """A cell whose turn is expected later than this is refused as overloaded; 4 × max_batch are always taken."""

    client_rate: float = Field(default=0.0, ge=0, le=1e6)
    """Cells a second that one client may send to a worker; 0: as many as it likes."""

    client_burst: int = Field(default=64, ge=1)
    """Cells that a client may send at once, above its rate, after a pause."""

    stream_window: int = Field(default=16, ge=1, le=1024)
    """Cells of one stream in work at once; the next one is read when a reply is gone."""

    max_message_bytes: int = Field(default=32 * 2**20, ge=1024, le=2**30)
    """The largest image accepted, in bytes."""

    timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """The deadline of a request that brings none, in seconds."""

    poll_s: float = Field(default=1.0, gt=0, le=60)
    """How often a worker asks the ledger which model is in production, in seconds."""

    drain_notice_s: float = Field(default=1.0, ge=0, le=3600)
    """How long a service that was told to stop says so and answers still, so that callers go elsewhere, in seconds."""

    drain_s: float = Field(default=20.0, ge=0, le=3600)
    """How long requests under way may take to finish when the service stops, in seconds."""

    known_sites: Names = ()
    """Sites that metrics name (comma-separated); every other one counts as `other`."""

    known_stains: Names = ()
    """Stains that metrics name (comma-separated)."""

    known_scanners: Names = ()
    """Scanners that metrics name (comma-separated)."""

    known_clients: Names = ("local",)
    """Clients that metrics name (comma-separated); `local` is every caller without tokens."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much the service logs."""

    log_format: Literal["auto", "text", "json"] = "auto"
    """Lines to read, or one JSON object a line; `auto` is text in a terminal and JSON elsewhere."""

    log_access: bool = True
    """A line for each call in a JSON log."""

    trace_endpoint: str = ""
    """The OpenTelemetry collector (OTLP over HTTP), e.g. http://127.0.0.1:4318/v1/traces; none: no traces."""

    trace_sample: float = Field(default=0.01, ge=0, le=1)
    """The share of calls that are traced among those whose caller says nothing about it."""

    @field_validator("known_sites", "known_stains", "known_scanners", "known_clients", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("http_host", "grpc_host", "health_host", mode="after")
    @classmethod
    def _address(cls, value: str) -> str:
        if value == "localhost":
            return "127.0.0.1"
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            raise ValueError("must be an IP address, e.g. 127.0.0.1") from None

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("trace_endpoint", mode="after")
    @classmethod
    def _collector(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/\s]+/\S+", value):
            raise ValueError("must be a whole URL, e.g. http://127.0.0.1:4318/v1/traces")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ports = {"http_port": self.http_port, "grpc_port": self.grpc_port, "health_port": self.health_port}
        for name, port in ports.items():
            twins = sorted(other for other, same in ports.items() if same == port and other != name)
            if twins:
                raise ValueError(f"{name} and {twins[0]} are both {port}: give each listener a port of its own")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: set both or neither")
        if self.tls_client_ca is not None and (self.tls_certificate is None or self.tokens_file is None):
            raise ValueError(
                "tls_client_ca needs tls_certificate, tls_key, and tokens_file with the names of callers' certificates"
            )
        if self.max_batch > self.max_queue:
            raise ValueError(f"max_batch ({self.max_batch}) is above max_queue ({self.max_queue}): raise max_queue")
        return self

    @model_validator(mode="after")
    def _absolute(self) -> Self:
        """Makes every path absolute at once: BentoML's workers change their folder."""
        root = self.root.expanduser().absolute()
        home = Path(os.environ.get("BENTOML_HOME") or "var/bentoml")
        found: dict[str, Path | None] = {
            "root": root,
            "models_dir": root / (self.models_dir or home / "models" / "blastwatch").expanduser(),
        }
        places = ("journal_dir", "pixels_dir", "key_file", "seed_model", "audit_dir")
        for name in (*places, "tokens_file", "tls_certificate", "tls_key", "tls_client_ca"):
            value: Path | None = getattr(self, name)
            found[name] = None if value is None else root / value.expanduser()
        for name, value in found.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "store_url", _absolute_url(self.store_url, root))
        return self

    @property
    def models(self) -> Path:
        """Where model artifacts are."""
        assert self.models_dir is not None  # noqa: S101  (set by _absolute)
        return self.models_dir

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


def refuse_unknown(environ: Mapping[str, str]) -> None:
    """Raises ConfigError for a BLASTWATCH_* name that nothing reads: a typo must not pass as a setting."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(environ):
        upper = name.upper()  # pydantic reads names whatever their case
        if not upper.startswith(PREFIX) or upper in FOREIGN or upper.startswith(FOREIGN_PREFIXES):
            continue
        if upper not in known:
            near = difflib.get_close_matches(upper, sorted(known), n=1)
            hint = f"did you mean {near[0]}?" if near else "see `python -m service --help` for the names"
            if SERVICE_LINK.fullmatch(upper):
                hint = "Kubernetes sets it for a Service of that name: put enableServiceLinks: false into the pod"
            raise ConfigError(f"{name} is not a setting of the service: {hint}")


def _line(problem: Mapping[str, object]) -> str:
    location = problem["loc"]
    text = str(problem["msg"]).removeprefix("Value error, ")
    if isinstance(location, tuple) and location:
        return f"{PREFIX}{str(location[0]).upper()} = {problem['input']!r}: {text}"
    return text


def _absolute_url(url: str, root: Path) -> str:
    """A relative SQLite path becomes absolute below `root`; any other URL stays."""
    path = url.removeprefix(SQLITE)
    if path == url or path.startswith((":memory:", "/")) or not path:
        return url
    return f"{SQLITE}{(root / path).absolute()}"
