"""The files of `servers/` as cases (README.md has their form)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "servers"
WAYS = ("plain", "streamed", "folded")
OTHER = ("plain, other form", "streamed, other form", "folded, other form")
"""The same, by a backend that answers in the form that was not asked for."""
_HEADING = re.compile(rb"^(== .*|-- .*|expect(?:-\w+)? \{.*|#.*)\n", re.MULTILINE)


@dataclass(frozen=True)
class Body:
    """What a server sends for one request."""

    data: bytes
    status: int = 200
    content_type: str = ""
    is_cut: bool = False
    piece_bytes: int = 0


@dataclass
class Case:
    """One thing that a server may be asked, and what it says."""

    server: str
    name: str
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)
    bodies: dict[str, Body] = field(default_factory=dict)
    is_strict: bool = True
    """Whether OpenAI's types know all of it."""

    @property
    def ways(self) -> tuple[str, ...]:
        """Every way to ask for it. A case of one body has it in the other form already."""
        return (*WAYS, *OTHER) if len(self.bodies) == 2 else WAYS

    def body(self, *, stream: bool) -> Body:
        """Return the answer to a request of that form, or the only one."""
        return self.bodies.get("stream" if stream else "plain") or next(iter(self.bodies.values()))

    def expect(self, way: str) -> dict[str, Any]:
        """Return what a client reads that asked in this way; in the other form it is what stands there."""
        if way in OTHER:
            way = "folded" if way == "plain, other form" else "plain"
        return self.expected.get(way) or self.expected[""]


def cases() -> list[Case]:
    """Return every case of every server."""
    return [case for path in sorted(FOLDER.glob("*.txt")) for case in read(path.stem, path.read_bytes())]


def read(server: str, text: bytes) -> list[Case]:
    """Read a file; raises ValueError for one that has not the form."""
    found: list[Case] = []
    pieces = _HEADING.split(text)
    is_strict = b"\nnot-strict\n" not in text
    for heading, rest in zip(pieces[1::2], pieces[2::2], strict=True):
        words = heading.decode().split(" ", 1)
        if words[0] == "==":
            found.append(Case(server, words[1].strip(), is_strict=is_strict))
        elif heading.startswith(b"#"):
            continue
        elif not found:
            raise ValueError(f"{server}: {words[0]} stands before the first case")
        elif words[0] == "--":
            form, *options = words[1].split()
            found[-1].bodies[form] = _body(form, options, rest)
        else:
            found[-1].expected[words[0].removeprefix("expect").removeprefix("-")] = json.loads(words[1])
    for case in found:
        if not case.bodies or not case.bodies.keys() <= {"stream", "plain"} or not case.expected:
            raise ValueError(f"{server}, {case.name}: a case has an `expect` and a `-- stream` or a `-- plain`")
    return found


def _body(form: str, options: list[str], data: bytes) -> Body:
    given = dict(option.partition("=")[::2] for option in options)
    if unknown := given.keys() - {"crlf", "bom", "cut", "bytes", "status", "type"}:
        raise ValueError(f"unknown options {unknown}")
    if "crlf" in given:
        data = data.replace(b"\n", b"\r\n")
    if "bom" in given:
        data = b"\xef\xbb\xbf" + data
    content_type = given.get("type") or ("text/event-stream" if form == "stream" else "application/json")
    return Body(data, int(given.get("status", 200)), content_type, "cut" in given, int(given.get("bytes", 0)))
