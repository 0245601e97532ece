"""What a kind of job is made of: one frozen `Kind`, and the shapes of what its functions take and give.

A kind is two halves. The API uses what comes before the queue: `validate`, `accept`, `error_event`, `description`. A
worker uses what comes behind it: `request`, `stream`, `fold`, `plain`. Neither half does any I/O, and
endpoint, queue and run know no kind by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import TypeAdapter

from shared.backend_settings import BackendSettings
from shared.errors import AqueductError, SchemaBreach
from shared.jobs import JobSpec, TakenJob, Usage
from shared.settings import ModelSettings


class Request(Protocol):
    """A request that passed validation; each kind has a dataclass of its own."""

    @property
    def model(self) -> str:
        """As the client named it."""

    @property
    def stream(self) -> bool:
        """Whether the answer is wanted as a stream."""

    @property
    def service_tier(self) -> str | None:
        """The lane it asks for, in OpenAI's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What of a request becomes a job."""

    body: bytes
    """JSON object text for a backend, without the members that the worker adds for each (model, stream, …)."""
    cost: float
    """Estimated tokens."""
    options: dict[str, Any]
    """What the kind's other half must know beside the body; small, as each script that moves the job reads it."""


class Transformer(Protocol):
    """A backend's stream in, cut anywhere; events for our client out."""

    @property
    def done(self) -> bool:
        """Nothing more is to be read; call `finish`."""

    @property
    def usage(self) -> Usage | None:
        """The backend's counts, as far as they have come."""

    def feed(self, data: bytes) -> bytes:
        """Return the events that are ready, complete ones only; raises an AqueductError for what is no answer."""

    def finish(self) -> bytes:
        """Return the last events, the end of the stream included; raises an AqueductError if it ended early."""


class Folder(Protocol):
    """A backend's stream in, cut anywhere; the body that a plain call would have given out."""

    @property
    def done(self) -> bool:
        """Nothing more is to be read; call `result`."""

    @property
    def usage(self) -> Usage | None:
        """The backend's counts, as far as they have come."""

    def feed(self, data: bytes) -> None:
        """Take bytes; raises an AqueductError for what is no answer."""

    def result(self) -> bytes:
        """Return the body; raises an AqueductError if the stream ended early."""


class Check(Protocol):
    """A whole answer in, nothing out."""

    def check(self, answer: bytes) -> None:
        """Raise SchemaBreach for an answer that is not what was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """How OpenAPI describes a kind's operation."""

    operation_id: str
    tag: str
    summary: str
    request: str
    """The name of the request's schema."""
    schema: TypeAdapter[Any]
    """The request as pydantic reads it."""
    answers: Callable[[], tuple[type, ...]]
    """Imports the OpenAI SDK's types: the plain answer's and, where there are streams, the chunk's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of job, as functions."""

    name: str
    """In the job's record, in logs, and in the names of Flower's tasks."""
    path: str
    """Ours, with `/v1` before it and without, and behind a backend's base URL."""
    validate: Callable[[dict[str, Any]], Request]
    """Check a parsed body; raises InvalidRequest. Knows neither HTTP nor models."""
    accept: Callable[[Any, ModelSettings], Accepted]
    """Make what becomes a job of this kind's own request; raises InvalidRequest for what the model refuses."""
    request: Callable[[TakenJob, str, BackendSettings, bool], bytes]
    """Return the body for a backend: the job, the model's own name, the backend, and whether as a stream."""
    stream: Callable[[JobSpec, str], Transformer] | None
    """Open a transformer for a job and its id. None: this kind never streams."""
    fold: Callable[[JobSpec, str], Folder] | None
    """Open a folder for a job and its id. None: plain requests are never called as streams."""
    plain: Callable[[bytes, JobSpec, str], tuple[bytes, Usage | None]]
    """Return the body for our client and its usage; raises an AqueductError for what is no answer."""
    check: Callable[[bytes], Check] | None
    """Return what judges answers, from a job's body whose options say `structured`. None: nothing of it is."""
    asked_again: Callable[[bytes, SchemaBreach], bytes] | None
    """Return the body that asks once more, given what was wrong."""
    error_event: Callable[[AqueductError], bytes]
    """Return the end of a stream that has failed."""
    description: Description
