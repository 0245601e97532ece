"""All that knows OpenTelemetry's SDK. Spans in, and by a thread of the SDK's out to the collector.

Imported only where traces are on (`shared/tracing/switch.py`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace import (
    Span as SdkSpan,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.version import VERSION

log = logging.getLogger("aqueduct.traces")

MAX_STATE_BYTES: Final = 512
"""Of `tracestate`, which the W3C asks everybody to hand on up to here; a longer one is left out."""
MAX_CODE: Final = 64
"""Of an error, which a backend may have made up."""
LAST_WORDS_SECONDS: Final = 3.0
"""How long the end of a process waits for the collector."""
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_KINDS: Final = {
    "server": SpanKind.SERVER, "internal": SpanKind.INTERNAL, "consumer": SpanKind.CONSUMER, "client": SpanKind.CLIENT,
}  # fmt: skip
_TALKATIVE: Final = ("opentelemetry", "urllib3")
"""They say each failure, each span that was dropped, and each bad `tracestate` with what the client wrote there.

`_SaidOnce` says when failures begin and when they end.
"""

KindName = Literal["server", "internal", "consumer", "client"]
Value = str | bool | int | float | None


def _read_context(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the context that a request brings; None without one, or where it is none by the standard's rules."""
    parents = [value for name, value in headers if name == b"traceparent"]
    if len(parents) != 1:
        return None
    states = [value.decode("latin-1") for name, value in headers if name == b"tracestate"]
    return _line(_parsed(parents[0].decode("latin-1"), ",".join(states)))


def _header_lines(context: str) -> bytes:
    """Return a context as lines of an HTTP request's head."""
    parent, _, state = context.partition(" ")
    lines = b"traceparent: %b\r\n" % parent.encode("ascii")
    return lines + b"tracestate: %b\r\n" % state.encode("ascii") if state else lines


def _parsed(parent: str, state: str) -> SpanContext:
    carrier = {"traceparent": parent, "tracestate": state} if state else {"traceparent": parent}
    return get_current_span(_PROPAGATOR.extract(carrier)).get_span_context()


def _of_line(context: str) -> SpanContext:
    parent, _, state = context.partition(" ")
    return _parsed(parent, state)


def _line(context: SpanContext) -> str | None:
    if not context.is_valid:
        return None
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags.sampled):02x}"
    state = context.trace_state.to_header()
    return f"{parent} {state}" if state and len(state) <= MAX_STATE_BYTES and state.isascii() else parent


class Span:
    """One span, recorded or not; `context` is handed on either way, so that others decide as we did."""

    __slots__ = ("context", "is_recorded", "span", "trace_id")

    def __init__(self, span: SdkSpan) -> None:
        self.span = span
        told = span.get_span_context()
        self.context = _line(told) or ""
        self.trace_id = f"{told.trace_id:032x}"
        self.is_recorded = span.is_recording()

    def tell(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes; those without a value are left out."""
        if self.is_recorded:
            self.span.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def event(self, name: str, at_ns: int | None = None, attributes: Mapping[str, Value] | None = None) -> None:
        """Add what happened at a moment, in Unix nanoseconds."""
        if self.is_recorded:
            given = {key: value for key, value in (attributes or {}).items() if value is not None}
            self.span.add_event(name, given, at_ns)

    def end(self, at_ns: int | None = None, *, error: str | None = None) -> None:
        """End it, at a moment or now; with the code of an error as failed."""
        if not self.is_recorded:
            return
        if error is not None:
            self.span.set_attribute("error.type", error[:MAX_CODE])
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end(at_ns)
        self.is_recorded = False


class Tracing:
    """Makes the spans of one process and has them sent."""

    read_context = staticmethod(_read_context)
    header_lines = staticmethod(_header_lines)

    def __init__(self, exporters: Sequence[str], role: str, instance: str) -> None:
        """Take `otlp` or `console` or both; all else the SDK reads of the `OTEL_*` variables."""
        self._provider = TracerProvider(resource=_resource(role, instance), shutdown_on_exit=False)
        for name in exporters:
            exporter: SpanExporter = _SaidOnce(OTLPSpanExporter()) if name == "otlp" else ConsoleSpanExporter()
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        for logger in _TALKATIVE:
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        self._tracer = self._provider.get_tracer("aqueduct", VERSION)
        log.info("traces are on", extra={"exporters": ",".join(exporters)})

    def start(
        self,
        name: str,
        kind: KindName,
        *,
        parent: str | Span | None = None,
        links: Sequence[str] = (),
        at_ns: int | None = None,
        attributes: Mapping[str, Value] | None = None,
    ) -> Span:
        """Begin a span, at a moment (Unix nanoseconds) or now; without a parent it is the first of its trace.

        What the sampler may decide by is among the `attributes` given here.
        """
        above = Context()
        if parent is not None:
            span = parent.span if isinstance(parent, Span) else NonRecordingSpan(_of_line(parent))
            above = set_span_in_context(span, above)
        return Span(
            self._tracer.start_span(
                name,
                context=above,
                kind=_KINDS[kind],
                attributes={key: value for key, value in (attributes or {}).items() if value is not None},
                links=[Link(_of_line(context)) for context in links],
                start_time=at_ns,
            )
        )

    async def close(self) -> None:
        """Send what is left, as long as the collector takes it within a few seconds."""
        # Not in asyncio's pool: the end of a process would wait for a thread that hangs.
        ended, loop = asyncio.Event(), asyncio.get_running_loop()

        def shut_down() -> None:
            self._provider.shutdown()
            try:
                loop.call_soon_threadsafe(ended.set)
            except RuntimeError:  # nobody waits any more
                return

        threading.Thread(target=shut_down, name="last traces", daemon=True).start()
        try:
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await ended.wait()
        except TimeoutError:
            log.info("the last traces were not exported in time")


def _resource(role: str, instance: str) -> Resource:
    """Return who makes these spans; what the variables say goes before our defaults."""
    given = Resource.create()
    name = given.attributes.get("service.name")
    ours = {"service.version": VERSION, "service.instance.id": instance, "aqueduct.role": role}
    if not isinstance(name, str) or name.startswith("unknown_service"):
        ours |= {"service.name": f"aqueduct-{role}", "service.namespace": "aqueduct"}
    kept = {key: value for key, value in ours.items() if key == "service.name" or key not in given.attributes}
    return given.merge(Resource(kept))


class _SaidOnce(SpanExporter):
    """An exporter whose collector's absence is logged once, and its return."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._is_away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._inner.export(spans)
        except Exception:
            result = SpanExportResult.FAILURE
        is_away = result is not SpanExportResult.SUCCESS
        if is_away and not self._is_away:
            log.warning("traces are not exported: their collector does not take them; they are dropped until it does")
        elif self._is_away and not is_away:
            log.warning("traces are exported again")
        self._is_away = is_away
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()
