"""A body of one of the endpoints in, the parts that shape a demo answer out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OPTIONS_MEMBER = "demo"
"""Of a request's body: options where the model's name cannot hold them."""


class BadRequest(ValueError):
    """The body does not fit; `param` is the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a demo answer depends on."""

    model: str
    last_user_text: str
    prompt_words: int
    stream: bool
    include_usage: bool
    n: int
    max_tokens: int | None
    stop: tuple[str, ...]
    top_logprobs: int | None
    """None: no logprobs wanted."""
    tools: tuple[dict[str, Any], ...]
    """The functions that may be called."""
    tool_required: bool
    parallel_tool_calls: bool
    schema: dict[str, Any] | None
    """The JSON schema of the answer; `{"type": "object"}` for json_object."""
    seeded: bool
    user: str
    echo: bool
    """The prompt comes before its completion."""


def read_request(body: Any) -> ChatRequest:
    """Return the request. Raises BadRequest, which names the field."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    model, messages = model_of(body), body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise BadRequest("`messages` must be a list of at least one message.", "messages")
    texts = [(one.get("role"), _text_of(one.get("content"))) for one in messages]
    limits = [integer_of(body, name, 1) for name in ("max_tokens", "max_completion_tokens")]
    tools, required = _tools(body)
    stream_options = body.get("stream_options")
    return ChatRequest(
        model=model,
        last_user_text=next((text for role, text in reversed(texts) if role == "user"), ""),
        prompt_words=sum(len(text.split()) for _, text in texts),
        stream=body.get("stream") is True,
        include_usage=isinstance(stream_options, dict) and stream_options.get("include_usage") is True,
        n=integer_of(body, "n", 1) or 1,
        max_tokens=min((limit for limit in limits if limit is not None), default=None),
        stop=_stop(body.get("stop")),
        top_logprobs=(integer_of(body, "top_logprobs", 0) or 0) if body.get("logprobs") is True else None,
        tools=tools,
        tool_required=required,
        parallel_tool_calls=body.get("parallel_tool_calls") is not False,
        schema=_schema(body.get("response_format")),
        seeded=body.get("seed") is not None,
        user=str(body.get("user") or ""),
        echo=body.get("echo") is True,
    )


def read_completion(body: Any) -> ChatRequest:
    """Return the request in a body of `/completions`, told as a chat of one message. Raises BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    prompts = [""] if body.get("prompt") is None else prompts_of(body, "prompt")
    first = prompts[0] if isinstance(prompts[0], str) else " ".join(map(str, prompts[0]))
    top = integer_of(body, "logprobs", 0)
    limit = integer_of(body, "max_tokens", 0)
    return read_request(
        {
            **{name: body.get(name) for name in ("model", "stream", "stream_options", "stop", "seed", "user", "echo")},
            "messages": [{"role": "user", "content": first}],
            "n": (integer_of(body, "n", 1) or 1) * len(prompts),
            "max_tokens": None if limit is None else max(1, limit),
            "logprobs": top is not None,
            "top_logprobs": top,
        }
    )


def read_embeddings(body: Any) -> ChatRequest:
    """Return what is common to all requests in a body of `/embeddings`. Raises BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    prompts_of(body, "input")
    named = {name: body.get(name) for name in ("model", "user")}
    return read_request({**named, "messages": [{"role": "user", "content": ""}]})


def model_of(body: dict[str, Any]) -> str:
    """Return the model's name."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("You must provide a model parameter.", "model")
    return model


def behaviour_of(body: dict[str, Any], model: str) -> str:
    """Return the model's name with the options that the member `demo` adds: a gateway passes that, but no odd names."""
    more = body.get(OPTIONS_MEMBER)
    if more is None:
        return model
    if not isinstance(more, str):
        raise BadRequest(f"`{OPTIONS_MEMBER}` must be a string, such as tokens=64&status=500.", OPTIONS_MEMBER)
    return f"{model}{'&' if '?' in model else '?'}{more}"


def prompts_of(body: dict[str, Any], name: str) -> list[str | list[int]]:
    """Return a field that is a string, tokens, or a list of either, as a list."""
    given = body.get(name)
    prompts: list[Any] = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    if not all(_is_prompt(one) for one in prompts):
        raise BadRequest(f"`{name}` must be a string, a list of tokens, or a list of either.", name)
    return prompts


def _is_prompt(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(token, int) for token in value))


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return " ".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)


def integer_of(body: dict[str, Any], name: str, least: int) -> int | None:
    """Return a whole number, or None where there is none."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadRequest(f"`{name}` must be an integer of at least {least}.", name)
    return value


def _stop(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise BadRequest("`stop` must be a string or a list of strings.", "stop")
    return tuple(one for one in stops if one)


def _tools(body: dict[str, Any]) -> tuple[tuple[dict[str, Any], ...], bool]:
    """Return the functions to choose from and whether one must be called."""
    tools = body.get("tools") or []
    if not isinstance(tools, list):
        raise BadRequest("`tools` must be a list.", "tools")
    given = [one.get("function") for one in tools if isinstance(one, dict)]
    functions = tuple(one for one in given if isinstance(one, dict) and isinstance(one.get("name"), str))
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        wanted = choice["function"].get("name")
        functions = tuple(one for one in functions if one["name"] == wanted)
        if not functions:
            raise BadRequest(f"`tools` has no function {wanted!r}, which `tool_choice` names.", "tool_choice")
        return functions, True
    return functions, choice == "required" and bool(functions)


def _schema(response_format: Any) -> dict[str, Any] | None:
    if not isinstance(response_format, dict):
        return None
    if response_format.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    if response_format.get("type") != "json_schema":
        return None
    outer = response_format.get("json_schema")
    schema = outer.get("schema") if isinstance(outer, dict) else None
    if not isinstance(schema, dict):
        raise BadRequest("`response_format.json_schema.schema` must be a JSON schema.", "response_format")
    return schema
