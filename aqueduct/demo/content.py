"""A request and its options in, the whole answer out: the deltas of a stream and the message of a plain answer.

All choices of an answer hold the same, and the same request always gets the same, unless calls are to be told apart.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from aqueduct.demo.options import Options
from aqueduct.demo.request import BadRequest, ChatRequest
from aqueduct.demo.schema_instance import UnusableSchema, make_instance

INVALID_MARK = "\ue0ff\ue0fe"
"""Stands in an answer's text where the bytes sent are not UTF-8."""
INVALID_BYTES = b"\xff\xfe"

_FIRST_TOKENS = {"role": "assistant", "content": ""}
_REASONING = "The user wrote something, so I answer in a friendly way."
_REFUSAL = "I'm sorry, I can't help with that request."
_PIECE_CHARS = 8
"""JSON texts are streamed in pieces of this size."""
_KEPT_DELTAS = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice, ready to be sent n times."""

    opening: bytes
    """The first delta, which has the role."""
    deltas: Sequence[bytes]
    """One JSON object a token."""
    logprobs: Sequence[bytes] | None
    """As JSON, one for each delta."""
    finish: str
    message: dict[str, Any]
    all_logprobs: dict[str, Any] | None
    usage: dict[str, Any]
    """Of all choices together."""


def compact_json(value: Any) -> bytes:
    """Return `value` as JSON without spaces; UTF-8, or ASCII where the text has lone surrogates."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def make_answer(request: ChatRequest, options: Options) -> Answer:
    """Return the answer that the model's name and the request ask for. Raises BadRequest."""
    calls = _tool_calls(request, options)
    reasoning = _words(_REASONING) if options.reasoning else []
    if calls:
        pieces: list[str] = []
        deltas: Sequence[bytes] = [delta for place, call in enumerate(calls) for delta in _call_deltas(place, call)]
        finish = "tool_calls"
    else:
        pieces, finish = _stopped(*_limited(_pieces(request, options), request.max_tokens), request.stop)
        deltas = _text_deltas(pieces, options)
    completion_tokens = len(deltas) + len(reasoning)
    logprobs = None if request.top_logprobs is None or calls else _logprobs(pieces, request.top_logprobs)
    if reasoning:
        deltas = [compact_json({"reasoning_content": piece}) for piece in reasoning] + list(deltas)
    return Answer(
        opening=compact_json({"role": "assistant", "content": None} if calls else _FIRST_TOKENS),
        deltas=deltas,
        logprobs=None if logprobs is None else [b"null"] * len(reasoning) + _streamed_logprobs(logprobs),
        finish=options.finish or finish,
        message=_message("".join(pieces), calls, options),
        all_logprobs=None if logprobs is None else {"content": logprobs, "refusal": None},
        usage=_usage(request, completion_tokens, len(reasoning)),
    )


def _pieces(request: ChatRequest, options: Options) -> list[str]:
    """Return the content as tokens, before any limit."""
    if options.refusal:
        return _words(_REFUSAL)
    pieces = [f"{request.last_user_text} "] if options.prefix or request.echo else []
    if options.huge:
        pieces.append("x" * options.huge)
    if request.schema is not None:
        pieces += _json_pieces(request.schema)
    elif options.tokens is not None:
        mark = f".{secrets.token_hex(3)}" if options.call_marks else ""
        pieces += [f"{number}{mark} " for number in range(options.tokens)]
    elif not options.huge:
        heard = request.last_user_text[:200]
        pieces += _words(f"You said: {heard}. This answer comes from Aqueduct's demo backend.")
    if options.invalid_utf8:
        pieces[1:1] = [INVALID_MARK]
    return pieces


def _json_pieces(schema: dict[str, Any]) -> list[str]:
    try:
        text = json.dumps(make_instance(schema), ensure_ascii=False)
    except UnusableSchema as error:
        raise BadRequest(f"Invalid schema for response_format: {error}.", "response_format") from None
    return _slices(text)


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*", text)


def _slices(text: str) -> list[str]:
    return [text[start : start + _PIECE_CHARS] for start in range(0, len(text), _PIECE_CHARS)]


def _limited(pieces: list[str], max_tokens: int | None) -> tuple[list[str], str]:
    if max_tokens is None or max_tokens >= len(pieces):
        return pieces, "stop"
    return pieces[:max_tokens], "length"


def _stopped(pieces: list[str], finish: str, stops: tuple[str, ...]) -> tuple[list[str], str]:
    """Cut the text before the first stop string."""
    text = "".join(pieces) if stops else ""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    if not places:
        return pieces, finish
    kept, left = [], min(places)
    for piece in pieces:
        if left <= 0:
            break
        kept.append(piece[:left])
        left -= len(piece)
    return kept, "stop"


def _text_deltas(pieces: list[str], options: Options) -> Sequence[bytes]:
    if options.refusal:
        return [compact_json({"refusal": piece}) for piece in pieces]
    if options.tokens is not None and pieces and pieces[0] == "0 " and len(pieces) <= _KEPT_DELTAS:
        numbers = _number_deltas(len(pieces))
        if pieces[-1] == f"{len(pieces) - 1} " and not options.invalid_utf8:
            return numbers
    deltas = [b'{"content":' + compact_json(piece) + b"}" for piece in pieces]
    if options.invalid_utf8:
        deltas = [delta.replace(INVALID_MARK.encode(), INVALID_BYTES) for delta in deltas]
    return deltas


@lru_cache(maxsize=256)
def _number_deltas(count: int) -> tuple[bytes, ...]:
    return tuple(b'{"content":"%d "}' % number for number in range(count))


def _tool_calls(request: ChatRequest, options: Options) -> list[dict[str, Any]]:
    """Return the tool calls of the answer; none if it is text."""
    count = options.tool_calls or int(request.tool_required)
    if not count:
        return []
    if not request.parallel_tool_calls:
        count = 1
    functions = request.tools or ({"name": "demo_tool"},)
    return [_tool_call(place, functions[place % len(functions)]) for place in range(count)]


def _tool_call(place: int, function: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments = make_instance(function.get("parameters") or {"type": "object"})
    except UnusableSchema as error:
        raise BadRequest(f"Invalid schema for function {function['name']!r}: {error}.", "tools") from None
    text = json.dumps(arguments, ensure_ascii=False)
    return {"id": f"call_demo_{place}", "type": "function", "function": {"name": function["name"], "arguments": text}}


def _call_deltas(place: int, call: dict[str, Any]) -> list[bytes]:
    function = call["function"]
    opening = {"index": place, **call, "function": {"name": function["name"], "arguments": ""}}
    pieces = [{"index": place, "function": {"arguments": piece}} for piece in _slices(function["arguments"])]
    return [compact_json({"tool_calls": [delta]}) for delta in [opening, *pieces]]


def _logprobs(pieces: list[str], top: int) -> list[dict[str, Any]]:
    return [
        {
            **_logprob(piece, -0.01 * (place % 10 + 1)),
            "top_logprobs": [
                _logprob(piece if rank == 0 else f"alt{rank} ", -0.01 * (place % 10 + 1) - rank) for rank in range(top)
            ],
        }
        for place, piece in enumerate(pieces)
    ]


def _logprob(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode(errors="replace"))}


def _streamed_logprobs(logprobs: list[dict[str, Any]]) -> list[bytes]:
    return [compact_json({"content": [one], "refusal": None}) for one in logprobs]


def text_logprobs(logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return log probabilities in the words of `/completions`."""
    offsets, end = [], 0
    for one in logprobs:
        offsets.append(end)
        end += len(one["token"])
    return {
        "tokens": [one["token"] for one in logprobs],
        "token_logprobs": [one["logprob"] for one in logprobs],
        "top_logprobs": [{top["token"]: top["logprob"] for top in one["top_logprobs"]} for one in logprobs],
        "text_offset": offsets,
    }


def _message(text: str, calls: list[dict[str, Any]], options: Options) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if options.refusal:
        message |= {"content": None, "refusal": text}
    if calls:
        message |= {"content": None, "tool_calls": calls}
    if options.reasoning:
        message["reasoning_content"] = _REASONING
    return message


def _usage(request: ChatRequest, tokens: int, reasoning_tokens: int) -> dict[str, Any]:
    completion = tokens * request.n
    return {
        "prompt_tokens": request.prompt_words,
        "completion_tokens": completion,
        "total_tokens": request.prompt_words + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens * request.n},
    }
