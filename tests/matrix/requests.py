"""The files of `clients/` as requests (README.md has their form)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "clients"


@dataclass(frozen=True)
class Request:
    """One request as a client sends it, and what is to come of it."""

    client: str
    name: str
    data: bytes
    """Its bytes, with `HOST` and `TOKEN` where theirs go."""
    expected: dict[str, Any]
    """What the client reads."""
    sent: dict[str, Any]
    """Members that reach the backend; null is for one that must not."""

    def to(self, host: str, token: str) -> bytes:
        """Return the bytes for a gateway."""
        return self.data.replace(b"HOST", host.encode()).replace(b"TOKEN", token.encode())


def requests() -> list[Request]:
    """Return every request of every client."""
    return [request for path in sorted(FOLDER.glob("*.txt")) for request in read(path.stem, path.read_bytes())]


def read(client: str, text: bytes) -> list[Request]:
    """Read a file; raises ValueError for one that has not the form."""
    return [_request(client, part) for part in (b"\n" + text).split(b"\n== ")[1:]]


def _request(client: str, part: bytes) -> Request:
    front, divider, data = part.partition(b"\n-- request")
    name, *lines = front.decode().split("\n")
    told = {
        word: json.loads(rest) for word, _, rest in (line.partition(" ") for line in lines) if word[:1] not in ("", "#")
    }
    if not divider or "expect" not in told or told.keys() - {"expect", "sent"}:
        raise ValueError(f"{client}, {name}: a request has an `expect`, perhaps a `sent`, and a `-- request`")
    options, _, data = data.partition(b"\n")
    head, _, body = data.partition(b"\n\n")
    body = body.rstrip(b"\n")
    if b"bom" in options.split():
        body = b"\xef\xbb\xbf" + body
    if b"chunked" in options.split():
        body = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (body[:9], body[9:])) + b"0\r\n\r\n"
    head = head.replace(b"LENGTH", b"%d" % len(body)).replace(b"\n", b"\r\n")
    return Request(client, name, head + b"\r\n\r\n" + body, told["expect"], told.get("sent", {}))
