"""The fields of a cell beside its image, as text: in headers and in the parts of a form."""

from service.contract.errors import InvalidRequest
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb

FIELDS = tuple(field.name for field in pb.Cell.DESCRIPTOR.fields if field.name != "image")


def value_of(name: str, raw: bytes) -> str | float | bool:
    """The value of a field. Raises InvalidRequest, which does not repeat it."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name} is not UTF-8") from None
    if name == "pixel_size_um":
        try:
            return float(text)
        except ValueError:
            raise InvalidRequest("pixel_size_um must be a number of micrometres") from None
    if name == "test":
        if text.lower() not in ("true", "false"):
            raise InvalidRequest("test must be true or false")
        return text.lower() == "true"
    return text
