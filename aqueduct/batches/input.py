"""An input file before it is sent: its endpoint, read from the first line, and a model put into every line."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aqueduct.errors import CommandError


def endpoint_of(path: Path) -> str:
    """Return the `url` of the first line: a batch's lines share it."""
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        url = json.loads(first.removeprefix(b"\xef\xbb\xbf"))["url"]
    except (ValueError, KeyError, TypeError):
        url = None
    if not isinstance(url, str):
        raise CommandError(f"{path}: the first line has no `url`; name it with --endpoint, as /v1/chat/completions")
    return url


@contextmanager
def with_model(path: Path, model: str | None) -> Iterator[Path]:
    """Give a copy of the file in which every line asks for this model; the file itself without one."""
    if model is None:
        yield path
        return
    with tempfile.NamedTemporaryFile("wb", suffix=".jsonl") as copy, path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                copy.write(_with_model(path, number, line, model))
        copy.flush()
        yield Path(copy.name)


def _with_model(path: Path, number: int, line: bytes, model: str) -> bytes:
    try:
        given = json.loads(line)
        given["body"]["model"] = model
    except (ValueError, KeyError, TypeError):
        raise CommandError(f"{path}, line {number}: no JSON object with a `body`; --model needs one") from None
    return json.dumps(given, ensure_ascii=False).encode() + b"\n"
