"""A cell as an HTML form or `curl -F` sends it: multipart/form-data with a part for each field, in memory only.

The body is bounded before it comes here; the parts' number and their headers are bounded here. Nothing is put on disk:
a form parser that spools large files would leave patients' pictures in a folder of the system's.
"""

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.contract.errors import InvalidRequest
from service.domain import Cell
from service.fields import FIELDS, value_of

MEDIA_TYPE = "multipart/form-data"
IMAGE = "image"
MAX_BOUNDARY = 70
"""RFC 2046, section 5.1.1."""
MAX_HEADERS = 8
MAX_HEADER_BYTES = 1024


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)


class _Reader:
    """What the parser tells, part by part."""

    def __init__(self) -> None:
        self.cell: dict[str, object] = {}
        self.complete = False
        self._part = _Part()
        self._header = (bytearray(), bytearray())
        self._name = ""

    def on_part_begin(self) -> None:
        if len(self.cell) > len(FIELDS):
            raise InvalidRequest("the form has too many parts: send each field once")
        self._part = _Part()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        name, value = self._header
        self._part.headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def on_headers_finished(self) -> None:
        self._name = self._named()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._part.data += memoryview(data)[start:end]

    def on_part_end(self) -> None:
        data = bytes(self._part.data)
        self.cell[self._name] = data if self._name == IMAGE else value_of(self._name, data)

    def on_end(self) -> None:
        self.complete = True

    def _named(self) -> str:
        """The field that the part's headers name. Raises InvalidRequest, which repeats nothing: it may be a patient."""
        kind, options = parse_options_header(self._part.headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode("latin-1")
        if kind != b"form-data" or name not in (IMAGE, *FIELDS):
            raise InvalidRequest(f"a part of the form is none of {', '.join((IMAGE, *FIELDS))}: leave it out")
        if name in self.cell:
            raise InvalidRequest(f"the part {name} comes twice: send each field once")
        if self._part.headers.get(b"content-transfer-encoding", b"binary").lower() not in (b"binary", b"8bit", b"7bit"):
            raise InvalidRequest(f"the part {name} is encoded: send the bytes as they are")
        return name


def cell_from_form(body: bytes, content_type: str) -> Cell:
    """The cell in a form. Raises InvalidRequest for one that is damaged, cut short, or has other parts."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY:
        raise InvalidRequest("multipart/form-data names no boundary: let the HTTP library write the Content-Type")
    reader = _Reader()
    names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "headers_finished")
    callbacks = {f"on_{name}": getattr(reader, f"on_{name}") for name in (*names, "end")}
    parser = MultipartParser(
        boundary,
        callbacks,  # type: ignore[arg-type]
        max_header_count=MAX_HEADERS,
        max_header_size=MAX_HEADER_BYTES,
    )
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise InvalidRequest("the body is not the form that its Content-Type announces: check the boundary") from None
    if not reader.complete:
        raise InvalidRequest("the form is cut short: send all of it")
    if IMAGE not in reader.cell:
        raise InvalidRequest(f"the form has no part {IMAGE}: send the file as one")
    return Cell(**reader.cell)  # type: ignore[arg-type]
