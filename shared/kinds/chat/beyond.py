"""A body that OpenAI's schema refuses in; out comes one that stands for it, without what others may judge.

Two such things: words that the schema does not know (roles, parts, formats), which the model's `extra_parameters`
judges, and limits that self-hosted servers do not share, which its `parameter_limits` judges. What comes out is only
for checking the rest: each place keeps its path, and a body in which there is nothing of the kind comes out itself.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Any

from shared.kinds.common.fields import INT64_MAX

Object = dict[str, Any]

_TEXT_PART = {"type": "text", "text": ""}
_USER_MESSAGE = {"role": "user", "content": ""}
_PARTS_OF = {
    "user": {"text", "image_url", "input_audio", "file"},
    "assistant": {"text", "refusal"},
    "developer": {"text"},
    "system": {"text"},
    "tool": {"text"},
    "function": set[str](),
}
_PARTS = set[str]().union(*_PARTS_OF.values())
_INPUT_FORMATS = {"wav", "mp3"}
_OUTPUT_FORMATS = {"wav", "aac", "mp3", "flac", "opus", "pcm16"}
_FORMATS = {"text", "json_object", "json_schema"}
_MAX_STOPS = 4


def with_known_words(body: Object) -> Object:
    """Return the body with a known word in the place of each unknown one, and of what only that one explains."""
    known: Object = _replaced(
        body,
        messages=lambda messages: _each(messages, _known_message),
        response_format=_known_format,
        audio=lambda audio: _with_format(audio, _OUTPUT_FORMATS),
        prediction=lambda prediction: _replaced(prediction, content=lambda content: _each(content, _known_part)),
    )
    return known


def within_limits(body: Object) -> Object:
    """Return the body with a legal value in the place of each that only OpenAI's limits refuse."""
    limited: Object = _replaced(
        body,
        messages=lambda messages: _each([_USER_MESSAGE] if messages == [] else messages, _limited_message),
        stop=lambda stop: (stop[:_MAX_STOPS] or None) if type(stop) is list and len(stop) not in _STOPS else stop,
        functions=_not_empty,
        modalities=_not_empty,
        max_tokens=_positive,
        max_completion_tokens=_positive,
    )
    if body.get("top_logprobs") is not None and (body.get("logprobs") is None or body["logprobs"] is False):
        return {**limited, "logprobs": True}
    return limited


def _replaced(whole: Any, **changes: Callable[[Any], Any]) -> Any:
    """Return an object with these members changed, or the very one if none is; what is no object stays."""
    if type(whole) is not dict:
        return whole
    made = {name: change(whole[name]) for name, change in changes.items() if name in whole}
    if all(value is whole[name] for name, value in made.items()):
        return whole
    return {**whole, **made}


def _each(items: Any, change: Callable[[Any], Any]) -> Any:
    """Return a list with each item changed, or the very one if none is; what is no list stays."""
    if type(items) is not list:
        return items
    made = list(map(change, items))
    return items if all(map(is_, made, items)) else made


def _is_unknown(word: Any, known: set[str] | dict[str, set[str]]) -> bool:
    return type(word) is str and word not in known


# A message may be one of ten thousand: what is run for each of them and of their parts makes nothing needlessly.


def _known_message(message: Any) -> Any:
    if type(message) is not dict:
        return message
    if _is_unknown(message.get("role"), _PARTS_OF):
        return _USER_MESSAGE
    content = message.get("content")
    known = _each(content, _known_part)
    return message if known is content else {**message, "content": known}


def _known_part(part: Any) -> Any:
    if type(part) is not dict:
        return part
    if _is_unknown(part.get("type"), _PARTS):
        return _TEXT_PART
    if "input_audio" not in part:
        return part
    return _replaced(part, input_audio=lambda audio: _with_format(audio, _INPUT_FORMATS))


def _with_format(audio: Any, known: set[str]) -> Any:
    return _replaced(audio, format=lambda given: "wav" if _is_unknown(given, known) else given)


def _known_format(form: Any) -> Any:
    if type(form) is not dict:
        return form
    # Some servers have the schema beside the type, without the object that OpenAI puts around it.
    is_flat = form.get("type") == "json_schema" and "json_schema" not in form and "schema" in form
    return {"type": "text"} if is_flat or _is_unknown(form.get("type"), _FORMATS) else form


def _limited_message(message: Any) -> Any:
    if type(message) is not dict or type(role := message.get("role")) is not str:
        return message
    content = message.get("content")
    limited = _limited_content(content, role)
    if limited is not content:
        message = {**message, "content": limited}
    if role == "function" and message.get("name", "") is None:
        message = {**message, "name": ""}
    if role != "assistant":
        return message
    return _replaced(
        message,
        tool_calls=lambda calls: _each(calls, lambda call: _replaced(call, function=_with_arguments)),
        function_call=_with_arguments,
    )


def _limited_content(content: Any, role: str) -> Any:
    if type(content) is list and content:
        of_role = _PARTS_OF.get(role, _PARTS)
        return _each(content, lambda part: _TEXT_PART if _is_misplaced(part, of_role) else part)
    return "" if content == [] or (content is None and role == "assistant") else content


def _is_misplaced(part: Any, of_role: set[str]) -> bool:
    if type(part) is not dict:
        return False
    kind = part.get("type")
    return type(kind) is str and kind not in of_role and kind in _PARTS


def _with_arguments(function: Any) -> Any:
    if type(function) is not dict or function.get("arguments") is not None:
        return function
    return {**function, "arguments": ""}


def _not_empty(items: Any) -> Any:
    return None if items == [] else items


def _positive(limit: Any) -> Any:
    return None if type(limit) is int and -INT64_MAX <= limit < 1 else limit


_STOPS = range(1, _MAX_STOPS + 1)
