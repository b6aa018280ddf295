"""Compressed request bodies, undone as they arrive and never further than their bound."""

import zlib

from service.contract.errors import InvalidRequest, TooLarge

# zlib's window bits say which header it expects.
_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ENCODINGS = tuple(_WINDOW)


class Unpacker:
    """Undoes one body of Content-Encoding gzip or deflate, at most `limit` bytes of content."""

    def __init__(self, encoding: str, limit: int) -> None:
        """Raises InvalidRequest for an encoding that is not known."""
        if encoding not in _WINDOW:
            raise InvalidRequest(f"Content-Encoding must be one of {', '.join(ENCODINGS)}, or left out")
        self._encoding = encoding
        self._limit = limit
        self._size = 0
        self._stream = zlib.decompressobj(_WINDOW[encoding])

    def feed(self, chunk: bytes) -> bytes:
        """What the next part of the body holds. Raises InvalidRequest, and TooLarge with no more than that unpacked."""
        try:
            # One byte more than is allowed tells a body that fits exactly from one that does not.
            content = self._stream.decompress(chunk, self._limit - self._size + 1)
        except zlib.error:
            raise InvalidRequest(f"the body is not {self._encoding}: compress it so, or leave the header out") from None
        self._size += len(content)
        if self._size > self._limit:
            raise TooLarge(f"the unpacked body is above {self._limit} bytes: send a smaller one")
        if self._stream.unused_data:
            raise InvalidRequest(f"something follows the end of the {self._encoding} body: send one stream")
        return content

    def finish(self) -> None:
        """Raises InvalidRequest when the body has ended before its content."""
        if not self._stream.eof:
            raise InvalidRequest(f"the {self._encoding} body is cut short: send all of it")
