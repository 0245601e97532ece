"""The gateway's batches over HTTP: calls in, OpenAI's objects out; every failure becomes a sentence."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

from aqueduct.errors import WRONG_USAGE, CommandError
from shared.private_files import read_private
from shared.settings import Settings

Json = dict[str, Any]
T = TypeVar("T")

PATIENCE_SECONDS = 60.0
"""How long a gateway that is away or busy is asked again; a batch runs on meanwhile."""
_PAUSE_SECONDS = 1.0
_AGAIN = (429, 500, 502, 503, 504)


def token_here() -> str:
    """Return the token to call with: AQUEDUCT_TOKEN, or that of the `aqueduct up` of this folder."""
    if token := os.environ.get("AQUEDUCT_TOKEN"):
        return token
    folder = Path(os.environ.get("AQUEDUCT_DATA_DIR") or Settings.model_fields["data_dir"].default)
    try:
        return str(json.loads(read_private(folder / "up.json"))["token"])
    except (OSError, ValueError, KeyError):
        raise CommandError(
            "no token: set AQUEDUCT_TOKEN, or run this where `aqueduct up` has its data folder", status=WRONG_USAGE
        ) from None


class Gateway:
    """The batches of one token at one gateway."""

    def __init__(self, url: str, token: str) -> None:
        base = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._client = httpx.Client(
            base_url=base, headers={"authorization": f"Bearer {token}"}, timeout=httpx.Timeout(120, connect=5)
        )
        self._url = base

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def upload(self, path: Path, name: str) -> Json:
        """Send an input file, a piece at a time; returns its object."""
        with path.open("rb") as file:
            sent = {"file": (name, file, "application/jsonl")}
            return self._once(lambda: self._client.post("/files", data={"purpose": "batch"}, files=sent)).json()  # type: ignore[no-any-return]

    def create(self, file_id: str, endpoint: str, window: str, key: str) -> Json:
        """Make a batch; asked again with the same key it stays one."""
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": window}
        return self._json("POST", "/batches", json=body, headers={"idempotency-key": key})

    def show(self, batch_id: str) -> tuple[Json, int | None]:
        """Return a batch, and when it should be finished."""
        answer = self._patiently("GET", f"/batches/{batch_id}")
        finish = answer.headers.get("x-aqueduct-estimated-finish")
        return answer.json(), int(finish) if finish else None

    def page(self, limit: int) -> list[Json]:
        """Return the newest batches."""
        found: list[Json] = []
        while len(found) < limit:
            wanted = {"limit": str(min(100, limit - len(found))), **({"after": found[-1]["id"]} if found else {})}
            page = self._json("GET", "/batches", params=wanted)
            found += page["data"]
            if not page["has_more"] or not page["data"]:
                break
        return found

    def cancel(self, batch_id: str) -> Json:
        """Cancel a batch."""
        return self._json("POST", f"/batches/{batch_id}/cancel")

    def retry(self, batch_id: str) -> Json:
        """Run again what did not succeed; not asked twice, as each makes a batch."""
        return self._once(lambda: self._client.post(f"/batches/{batch_id}/retry")).json()  # type: ignore[no-any-return]

    def results(self, batch_id: str, after: int) -> Iterator[bytes]:
        """Yield the results behind the first `after`, in parts."""
        with self._client.stream("GET", f"/batches/{batch_id}/results", params={"after": str(after)}) as answer:
            if answer.status_code != 200:
                answer.read()
                raise _failure(answer)
            yield from answer.iter_bytes()

    def _json(self, method: str, path: str, **options: Any) -> Json:
        answer: Json = self._patiently(method, path, **options).json()
        return answer

    def _patiently(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Call, and call again while the gateway is away: what is called so may come twice."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = self._client.request(method, path, **options)
            except httpx.TransportError as error:
                if time.monotonic() > until:
                    raise self._away(error) from None
                if isinstance(error, httpx.ConnectError) and time.monotonic() + PATIENCE_SECONDS - until < 1:
                    raise self._away(error) from None  # it never answered at all
            else:
                if answer.status_code not in _AGAIN or time.monotonic() > until:
                    return _good(answer)
            time.sleep(_PAUSE_SECONDS)

    def _once(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        try:
            return _good(call())
        except httpx.TransportError as error:
            raise self._away(error) from None

    def _away(self, error: httpx.TransportError) -> CommandError:
        return CommandError(f"no gateway answers at {self._url} ({type(error).__name__}); name another with --url")


def _good(answer: httpx.Response) -> httpx.Response:
    if answer.status_code >= 400:
        raise _failure(answer)
    return answer


def _failure(answer: httpx.Response) -> CommandError:
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = "the answer is not the gateway's"
    return CommandError(f"{answer.status_code}: {message}")
