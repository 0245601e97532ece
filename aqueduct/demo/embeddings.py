"""An embeddings request in, deterministic vectors out: the same text or tokens always get the same one."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

from aqueduct.demo.content import compact_json
from aqueduct.demo.options import Options
from aqueduct.demo.request import BadRequest, integer_of, model_of, prompts_of

DIMENSIONS = 16
MAX_DIMENSIONS = 4096


def embeddings_body(body: dict[str, Any], options: Options) -> bytes:
    """Return the whole answer. Raises BadRequest, which names the field."""
    inputs = prompts_of(body, "input")
    size = integer_of(body, "dimensions", 1) or options.dimensions or DIMENSIONS
    if size > MAX_DIMENSIONS:
        raise BadRequest(f"`dimensions` must be at most {MAX_DIMENSIONS}.", "dimensions")
    as_text = (options.encoding or body.get("encoding_format")) == "base64"
    data = [
        {"object": "embedding", "index": place, "embedding": _written(_vector(one, size), as_text)}
        for place, one in enumerate(inputs)
    ]
    answer: dict[str, Any] = {"object": "list", "data": data, "model": model_of(body)}
    if not options.no_usage:
        tokens = sum(len(one.split()) if isinstance(one, str) else len(one) for one in inputs)
        answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return compact_json(answer)


def _vector(given: str | list[int], size: int) -> list[float]:
    """Return numbers from -1 to 1 that 32-bit floats hold exactly."""
    seed = hashlib.sha256(json.dumps(given).encode()).digest()
    raw = hashlib.shake_256(seed).digest(2 * size)
    return [number / 32768 for number in struct.unpack_from(f"<{size}h", raw)]


def _written(vector: list[float], as_text: bool) -> list[float] | str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if as_text else vector
