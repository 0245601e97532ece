"""A body that OpenAI's schema refuses in; out comes one that stands for it, without what others may judge.

Two such things: words that the schema does not know (roles, parts, formats, tools), which the model's
`extra_parameters` judges, and limits that self-hosted servers do not share, which its `parameter_limits` judges. What
comes out is only for checking the rest: each place keeps its path, and a body in which there is nothing of the kind
comes out itself.
"""

from __future__ import annotations

from typing import Any

from shared.kinds.common.fields import INT64_MAX
from shared.kinds.common.replaced import Object, each, replaced, within_stops

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
_TOOLS = {"function", "custom"}
_CHOICES = {*_TOOLS, "allowed_tools"}
_TOOL_FORMATS = {"text", "grammar"}
_FUNCTION_TOOL = {"type": "function", "function": {"name": "f"}}
_FUNCTION_CALL = {"id": "", "type": "function", "function": {"name": "f", "arguments": ""}}


def with_known_words(body: Object) -> Object:
    """Return the body with a known word in the place of each unknown one, and of what only that one explains."""
    known: Object = replaced(
        body,
        messages=lambda messages: each(messages, _known_message),
        tools=lambda tools: each(tools, _known_tool),
        tool_choice=lambda choice: _FUNCTION_TOOL if _is_object_of(choice, _CHOICES) else choice,
        response_format=_known_format,
        audio=lambda audio: _with_format(audio, _OUTPUT_FORMATS),
        prediction=lambda prediction: replaced(prediction, content=lambda content: each(content, _known_part)),
    )
    return known


def within_limits(body: Object) -> Object:
    """Return the body with a legal value in the place of each that only OpenAI's limits refuse."""
    limited: Object = replaced(
        body,
        messages=lambda messages: each([_USER_MESSAGE] if messages == [] else messages, _limited_message),
        stop=within_stops,
        functions=_not_empty,
        modalities=_not_empty,
        max_tokens=_positive,
        max_completion_tokens=_positive,
    )
    if body.get("top_logprobs") is not None and (body.get("logprobs") is None or body["logprobs"] is False):
        return {**limited, "logprobs": True}
    return limited


def _is_unknown(word: Any, known: set[str] | dict[str, set[str]]) -> bool:
    return type(word) is str and word not in known


# A message may be one of ten thousand: what is run for each of them and of their parts makes nothing needlessly.


def _known_message(message: Any) -> Any:
    if type(message) is not dict:
        return message
    if _is_unknown(message.get("role"), _PARTS_OF):
        return _USER_MESSAGE
    if "tool_calls" in message:
        message = replaced(message, tool_calls=lambda calls: each(calls, _known_call))
    content = message.get("content")
    known = each(content, _known_part)
    return message if known is content else {**message, "content": known}


def _known_call(call: Any) -> Any:
    return _FUNCTION_CALL if _is_object_of(call, _TOOLS) else call


def _known_tool(tool: Any) -> Any:
    if _is_object_of(tool, _TOOLS):
        return _FUNCTION_TOOL
    return replaced(tool, custom=lambda custom: replaced(custom, format=_known_tool_format))


def _known_tool_format(form: Any) -> Any:
    return {"type": "text"} if _is_object_of(form, _TOOL_FORMATS) else form


def _is_object_of(value: Any, known: set[str]) -> bool:
    """Tell whether an object says that it is of a type that is not known."""
    return type(value) is dict and _is_unknown(value.get("type"), known)


def _known_part(part: Any) -> Any:
    if type(part) is not dict:
        return part
    if _is_unknown(part.get("type"), _PARTS):
        return _TEXT_PART
    if "input_audio" not in part:
        return part
    return replaced(part, input_audio=lambda audio: _with_format(audio, _INPUT_FORMATS))


def _with_format(audio: Any, known: set[str]) -> Any:
    return replaced(audio, format=lambda given: "wav" if _is_unknown(given, known) else given)


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
    return replaced(
        message,
        tool_calls=lambda calls: each(calls, lambda call: replaced(call, function=_with_arguments)),
        function_call=_with_arguments,
    )


def _limited_content(content: Any, role: str) -> Any:
    if type(content) is list and content:
        of_role = _PARTS_OF.get(role, _PARTS)
        return each(content, lambda part: _TEXT_PART if _is_misplaced(part, of_role) else part)
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
