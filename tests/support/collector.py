"""An OpenTelemetry collector small enough for a test: OTLP over HTTP, everything kept."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """What has come so far; `status` is what it answers, and what comes with another one than 200 is not kept."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.status = 200
        self.refused = 0
        self.bodies: list[bytes] = []

    def spans(self, trace_id: str = "") -> list[Span]:
        """All spans, or those of a trace, by their start."""
        requests = [ExportTraceServiceRequest.FromString(body) for body in list(self.bodies)]
        found = [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return sorted(
            (span for span in found if span.trace_id.hex() == trace_id or not trace_id),
            key=lambda span: span.start_time_unix_nano,
        )

    def server_spans(self, trace_id: str = "") -> list[Span]:
        """The spans of calls alone."""
        return [span for span in self.spans(trace_id) if span.kind == Span.SPAN_KIND_SERVER]


def attributes(span: Span) -> dict[str, str | int]:
    """A span's attributes as plain values."""
    found: dict[str, str | int] = {}
    for pair in span.attributes:
        found[pair.key] = pair.value.int_value if pair.value.HasField("int_value") else pair.value.string_value
    return found


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free loopback port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if collector.status == 200:
                collector.bodies.append(body)
            else:
                collector.refused += 1
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}/v1/traces")
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    serving.start()
    try:
        yield collector
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
