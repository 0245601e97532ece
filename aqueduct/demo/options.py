"""How a demo model behaves, read from its name: `demo?tokens=64&token_seconds=0.05` in, frozen `Options` out.

Any base name works; what follows `?` is written like a URL query. A request's member `demo` adds to it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=0, le=100_000)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]
ErrorShape = Literal["openai", "llamacpp", "vllm_old", "html", "empty"]

PRESETS = {
    "demo": "",
    "demo-slow": "first_token_seconds=0.5&token_seconds=0.1",
    "demo-reasoning": "reasoning=1",
}
"""The models that `GET /v1/models` lists, with the options that each name stands for."""


class InvalidOption(ValueError):
    """An option is unknown or its value is out of range; the message names it."""


class Options(BaseModel):
    """What a model's name asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What the answer holds
    tokens: Count | None = Field(None, description="Content is '0 1 2 ...', one number a chunk.")
    prefix: bool = Field(False, description="The last user message and a space come first, as one chunk.")
    call_marks: bool = Field(False, description="Each number bears the mark of this call: '0.4f1c2a 1.4f1c2a ...'.")
    huge: Annotated[int, Field(ge=1, le=268_435_456)] | None = Field(
        None, description="One chunk's content has this many bytes."
    )
    reasoning: bool = Field(False, description="reasoning_content comes before the content.")
    refusal: bool = Field(False, description="The model refuses: message.refusal, content null.")
    tool_calls: Annotated[int, Field(ge=1, le=128)] | None = Field(None, description="This many parallel tool calls.")
    dimensions: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Numbers in an embedding, where the request does not say; 16 by default."
    )
    encoding: Literal["float", "base64"] | None = Field(
        None, description="Embeddings come in this format whatever the request asks for."
    )
    finish: str | None = Field(None, description="This finish_reason, such as eos, abort or tool_call.")

    # When it comes
    first_token_seconds: Seconds = Field(0, description="Wait before the first token.")
    token_seconds: Seconds = Field(0, description="Wait between two tokens.")
    answer_seconds: Seconds | None = Field(
        None, description="Wait before a plain answer or an error; default for plain answers: as long as the stream."
    )

    # How a stream is written
    batch: Annotated[int, Field(ge=1)] = Field(1, description="Events a write.")
    split: Annotated[int, Field(ge=1)] | None = Field(None, description="Write pieces of this many bytes.")
    drip: bool = Field(False, description="One byte of the body each 0.2 s.")
    crlf: bool = Field(False, description="CRLF line ends in the stream.")
    spaces: bool = Field(False, description="JSON with ', ' and ': '.")
    comments: bool = Field(False, description="A ': ping' comment before each event.")
    created_varies: bool = Field(False, description="`created` differs from chunk to chunk.")
    drop_finish_null: bool = Field(False, description="No finish_reason key before the last chunk.")
    usage_with_choice: bool = Field(False, description="Usage comes in the chunk that has the finish reason.")
    usage_null: bool = Field(False, description="Earlier chunks carry 'usage': null.")
    no_usage: bool = Field(False, description="Usage is never given.")

    # What goes wrong
    status: Annotated[int, Field(ge=400, le=599)] | None = Field(None, description="Answer this error.")
    code: str | None = Field(None, description="The error's code.")
    message: str = Field("The demo backend was asked to fail.", description="The error's message.")
    retry_after: str | None = Field(None, description="The error's Retry-After header, as written.")
    error_shape: ErrorShape = Field("openai", description="openai, llamacpp, vllm_old, html or empty.")
    error_in_200: bool = Field(False, description="Status 200 with an error object as its body.")
    error_after: Count | None = Field(None, description="An error event after this many chunks.")
    cut_before: bool = Field(False, description="Close the connection without a byte.")
    cut_after: Count | None = Field(None, description="Close the connection after this many chunks.")
    eof_after: Count | None = Field(None, description="End the body cleanly, unfinished, after this many chunks.")
    no_done: bool = Field(False, description="The stream ends without [DONE].")
    stall: bool = Field(False, description="Never answer.")
    stall_after: Count | None = Field(None, description="Send nothing more after this many chunks.")
    garbage: bool = Field(False, description="A body, or an event after chunk 2, that is no JSON.")
    invalid_utf8: bool = Field(False, description="Chunk 1 holds bytes that are not UTF-8.")
    wrong_content_type: bool = Field(False, description="Content-Type: text/html.")
    redirect: bool = Field(False, description="307 to the same path with ?redirected=1, which answers.")
    close_idle: bool = Field(False, description="Close the kept-alive connection right after the answer.")
    close_on_reuse: bool = Field(False, description="Close it instead of answering its next request.")
    fail_times: Count | None = Field(None, description="Only the first requests of a model and user go wrong.")

    def without_faults(self) -> Options:
        """Return the same options with nothing going wrong: what comes once `fail_times` is used up."""
        return self.model_copy(update=_HEALTHY)


_FAULTS = (
    "status", "error_in_200", "error_after", "cut_before", "cut_after", "eof_after", "no_done", "stall", "stall_after",
    "garbage", "invalid_utf8", "wrong_content_type", "redirect", "close_idle", "close_on_reuse",
)  # fmt: skip
_HEALTHY = {name: Options.model_fields[name].default for name in _FAULTS}


@lru_cache(maxsize=4096)
def parse_model(name: str) -> Options:
    """Return the options that a model's name asks for.

    Raises InvalidOption, which names the option, if one is unknown or has a value that does not fit.
    """
    base, _, query = name.partition("?")
    values = dict(parse_qsl(PRESETS.get(base, ""))) | dict(parse_qsl(query, keep_blank_values=True))
    try:
        return Options.model_validate(values)
    except ValidationError as error:
        found = [_describe(one["loc"], one["type"], one["msg"]) for one in error.errors()]
        raise InvalidOption(" ".join(found)) from None


def _describe(location: tuple[int | str, ...], kind: str, message: str) -> str:
    option = location[0] if location else "?"
    if kind == "extra_forbidden":
        return f"Unknown option `{option}`. Known: {', '.join(Options.model_fields)}."
    return f"Option `{option}`: {message}."
