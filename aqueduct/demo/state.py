"""What the demo backend remembers: counters always, whole requests when it records."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Record:
    """One chat-completions request; times are Unix seconds."""

    id: str
    model: str
    body: dict[str, Any]
    headers: dict[str, str]
    started_at: float
    ended_at: float | None = None
    closed_by_client: bool = False
    closed_at: float | None = None
    chunks_sent: int = 0


@dataclass(slots=True)
class State:
    """Counters of one server."""

    record: bool
    open_requests: int = 0
    max_open_requests: int = 0
    total_requests: int = 0
    closed_by_client: int = 0
    open_connections: set[object] = field(default_factory=set)
    """Connections that have carried a completion and are still open."""
    requests: list[Record] = field(default_factory=list)
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests seen of each model and user whose name has `fail_times`."""
    last_id: int = 0

    def next_id(self) -> str:
        """Return an id that no other answer of this server has."""
        self.last_id += 1
        return f"chatcmpl-demo-{self.last_id:08d}"

    def begin(self, record: Record) -> None:
        """Count a request as open, and keep its record if this server records."""
        self.total_requests += 1
        self.open_requests += 1
        self.max_open_requests = max(self.max_open_requests, self.open_requests)
        if self.record:
            self.requests.append(record)

    def client_left(self, record: Record) -> None:
        """Note that the client closed the connection before the answer was over."""
        self.closed_by_client += 1
        record.closed_by_client = True
        record.closed_at = time.time()

    def end(self, record: Record) -> None:
        """Count a request as over."""
        self.open_requests -= 1
        record.ended_at = time.time()

    def counters(self) -> dict[str, int]:
        """Return what `GET /debug/state` shows."""
        return {
            "open_requests": self.open_requests,
            "max_open_requests": self.max_open_requests,
            "total_requests": self.total_requests,
            "closed_by_client": self.closed_by_client,
            "open_connections": len(self.open_connections),
        }

    def recorded(self) -> list[dict[str, Any]]:
        """Return what `GET /debug/requests` shows, oldest first."""
        return [asdict(record) for record in self.requests]

    def clear(self) -> None:
        """Forget all but what is open now."""
        self.max_open_requests = self.open_requests
        self.total_requests = self.closed_by_client = 0
        self.requests.clear()
        self.failures.clear()
