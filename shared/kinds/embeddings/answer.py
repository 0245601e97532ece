"""A backend's embeddings in; those for our client out, in the format it asked for whatever the backend gave."""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from typing import Any

from shared.errors import BadBackendResponse
from shared.jobs import JobSpec, Usage
from shared.kinds.common.answers import dumps, read_usage
from shared.kinds.common.plain import read_answer


def rewrite(body: bytes, spec: JobSpec, job_id: str) -> tuple[bytes, Usage | None]:
    """Return the body under the public model name and its usage; raises BadBackendResponse for one without vectors."""
    answer = read_answer(body)
    data = answer.get("data")
    if not isinstance(data, list) or not data or not all(isinstance(item, dict) for item in data):
        raise BadBackendResponse("The model's backend sent an answer without embeddings.")
    as_text = spec.options.get("encoding_format") == "base64"
    for place, item in enumerate(data):
        item.setdefault("index", place)
        item["object"] = "embedding"
        try:
            item["embedding"] = _vector(item.get("embedding"), as_text=as_text)
        except (struct.error, TypeError, OverflowError, ValueError):
            raise BadBackendResponse("The model's backend sent an embedding that is no vector.") from None
    answer.update(object="list", model=spec.public_model)
    return dumps(answer), read_usage(answer.get("usage"))


def _vector(given: Any, *, as_text: bool) -> list[float] | str:
    if isinstance(given, str):
        raw = b64decode(given, validate=True)
        return given if as_text else list(struct.unpack(f"<{len(raw) // 4}f", raw))
    if not isinstance(given, list):
        raise TypeError
    return b64encode(struct.pack(f"<{len(given)}f", *given)).decode() if as_text else given
