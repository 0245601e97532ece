"""A collector of traces: a real OTLP receiver over HTTP, whose spans can be looked up and waited for."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.waiting import wait_until

KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
ERROR = 2


@dataclass(frozen=True, slots=True)
class Received:
    """One span as it came."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    """Empty: it is the first of its trace."""
    begin_ns: int
    end_ns: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: list[tuple[str, str]]
    """Trace and span."""
    events: list[str]
    is_error: bool

    @property
    def request_id(self) -> str:
        """Whose it is."""
        return str(self.attributes.get("aqueduct.request_id", ""))


@dataclass
class Collector:
    """Listens from `with` on; what `hangs` takes requests and never answers."""

    hangs: bool = False
    raw: list[bytes] = field(default_factory=list)
    """Every request's body."""
    _spans: list[Received] = field(default_factory=list)

    def __enter__(self) -> Collector:
        told = self
        self._stopped = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"] or 0))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                told.raw.append(body)
                if told.hangs:
                    told._stopped.wait(60)
                    return
                told._spans.extend(read(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                return

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Say nothing of processes that were killed."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process that is to be traced here, told several times a second."""
        url = f"http://127.0.0.1:{self._server.server_port}"
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def spans(self) -> list[Received]:
        """Return what has come."""
        return list(self._spans)

    def of(self, trace: str) -> list[Received]:
        """Return a trace's spans, in the order of their beginnings."""
        return sorted((one for one in self.spans() if one.trace == trace), key=lambda one: one.begin_ns)

    def wait(self, trace: str, count: int, seconds: float = 20) -> list[Received]:
        """Wait for so many spans of a trace, and return all of them."""
        try:
            wait_until(lambda: len(self.of(trace)) >= count, seconds, f"{count} spans")
        except AssertionError as error:
            raise AssertionError(f"{error}: {[(one.kind, one.name) for one in self.of(trace)]}") from None
        return self.of(trace)


def read(body: bytes) -> list[Received]:
    """Return the spans of one export."""
    found = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        about = _attributes(resource.resource.attributes)
        found += [
            Received(
                name=span.name,
                kind=KINDS[span.kind],
                trace=span.trace_id.hex(),
                id=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                begin_ns=span.start_time_unix_nano,
                end_ns=span.end_time_unix_nano,
                attributes=_attributes(span.attributes),
                resource=about,
                links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                events=[event.name for event in span.events],
                is_error=span.status.code == ERROR,
            )
            for scope in resource.scope_spans
            for span in scope.spans
        ]
    return found


def _attributes(given: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in given}
