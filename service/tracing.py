"""OpenTelemetry traces: a span for each call, one for each stage below it, sent to a collector in batches by a thread.

The caller's W3C trace context (`traceparent`, `tracestate`) is taken over, and its word on whether the call is sampled;
a call without one is sampled by chance. A collector that is away costs spans and one line in the log, never an answer.
Nothing about the patient or the picture is in a span.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.open_inference_model import server_version

log = logging.getLogger(__name__)

Headers = Iterable[tuple[str | bytes, str | bytes]]

MAX_WAITING = 2048
BATCH = 512
PERIOD_MS = 1000
EXPORT_S = 5.0
FLUSH_S = 5.0
GRPC_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Statuses that are the server's fault, by OpenTelemetry's conventions for spans of servers; of HTTP 500 and above."""

_CONTEXT = TraceContextTextMapPropagator()


class Trace:
    """The span of a call under way. Moments are on time.monotonic()."""

    def __init__(self, tracer: Tracer, span: Span, zero_ns: int) -> None:
        """zero_ns: the clock's zero in nanoseconds since the epoch, one for a call: no step of it tears a trace."""
        self._tracer = tracer
        self._span = span
        self._zero_ns = zero_ns
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        self.span_id = f"{context.span_id:016x}"
        self.traceparent = f"00-{self.trace_id}-{self.span_id}-{int(context.trace_flags):02x}"

    def part(self, name: str, started: float) -> "Trace":
        """A span of its own within the call, for one of the cells that it brings one after another."""
        context = set_span_in_context(self._span, Context())
        span = self._tracer.start_span(name, context, start_time=_at(self._zero_ns, started))
        return Trace(self._tracer, span, self._zero_ns)

    def stage(self, name: str, seconds: float, ended: float, attributes: Mapping[str, str]) -> None:
        """Adds a stage of the call that has been: it took so long and ended then."""
        if self._span.is_recording():
            context = set_span_in_context(self._span, Context())
            start = _at(self._zero_ns, ended - seconds)
            child = self._tracer.start_span(name, context, attributes=attributes, start_time=start)
            child.end(_at(self._zero_ns, ended))

    def end(self, transport: str, code: str, error: str, attributes: Mapping[str, str | int]) -> None:
        """The call is over, with an HTTP status or the name of a gRPC one, and perhaps an error by its class."""
        if not self._span.is_recording():
            return
        self._span.set_attributes(attributes)
        if transport == "http":
            self._span.set_attribute("http.response.status_code", int(code))
            fault = int(code) >= 500
        else:
            self._span.set_attribute("rpc.response.status_code", code)
            fault = code in GRPC_FAULTS
        if error:
            self._span.set_attribute("error.type", error)
        if fault:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(_at(self._zero_ns, time.monotonic()))


class Tracing:
    """Sends the traces of one worker to `endpoint` (OTLP over HTTP); `share` of the calls without a parent.

    A batch that the collector has not taken after EXPORT_S seconds is dropped; what has not left `flush_s` seconds
    after the stop is, too.
    """

    def __init__(self, endpoint: str, share: float, flush_s: float = FLUSH_S) -> None:
        self._flush_s = flush_s
        # The exporter's own words on each failure are replaced by one line an outage.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._exporting = BatchSpanProcessor(
            _Exporter(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_S)),
            max_queue_size=MAX_WAITING,
            max_export_batch_size=BATCH,
            schedule_delay_millis=PERIOD_MS,
        )
        # A provider of its own: the global one belongs to whoever else is in the process.
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create({"service.name": "blastwatch", "service.version": server_version()}),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._exporting)
        self._tracer = provider.get_tracer("blastwatch")

    def begin(self, transport: str, route: str, started: float, headers: Headers) -> Trace:
        """The span of a call. route: `package.Service/Method` of gRPC, `METHOD /path/{name}` of HTTP.

        Of `headers` only the trace context is looked at.
        """
        if transport == "http":
            verb, _, path = route.partition(" ")
            attributes = {"http.request.method": verb, "http.route": path}
        else:
            attributes = {"rpc.system.name": "grpc", "rpc.method": route}
        zero_ns = time.time_ns() - round(time.monotonic() * 1e9)
        parent = _CONTEXT.extract(_carrier(headers), context=Context())
        start = _at(zero_ns, started)
        span = self._tracer.start_span(route, parent, SpanKind.SERVER, attributes=attributes, start_time=start)
        return Trace(self._tracer, span, zero_ns)

    async def stop(self) -> None:
        """Sends what waits."""
        flushing = threading.Thread(target=self._exporting.shutdown, name="spans", daemon=True)
        flushing.start()
        await asyncio.to_thread(flushing.join, self._flush_s)


class _Exporter(SpanExporter):
    """Says once that the collector is away, and once that it is back."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends a batch, or drops it."""
        try:
            result = self._inner.export(spans)
        except Exception as error:
            log.debug("a batch of spans could not be sent", exc_info=error)
            result = SpanExportResult.FAILURE
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            log.warning("the trace collector does not take spans: they are dropped until it does")
        elif self._failing and not failed:
            log.info("the trace collector takes spans again")
        self._failing = failed
        return result

    def shutdown(self) -> None:
        """Lets connections go."""
        self._inner.shutdown()


def _at(zero_ns: int, moment: float) -> int:
    return zero_ns + round(moment * 1e9)


def _carrier(headers: Headers) -> dict[str, list[str]]:
    """The trace context in the headers; none where there are two, for nobody knows which one is meant."""
    found: dict[str, list[str]] = {"traceparent": [], "tracestate": []}
    for name, value in headers:
        values = found.get((name if isinstance(name, str) else name.decode("latin-1")).lower())
        if values is not None:
            values.append(value if isinstance(value, str) else value.decode("latin-1"))
    return found if len(found["traceparent"]) == 1 else {}
