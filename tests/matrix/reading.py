"""What a client reads of an answer: SDK objects in, the terms of the cases' `expect` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]


def of_answer(answer: Json) -> Json:
    """Return the reading of a whole answer, as JSON."""
    return _reading([(choice["message"], choice) for choice in answer["choices"]], answer.get("usage"))


def of_chunks(chunks: Sequence[Json]) -> Json:
    """Return the reading of a stream's chunks, joined as every client does: by index, texts one behind the other."""
    messages: dict[int, Json] = {}
    choices: dict[int, Json] = {}
    usage = None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            message = messages.setdefault(choice["index"], {})
            whole = choices.setdefault(choice["index"], {"finish_reason": None, "logprobs": None})
            whole["finish_reason"] = choice.get("finish_reason") or whole["finish_reason"]
            if logprobs := (choice.get("logprobs") or {}).get("content"):
                whole["logprobs"] = {"content": [*((whole["logprobs"] or {}).get("content") or ()), *logprobs]}
            _join(message, choice["delta"])
    return _reading([(messages[index], choices[index]) for index in sorted(messages)], usage)


def _join(message: Json, delta: Mapping[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            for piece in value or ():
                _join_call(message.setdefault("tool_calls", {}).setdefault(piece["index"], {}), piece)
        elif isinstance(value, str) and name != "role":
            known = message.get(name)
            message[name] = [*known, value] if isinstance(known, list) else (known or "") + value
        elif isinstance(value, list):
            message[name] = [*(message.get(name) or ()), *value]
        elif isinstance(value, dict):
            _join(message.setdefault(name, {}), value)


def _join_call(call: Json, piece: Mapping[str, Any]) -> None:
    function = piece.get("function") or {}
    call["id"] = call.get("id") or piece.get("id")
    call["name"] = (call.get("name") or "") + (function.get("name") or "")
    call["arguments"] = (call.get("arguments") or "") + (function.get("arguments") or "")


def _reading(choices: Sequence[tuple[Json, Json]], usage: Json | None) -> Json:
    read = [_choice(message, choice) for message, choice in choices]
    told: Json = read[0] if len(read) == 1 else {"choices": read}
    if usage:
        told["usage"] = [usage["prompt_tokens"], usage["completion_tokens"]]
    return told


def _choice(message: Json, choice: Json) -> Json:
    told = {
        "text": _text(message.get("content")),
        "refusal": message.get("refusal"),
        "reasoning": message.get("reasoning_content") or message.get("reasoning") or _thinking(message.get("content")),
        "tools": _calls(message.get("tool_calls")),
        "finish": choice.get("finish_reason"),
        "logprobs": [token["token"] for token in (choice.get("logprobs") or {}).get("content") or ()],
        "images": len(message.get("images") or ()),
        "annotations": len(message.get("annotations") or ()),
        "audio": (message.get("audio") or {}).get("transcript"),
    }
    return {name: value for name, value in told.items() if value}


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else part.get("text", "") for part in content)
    return content or ""


def _thinking(content: Any) -> str:
    if not isinstance(content, list):
        return ""
    thoughts = [part["thinking"] for part in content if isinstance(part, dict) and part.get("type") == "thinking"]
    return "".join(piece["text"] for thought in thoughts for piece in thought)


def _calls(calls: Any) -> list[list[str]]:
    if isinstance(calls, dict):  # joined from pieces
        return [[call["name"], call["arguments"]] for _, call in sorted(calls.items())]
    return [[call["function"]["name"], call["function"]["arguments"]] for call in calls or ()]
