"""Files, uploads and batches: hostile forms, names, ids, ranges and lines, and other tenants' things."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.attack.forms import BATCHES, CALLS, END, FORM, FORMS, GOOD, IDS, LINES, NAMES, RANGES
from tests.attack.suite import Check, Group, Suite, cost_of

SECRET = b"canary-of-another-tenant"
CONTENT = b"0123456789" * 10
BATCH_SECONDS = 30


def groups(suite: Suite) -> Iterator[Group]:
    """Yield them by what they are about."""
    found = Stored(suite)
    forms: dict[str, Check] = {name: partial(found.form, *given) for name, given in FORMS.items()}
    yield Group("forms", {**forms, "a file without end": found.endless_form})
    yield Group("names of files", {name: partial(found.name, given) for name, given in NAMES.items()})
    ids: dict[str, Check] = {name: partial(found.id, given) for name, given in IDS.items()}
    yield Group("ids", {**ids, "another tenant's": found.another_tenants})
    yield Group("ranges", {name: partial(found.range, given) for name, given in RANGES.items()})
    batches: dict[str, Check] = {name: partial(found.batch, given) for name, given in BATCHES.items()}
    yield Group(
        "batches", {**batches, "of another tenant's file": found.batch_of_another, "hostile lines": found.lines}
    )


class Stored:
    """The checks."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._stack = suite.stack
        self._mine = suite.stack.lasting_client()
        self._theirs = suite.stack.lasting_client("other")
        self._folder: Path = suite.stack.folder / "store"

    def form(self, media_type: str, body: bytes) -> None:
        """Refused as an OpenAI error, and nothing of it stays."""
        before = self._files()
        headers = {b"content-type": media_type.encode("latin-1")}
        try:
            answer = self._mine.post("/v1/files", content=body, headers=headers)
        except httpx.WriteError:  # cut while it was still sent
            answer = None
        if answer is not None:
            assert 400 <= answer.status_code < 500, answer.text
            assert answer.json()["error"]["message"]
        deadline = time.monotonic() + 5
        while (left := self._files() - before) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, left

    def endless_form(self) -> None:
        """Bytes before a form, without end: as cheap as a head's."""
        api = self._stack.apis[0]

        def flood() -> None:
            token = self._stack.token.encode()
            with self._stack.connect(api) as connection:
                connection.sendall(
                    b"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Type: %b\r\n"
                    b"Content-Length: 900000000\r\n\r\n" % (token, FORM.encode())
                )
                sent = 0
                try:
                    while sent < self._suite.most_bytes:
                        sent += connection.send(b"a" * 65536)
                    assert connection.recv(65536).startswith(b"HTTP/1.1 4")
                except OSError:
                    pass

        flood()
        with cost_of(api):
            flood()

    def name(self, given: bytes) -> None:
        """Kept as a name and nothing else; served as an attachment that no browser shows."""
        form = GOOD.replace(b'filename="x"', b'filename="%b"' % given)
        answer = self._mine.post("/v1/files", content=form, headers={"content-type": FORM})
        if answer.status_code != 200:
            assert answer.status_code == 400, answer.text
            return
        made = answer.json()
        assert not set("/\\") & set(made["filename"]), made
        content = self._mine.get(f"/v1/files/{made['id']}/content")
        assert content.content == b"hello"
        assert content.headers["content-type"] == "application/octet-stream"
        assert content.headers["x-content-type-options"] == "nosniff"
        assert content.headers["content-disposition"].startswith("attachment;")
        assert "set-cookie" not in content.headers and content.headers["content-disposition"].isprintable()
        assert self._mine.delete(f"/v1/files/{made['id']}").status_code == 200

    def id(self, given: str) -> None:
        """Nothing is found, whatever is asked of it."""
        self._nothing_at(given)

    def another_tenants(self) -> None:
        """As if they were not there, and they stay."""
        upload = {"bytes": 10, "filename": "x", "purpose": "user_data", "mime_type": "text/plain"}
        part = self._theirs.post("/v1/uploads", json=upload).json()["id"]
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {
            "model": "good", "messages": [{"role": "user", "content": SECRET.decode()}]}}  # fmt: skip
        file = self._made(self._theirs, json.dumps(line).encode())
        made = self._theirs.post("/v1/batches", json=_wanted(file)).json()["id"]
        for one in (file, part, made):
            self._nothing_at(one)
        for path in ("files", "batches"):
            listed = self._mine.get(f"/v1/{path}").text
            assert file not in listed and made not in listed
            after = self._mine.get(f"/v1/{path}", params={"after": file if path == "files" else made})
            assert after.status_code in (200, 400, 404) and SECRET.decode() not in after.text
        assert self._theirs.get(f"/v1/files/{file}").status_code == 200
        assert self._theirs.get(f"/v1/batches/{made}").json()["status"] not in ("cancelling", "cancelled")
        assert self._theirs.post(f"/v1/uploads/{part}/cancel").status_code == 200

    def _nothing_at(self, given: str) -> None:
        for method, path in CALLS:
            url = httpx.URL(self._stack.base_url).copy_with(raw_path=path.replace("@", given).encode())
            headers = {"content-type": "application/json" if path.endswith("complete") else FORM}
            content = b'{"part_ids":["part_x"]}' if path.endswith("complete") else GOOD if method == "POST" else b""
            answer = self._mine.request(method, url, content=content, headers=headers)
            assert answer.status_code in (400, 404, 405, 422), f"{method} {path}: {answer.status_code} {answer.text}"
            assert SECRET not in answer.content and b"sha256" not in answer.content, f"{method} {path}"

    def range(self, given: str) -> None:
        """A part of this file, all of it, or nothing."""
        file = self._made(self._mine, CONTENT, purpose=b"user_data")
        headers = {b"range": given.encode("latin-1")}
        answer = self._mine.get(f"/v1/files/{file}/content", headers=headers)
        assert answer.status_code in (200, 206, 416), answer.text
        assert answer.status_code == 416 or (answer.content and answer.content in CONTENT)
        assert self._mine.delete(f"/v1/files/{file}").status_code == 200

    def batch(self, given: dict[str, Any]) -> None:
        """Refused, and none is made."""
        file = self._made(self._mine, b"{}")
        answer = self._mine.post("/v1/batches", json={**_wanted(file), **given})
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.json()["error"]["message"]

    def batch_of_another(self) -> None:
        """Another tenant's file is none."""
        answer = self._mine.post("/v1/batches", json=_wanted(self._made(self._theirs, b"{}")))
        assert 400 <= answer.status_code < 500, answer.text

    def lines(self) -> None:
        """Each fails alone and is told by its number; none is run."""
        made = {}
        for name, line in LINES.items():
            answer = self._mine.post("/v1/batches", json=_wanted(self._made(self._mine, line + b"\n")))
            assert answer.status_code == 200, f"{name}: {answer.text}"
            made[name] = answer.json()["id"]
        deadline = time.monotonic() + BATCH_SECONDS
        while made:
            for name, one in list(made.items()):
                batch = self._mine.get(f"/v1/batches/{one}").json()
                if batch["status"] in ("failed", "completed"):
                    assert batch["status"] == "failed", f"{name}: {batch}"
                    assert batch["errors"]["data"][0]["line"] in (1, 2), f"{name}: {batch}"
                    del made[name]
            assert time.monotonic() < deadline, f"not ended: {list(made)}"
            time.sleep(0.2)

    def _made(self, client: httpx.Client, content: bytes, purpose: bytes = b"batch") -> str:
        form = GOOD.replace(b"hello", content).replace(b"user_data", purpose)
        assert form.endswith(END)
        answer = client.post("/v1/files", content=form, headers={"content-type": FORM})
        assert answer.status_code == 200, answer.text
        found: str = answer.json()["id"]
        return found

    def _files(self) -> set[str]:
        return {str(path) for path in self._folder.rglob("*") if path.is_file()}


def _wanted(file: str) -> dict[str, Any]:
    return {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
