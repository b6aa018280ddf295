"""Computes an answer on record once more: python -m service.replay RECORD [--image FILE].

The model of the record is read from the model store and verified, the pixels are those that were kept, or the file that
was sent. The batch is as large as the one of the record, filled with copies: a graph's answer to a row does not depend
on the other rows, but which kernels a runtime takes may depend on how many there are.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.contract.artifact import Manifest, read_artifact
from service.contract.decision import Decision, decide, without_kill_switch
from service.contract.errors import CommandParser, ConfigError, NotFound, run_command
from service.contract.image import Pixels, image_sha256, load_field, pixels_sha256
from service.contract.pixels import PixelStore
from service.contract.predictor import Predictor
from service.contract.records import PredictionRecord
from service.contract.shared_models import model_store
from service.contract.store import Store
from service.settings import Settings, load_settings

TOLERANCE = 1e-6
"""Largest difference of a probability between what was answered and what is computed now."""


@dataclass(frozen=True)
class Replay:
    """A record beside what is computed from the same pixels now."""

    record: PredictionRecord
    decision: Decision
    probabilities: dict[str, float]
    ood_score: float
    runtime: str

    @property
    def difference(self) -> float:
        """The largest one of a probability."""
        return max(abs(self.probabilities[name] - p) for name, p in self.record.probabilities.items())

    @property
    def same(self) -> bool:
        """Whether a caller would get the same answer: label, referral and why, probabilities within TOLERANCE."""
        record, decision = self.record, self.decision
        reasons = without_kill_switch(record.refer_reasons)
        answered = (record.label, bool(reasons), reasons)
        return answered == (decision.label, decision.refer, decision.reasons) and self.difference <= TOLERANCE

    @property
    def identical(self) -> bool:
        """Whether every number is the same to the last bit."""
        return self.probabilities == self.record.probabilities and self.ood_score == self.record.ood_score

    @property
    def comparable(self) -> bool:
        """Whether the runtime is the one that answered, so that the last bit must be the same too."""
        return self.runtime == self.record.runtime

    @property
    def passed(self) -> bool:
        """Whether the record says what its model says of its pixels."""
        return self.same and (self.identical or not self.comparable)


def replay(settings: Settings, identity: str, image: Path | None = None) -> Replay:
    """Raises NotFound (record, model or pixels), ConfigError (another image), ArtifactError, StoreUnavailable."""
    record = _record(settings, identity)
    predictor = Predictor(
        read_artifact(_folder(settings, record.model_version), expect_version=record.model_version), settings.threads
    )
    pixels = _pixels(settings, record, predictor.manifest, image)
    outputs = predictor.predict(np.repeat(pixels[np.newaxis], record.batch_size, axis=0))
    probabilities = [float(p) for p in outputs.probabilities[0]]
    return Replay(
        record=record,
        decision=decide(predictor.manifest, probabilities, float(outputs.ood_score[0]), record.pixel_size_um > 0),
        probabilities=dict(zip(predictor.manifest.labels, probabilities, strict=True)),
        ood_score=float(outputs.ood_score[0]),
        runtime=predictor.runtime_fingerprint,
    )


def _record(settings: Settings, identity: str) -> PredictionRecord:
    store = Store(settings.store_url)
    try:
        found = store.get(identity)
    finally:
        store.close()
    if found is None:
        raise NotFound(f"no record {identity} in the store: one that was answered just now takes a moment to get there")
    return found.record


def _folder(settings: Settings, version: str) -> Path:
    """Where the model is; the seed has no folder of its own in the model store."""
    try:
        return model_store(settings.models, settings.models_url).path(version)
    except NotFound:
        if settings.seed_model is None:
            raise
        return settings.seed_model


def _pixels(settings: Settings, record: PredictionRecord, manifest: Manifest, image: Path | None) -> Pixels:
    """What the model saw, uint8 [H, W, 3]."""
    if image is None:
        try:
            return PixelStore(settings.pixels_dir).load(record.pixels_sha256)
        except NotFound as error:
            raise NotFound(f"{error}: give the file that was sent as --image FILE") from None
    try:
        data = image.read_bytes()
    except OSError as error:
        raise ConfigError(f"{image} cannot be read: {error.strerror}") from None
    if image_sha256(data) != record.image_sha256:
        raise ConfigError(f"{image} is not the file that was sent: its SHA-256 is not the record's")
    pixels = load_field(data, manifest.field, record.pixel_size_um)
    if pixels_sha256(pixels) != record.pixels_sha256:
        raise ConfigError(
            f"{image} is the file that was sent, but decodes to other pixels here: another release of the decoder"
        )
    return pixels


def described(found: Replay) -> str:
    """A table, and a line that says what it comes to."""
    record, decision = found.record, found.decision
    rows = [
        ("", "on record", "computed now"),
        ("label", record.label, decision.label),
        ("refer", _why(record.refer, record.refer_reasons), _why(decision.refer, decision.reasons)),
        *((name, f"{p:.9f}", f"{found.probabilities[name]:.9f}") for name, p in record.probabilities.items()),
        ("ood score", f"{record.ood_score:.9g}", f"{found.ood_score:.9g}"),
    ]
    width = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"record {record.record_id} of {record.time}, model {record.model_version}, batch of {record.batch_size}"]
    lines += [f"{name:{width[0]}}  {before:{width[1]}}  {now}" for name, before, now in rows]
    if found.identical:
        lines.append("the same, bit for bit")
    elif found.comparable:
        lines.append(f"NOT the same: probabilities differ by up to {found.difference:.1e} on the same runtime")
    else:
        verdict = "the same" if found.same else "NOT the same"
        lines.append(f"{verdict} (probabilities within {TOLERANCE:g}: largest difference {found.difference:.1e})")
    if not found.comparable:
        lines.append(f"not comparable bit for bit: {record.runtime!r} answered, {found.runtime!r} computed now")
    return "\n".join(lines)


def _why(refer: bool, reasons: tuple[str, ...]) -> str:
    return f"yes ({', '.join(reasons)})" if refer else "no"


def main(argv: list[str] | None = None) -> int:
    """Runs the command: 0 when the answer is the same, 1 when it is not. Raises BlastwatchError."""
    parser = CommandParser(
        prog="python -m service.replay",
        description="Computes an answer on record once more: exits 0 when it is the same, 1 when it is not.",
    )
    parser.add_argument("record", metavar="RECORD", help="the record_id of the answer")
    parser.add_argument(
        "--image", metavar="FILE", type=Path, help="the file that was sent, when its pixels are not kept"
    )
    arguments = parser.parse_args(argv)
    found = replay(load_settings(), arguments.record, arguments.image)
    print(described(found))
    return 0 if found.passed else 1


if __name__ == "__main__":
    run_command(main)
