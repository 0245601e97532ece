"""One small request to a backend, made by the code that makes a worker's, and what came of it."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from aqueduct.probing.lookup import client_of, headers_of
from shared.backend_settings import BackendSettings
from shared.errors import AqueductError
from shared.jobs import JobSpec, TakenJob
from shared.kinds import KINDS
from shared.kinds.common.backend_errors import backend_error
from shared.kinds.common.secrets import secrets_of
from shared.kinds.common.sse import looks_like_events
from shared.settings import ModelSettings

PROBE_SECONDS = 60.0
"""A model may have to be loaded first."""
MAX_BYTES = 1024 * 1024
PROMPT = "Count from 1 to 30."
_ASKS: dict[str, dict[str, Any]] = {
    "chat.completions": {"messages": [{"role": "user", "content": PROMPT}]},
    "completions": {"prompt": PROMPT},
    "embeddings": {"input": "one"},
}


@dataclass(frozen=True)
class Told:
    """An answer, and the job it was for."""

    status: int
    body: bytes
    job: TakenJob
    sent: dict[str, Any]
    """What was sent."""
    error: AqueductError | None = None
    """What a client would be told of a refusal."""

    @property
    def is_good(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    @property
    def is_refused(self) -> bool:
        """Whether the backend holds the request for wrong."""
        return self.status in (400, 422)

    @property
    def is_stream(self) -> bool:
        """Whether it is an event stream, whatever it is called."""
        return looks_like_events(self.body)

    @property
    def reason(self) -> str:
        """The backend's own words, short, without secrets."""
        words = " ".join(str(self.error or "").split())
        return words if len(words) <= 160 else words[:159] + "…"

    def blames(self, names: list[str]) -> list[str]:
        """Return which of these parameters the refusal names."""
        param = (self.error.param if self.error else None) or ""
        return [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", f"{param} {self.error or ''}")]

    @property
    def answer_tokens(self) -> int | None:
        """How many tokens the answer has, where the backend says so."""
        texts = re.findall(rb'"completion_tokens"\s*:\s*(\d+)', self.body)
        return int(texts[-1]) if texts else None

    @property
    def document(self) -> dict[str, Any]:
        """The answer as a JSON object; empty for none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


@dataclass
class Asker:
    """Asks one backend of a model."""

    name: str
    model: ModelSettings
    backend: BackendSettings
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = client_of(self.backend, PROBE_SECONDS)

    def ask(
        self,
        kind: str = "chat.completions",
        *,
        backend: BackendSettings | None = None,
        stream: bool = False,
        **parameters: Any,
    ) -> Told:
        """Send a request as a worker would for a job in the lane `default`; raises what httpx raises."""
        made, asked = KINDS[kind], backend or self.backend
        given = {"model": self.name, **_ASKS[kind], **({"stream": True} if stream else {}), **parameters}
        accepted = made.accept(made.validate(given), self.model)
        spec = JobSpec(kind=kind, stream=stream, public_model=self.name, created=1, options=accepted.options)
        job = TakenJob(id="0" * 32, model=self.name, attempt=b"1.0", spec=spec, body=accepted.body, queue_ms=0)
        sent = made.request(job, self.name, asked, stream)
        status, body = self._post(asked, made.path, sent, spec)
        error = None if 200 <= status < 300 else backend_error(body, status, None, secrets_of([asked]))
        return Told(status, body, job, json.loads(sent), error)

    def _post(self, backend: BackendSettings, path: str, body: bytes, spec: JobSpec) -> tuple[int, bytes]:
        lane = backend.by_lane.get("default")
        headers = {
            **headers_of(backend),
            **((lane.headers or {}) if lane else {}),
            "content-type": "application/json",
            "accept": "text/event-stream" if spec.stream else "application/json",
            "accept-encoding": "identity",
        }
        if backend.forward.token_name:
            headers[backend.forward.token_name] = "aqueduct-check"
        received = b""
        ends_at = time.monotonic() + PROBE_SECONDS
        with self.client.stream("POST", backend.url + path, content=body, headers=headers) as answer:
            for part in answer.iter_raw():
                received += part
                if len(received) > MAX_BYTES or time.monotonic() > ends_at:
                    break
        return answer.status_code, received
