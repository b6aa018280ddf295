"""Messages to domain values and back, in pairs: `x_to_message` / `x_from_message`. Nothing is decided here."""

from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from service.contract.errors import BlastwatchError, InvalidRequest
from service.domain import Answer, Cell, ModelInfo, Review, ReviewAnswer
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb

M = TypeVar("M", bound=Message)


def cell_to_message(cell: Cell) -> pb.Cell:
    """A cell as the wire has it."""
    return pb.Cell(
        image=cell.image,
        request_id=cell.request_id,
        patient_id=cell.patient_id,
        specimen_id=cell.specimen_id,
        site=cell.site,
        stain=cell.stain,
        scanner=cell.scanner,
        pixel_size_um=cell.pixel_size_um,
        test=cell.test,
    )


def cell_from_message(message: pb.Cell) -> Cell:
    """The cell that a message carries; unchecked."""
    return Cell(
        image=message.image,
        request_id=message.request_id,
        patient_id=message.patient_id,
        specimen_id=message.specimen_id,
        site=message.site,
        stain=message.stain,
        scanner=message.scanner,
        pixel_size_um=message.pixel_size_um,
        test=message.test,
    )


def answer_to_message(answer: Answer) -> pb.Prediction:
    """An answer as the wire has it."""
    return pb.Prediction(
        record_id=answer.record_id,
        request_id=answer.request_id,
        image_sha256=answer.image_sha256,
        pixels_sha256=answer.pixels_sha256,
        label=answer.label,
        probabilities=answer.probabilities,
        malignant_probability=answer.malignant_probability,
        refer=answer.refer,
        refer_reasons=answer.refer_reasons,
        ood_score=answer.ood_score,
        model_version=answer.model_version,
    )


def answer_from_message(message: pb.Prediction) -> Answer:
    """The answer that a message carries; the order of labels is not part of a message."""
    return Answer(
        record_id=message.record_id,
        request_id=message.request_id,
        image_sha256=message.image_sha256,
        pixels_sha256=message.pixels_sha256,
        label=message.label,
        probabilities=dict(sorted(message.probabilities.items())),
        malignant_probability=message.malignant_probability,
        refer=message.refer,
        refer_reasons=tuple(message.refer_reasons),
        ood_score=message.ood_score,
        model_version=message.model_version,
    )


def review_to_message(review: Review) -> pb.ReviewRequest:
    """A review as the wire has it."""
    return pb.ReviewRequest(record_id=review.record_id, label=review.label, role=review.role, sampled=review.sampled)


def review_from_message(message: pb.ReviewRequest) -> Review:
    """The review that a message carries; unchecked."""
    return Review(record_id=message.record_id, label=message.label, role=message.role, sampled=message.sampled)


def review_answer_to_message(answer: ReviewAnswer) -> pb.ReviewReply:
    """The reply to a review as the wire has it."""
    return pb.ReviewReply(
        record_id=answer.record_id,
        review_id=answer.review_id,
        counts_for_training=answer.counts_for_training,
        note=answer.note,
    )


def review_answer_from_message(message: pb.ReviewReply) -> ReviewAnswer:
    """The reply to a review that a message carries."""
    return ReviewAnswer(
        record_id=message.record_id,
        review_id=message.review_id,
        counts_for_training=message.counts_for_training,
        note=message.note,
    )


def model_to_message(model: ModelInfo) -> pb.Model:
    """A model's description as the wire has it."""
    message = pb.Model(
        version=model.version,
        labels=model.labels,
        malignant=model.malignant,
        height=model.height,
        width=model.width,
        field_um=model.field_um,
        scale_known=model.scale_known,
        thresholds=pb.Thresholds(abstain=model.abstain, ood=model.ood),
        created=model.created,
        card=model.card,
    )
    json_format.ParseDict(model.metrics, message.metrics)
    return message


def model_from_message(message: pb.Model) -> ModelInfo:
    """The model's description that a message carries."""
    return ModelInfo(
        version=message.version,
        labels=tuple(message.labels),
        malignant=tuple(message.malignant),
        height=message.height,
        width=message.width,
        field_um=message.field_um,
        scale_known=message.scale_known,
        abstain=message.thresholds.abstain,
        ood=message.thresholds.ood,
        created=message.created,
        metrics=json_format.MessageToDict(message.metrics),
        card=message.card,
    )


def to_json(message: Message) -> dict[str, object]:
    """A message in protobuf's JSON mapping; a false or a zero is written, not left out."""
    return dict(json_format.MessageToDict(message, always_print_fields_with_no_presence=True))


def from_reply(text: bytes, message: M) -> M:
    """Fills `message` from a service's JSON; a newer service may say more. Raises BlastwatchError."""
    try:
        return json_format.Parse(text, message, ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError):
        raise BlastwatchError(f"the answer is not a {message.DESCRIPTOR.name} in JSON: is this the service?") from None


def from_json(text: str | bytes, message: M) -> M:
    """Fills `message` from protobuf's JSON mapping. Raises InvalidRequest, which repeats no value."""
    try:
        if text.strip()[:1] not in ("{", b"{"):
            raise json_format.ParseError("not an object")  # the parser would take an empty list for an empty message
        return json_format.Parse(text, message)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError):
        names = ", ".join(field.json_name for field in message.DESCRIPTOR.fields)
        raise InvalidRequest(
            f"the body is not a {message.DESCRIPTOR.name} in JSON: send an object with {names}"
        ) from None
