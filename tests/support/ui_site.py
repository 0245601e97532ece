"""What the browser's tests look at: models that are busy for long, a token for each role, and load."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final, Self

import httpx

from tests.support.chat import chat_body
from tests.support.models import model
from tests.support.system import System
from tests.support.waiting import wait_until

MODELS: Final = {
    "chat": model("prefix=1&tokens=5"),
    "one": model("tokens=40&token_seconds=0.05", concurrency=1, max_wait_seconds=60, timeout_seconds=60),
    "long": model("tokens=2000&token_seconds=0.05", concurrency=1, max_wait_seconds=100, timeout_seconds=100),
    "broken": model("status=500", max_attempts=1),
}
TOKENS: Final[dict[str, dict[str, Any]]] = {
    "op": {"role": "operator", "group": "team-a", "requests_per_minute": 6000}, "look": {"role": "viewer"},
    "load": {},
}  # fmt: skip


def ui_system(folder: Path, redis_url: str, backend_url: str) -> System:
    """Return a gateway for the tests, not yet started."""
    groups = [{"name": "team-a", "tokens_per_day": 10**6}]
    settings = {"storage": {"url": (folder / "store").as_uri()}, "groups": groups, "batches": {"line_attempts": 1}}
    return System(folder, redis_url=redis_url, backend_url=backend_url, models=MODELS, tokens=TOKENS, settings=settings)


class Load:
    """Streams in threads, until they are answered or left at the end of the `with`."""

    def __init__(self, system: System, name: str, count: int, owner: str = "load") -> None:
        """Have a token's owner ask a model so often at once."""
        self._client = system.client(system.tokens[owner], timeout=120)
        self._threads = [threading.Thread(target=self._ask, args=(name,)) for _ in range(count)]

    def _ask(self, name: str) -> None:
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=chat_body(name, stream=True)) as answer:
                answer.read()
        except (httpx.HTTPError, RuntimeError):
            pass  # it was left

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        for thread in self._threads:
            thread.join(30)


def wait_for_waiting(system: System, name: str, count: int) -> None:
    """Wait until so many requests wait for a model."""
    with system.client(system.tokens["op"]) as client:

        def found() -> bool:
            jobs = client.get(f"/admin/v1/jobs?model={name}&state=waiting").json()["data"]
            return len(jobs) == count

        wait_until(found, 30, f"{count} to wait for {name}")
