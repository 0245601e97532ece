"""The transformer against everything that backends were seen to do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder
from openai.types.chat import ChatCompletionChunk

from shared.errors import AqueductError, BackendRefused, BadBackendResponse
from shared.jobs import Usage
from shared.kinds.chat.stream import open_stream
from shared.kinds.common import sse, tool_calls
from shared.kinds.common.answers import loads
from tests.kinds.chat.chunks import END, chunk, event, read, run, stream, text, transformer, usage_chunk
from tests.support.rooms import a_spec

ROLE = chunk({"role": "assistant", "content": ""})
HELLO = chunk({"content": "hello"})
STOP = chunk(finish="stop")
LLAMA_CPP = {
    "choices": [{"finish_reason": None, "index": 0, "delta": {"content": "x"}}],
    "created": 1700000000,
    "id": "chatcmpl-backend",
    "model": "meta/Llama",
    "system_fingerprint": "b1",
    "object": "chat.completion.chunk",
}
TRICKY = [
    '{"id":"chatcmpl-backend"}',
    '"usage":{}',
    '"error":',
    "data: [DONE]\n\n",
    '"finish_reason":"x"',
    "\u2028é😀\\",
]
SEPARATORS = [(",", ":"), (", ", ": ")]


@pytest.mark.parametrize("separators", SEPARATORS)
@pytest.mark.parametrize("content", TRICKY)
def test_text_that_looks_like_the_frame_is_untouched(content: str, separators: tuple[str, str]) -> None:
    values = [ROLE, HELLO, chunk({"content": content}), HELLO, STOP]
    assert text(read(run(stream(values, separators)))) == f"hello{content}hello"


@pytest.mark.parametrize("separators", SEPARATORS)
@pytest.mark.parametrize("style", [HELLO, LLAMA_CPP])
def test_identity_is_ours_in_every_chunk(style: dict[str, Any], separators: tuple[str, str]) -> None:
    values = [ROLE, style, style, {**style, "created": 1800000000}, style, {**style, "id": "other"}, STOP]
    chunks = read(run(stream(values, separators)))
    assert len(chunks) == len(values)
    assert {(one["id"], one["created"], one["model"]) for one in chunks} == {("chatcmpl-j1", 1700000000, "llama")}


def test_missing_identity_is_filled_in() -> None:
    bare = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
    (one, _) = read(run(stream([bare, STOP])))
    assert (one["id"], one["object"], one["created"], one["model"]) == (
        "chatcmpl-j1",
        "chat.completion.chunk",
        1,
        "llama",
    )


@pytest.mark.parametrize("given_id", [None, 7, "", 'a"b', "meta/Llama"])
def test_an_odd_identity_of_the_backend_is_replaced_like_any_other(given_id: object) -> None:
    chunks = [{**chunk(delta), "id": given_id} for delta in ({}, {"content": "a"}, {"content": "{}"}, {})]
    chunks[-1]["choices"][0]["finish_reason"] = "stop"
    for missing in (False, True):
        if missing:
            for one in chunks:
                del one["id"]
        seen = read(run(stream(chunks)))
        assert text(seen) == "a{}"
        assert {one["id"] for one in seen} == {"chatcmpl-j1"}


@pytest.mark.parametrize("odd", ["123456789012345678901234567890", "1e-06", "-0.0", '"\\u0041\\/"', '"\\ud83d"'])
def test_values_stay_whatever_their_spelling(odd: str) -> None:
    given = event(HELLO).replace(b'"logprobs":null', b'"logprobs":' + odd.encode())
    chunks = read(run(event(ROLE) + given + stream([STOP])))
    assert repr(chunks[1]["choices"][0]["logprobs"]) == repr(json.loads(odd))


@pytest.mark.parametrize("choice", [None, "a", [], 5])
@pytest.mark.parametrize("earlier", [[], [ROLE, HELLO]])
def test_a_choice_that_is_none_is_the_backends_fault(choice: object, earlier: list[dict[str, Any]]) -> None:
    with pytest.raises(BadBackendResponse, match="choice"):
        run(stream([*earlier, {**chunk(), "choices": [chunk()["choices"][0], choice]}, STOP]))


def test_no_piece_of_an_answer_stays_in_the_parsers_memory() -> None:
    values = [chunk({"content": "unforgettable"}) for _ in range(2)]
    first, second = (loads(json.dumps(one).encode())["choices"][0]["delta"]["content"] for one in values)
    assert first == second
    assert first is not second


def test_tool_call_ids_stay() -> None:
    call = {"index": 0, "id": "chatcmpl-backend", "type": "function", "function": {"name": "f", "arguments": ""}}
    chunks = read(run(stream([ROLE, chunk({"tool_calls": [call]}), chunk(finish="tool_calls")])))
    assert chunks[1]["choices"][0]["delta"]["tool_calls"] == [call]
    after_text = read(run(stream([ROLE, HELLO, HELLO, chunk({"tool_calls": [call]}), STOP])))
    assert after_text[3]["choices"][0]["delta"]["tool_calls"] == [call]
    assert after_text[3]["id"] == "chatcmpl-j1"


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_other_fields_are_dropped_and_line_ends_become_lf(line_end: bytes) -> None:
    noise = b": ping\n\nretry: 3000\n\nid: 7\nevent: message\n"
    data = noise + event(ROLE) + b": x\n" + event(HELLO) + noise + stream([STOP])
    assert run(data.replace(b"\n", line_end)) == run(stream([ROLE, HELLO, STOP]))


def test_missing_space_and_many_data_lines_are_read() -> None:
    halves = event(HELLO).replace(b"data: {", b"data:{").replace(b',"choices"', b',\ndata: "choices"')
    assert text(read(run(halves + stream([STOP])))) == "hello"


@pytest.mark.parametrize("cuts", [(), range(600)])
def test_events_divided_by_a_single_line_end_are_read(cuts: Iterable[int]) -> None:
    data = stream([ROLE, HELLO, chunk({"content": "{\n}"}), HELLO, STOP])
    assert run(data.replace(b"\n\n", b"\n"), cuts=cuts) == run(data)
    assert run(data.replace(b"\n\n", b"\r\n") + b"\r\n", cuts=cuts) == run(data)


def test_nothing_leaves_before_content() -> None:
    subject = transformer()
    assert subject.feed(event(ROLE)) == b""
    assert subject.feed(event(chunk({"content": "", "reasoning_content": None}))) == b""
    assert [one["choices"][0]["delta"] for one in read(subject.feed(event(HELLO)))][::2] == [
        {"role": "assistant", "content": ""},
        {"content": "hello"},
    ]


@pytest.mark.parametrize(
    "delta", [{"reasoning_content": "x"}, {"refusal": "x"}, {"tool_calls": [{"index": 0}]}, {"audio": {"id": "a"}}]
)
def test_any_content_opens_the_stream(delta: dict[str, Any]) -> None:
    subject = transformer()
    subject.feed(event(ROLE))
    assert len(read(subject.feed(event(chunk(delta))))) == 2


def test_endless_empty_chunks_are_not_kept() -> None:
    subject = transformer()
    for _ in range(1000):
        assert subject.feed(event(chunk({"content": ""}))) == b""
    assert len(read(subject.feed(event(HELLO)))) <= 65


def test_choice_0_comes_first() -> None:
    values = [chunk({"role": "assistant"}, index=1), chunk({"content": "b"}, index=1), ROLE, HELLO]
    chunks = read(run(stream([*values, STOP, chunk(finish="length", index=1)])))
    assert [one["choices"][0]["index"] for one in chunks] == [0, 1, 1, 0, 0, 1]
    assert (text(chunks, 0), text(chunks, 1)) == ("hello", "b")


def test_choices_inside_one_chunk_are_sorted() -> None:
    both = {**HELLO, "choices": [chunk({"content": "b"}, index=1)["choices"][0], HELLO["choices"][0]]}
    (first, *_) = read(run(stream([both, STOP, chunk(finish="stop", index=1)])))
    assert [choice["index"] for choice in first["choices"]] == [0, 1]


def test_waiting_for_choice_0_is_bounded() -> None:
    subject = transformer()
    out = [subject.feed(event(chunk({"content": "b"}, index=1))) for _ in range(64)]
    assert not any(out[:-1])
    assert len(read(out[-1])) == 64


def test_a_second_choice_that_never_ends_is_noticed() -> None:
    values = [ROLE, HELLO, HELLO, chunk({"content": "b"}, index=1), HELLO, STOP]
    with pytest.raises(BadBackendResponse):
        run(b"".join(map(event, values)))


@pytest.mark.parametrize("separators", SEPARATORS)
def test_usage_is_counted_but_not_sent_unasked(separators: tuple[str, str]) -> None:
    values = [{**one, "usage": None} for one in (ROLE, HELLO, HELLO, STOP)]
    subject = transformer()
    usage = usage_chunk(prompt_tokens_details={"cached_tokens": 1})
    out = (
        subject.feed(stream([*values, {**usage, "timings": {"ms": 1}}], separators)) + subject.finish()
    ).removesuffix(END)
    assert subject.usage == Usage(3, 2, 5, cached_tokens=1)
    assert b'"usage"' not in out
    *earlier, timings = read(out)
    assert [len(one["choices"]) for one in earlier] == [1, 1, 1, 1]
    assert (timings["choices"], timings["timings"], timings["id"]) == ([], {"ms": 1}, "chatcmpl-j1")


@pytest.mark.parametrize("further", [{}, {"timings": None}, {"system_fingerprint": "f", "service_tier": "t"}])
def test_a_usage_chunk_with_nothing_beside_its_usage_stays_here(further: dict[str, Any]) -> None:
    assert all(one["choices"] for one in read(run(stream([ROLE, HELLO, STOP, {**usage_chunk(), **further}]))))


def test_what_stands_beside_asked_for_usage_comes_with_it_and_once() -> None:
    chunks = read(run(stream([ROLE, HELLO, STOP, {**usage_chunk(), "timings": {"ms": 1}}]), include_usage=True))
    assert [one.get("timings") for one in chunks] == [None, None, None, {"ms": 1}]
    assert chunks[-1]["usage"]["total_tokens"] == 5


@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize("continuous", [True, False, "yes"])
def test_usage_in_each_chunk_stays_where_it_was_asked_for(include_usage: bool, continuous: object) -> None:
    counts = usage_chunk()["usage"]
    values = [{**one, "usage": {**counts, "total_tokens": n}} for n, one in enumerate((ROLE, HELLO, STOP), 2)]
    options = {"include_usage": include_usage, "stream_options": {"continuous_usage_stats": continuous}}
    subject = open_stream(a_spec(options=options), "j1")
    *chunks, end = read((subject.feed(stream([*values, usage_chunk()])) + subject.finish()).removesuffix(END))
    if include_usage and continuous is True:
        assert [one["usage"]["total_tokens"] for one in chunks] == [2, 3, 4]
    else:
        assert not any(one.get("usage") for one in chunks)
    assert (end.get("usage") is not None) is include_usage


@pytest.mark.parametrize("choices", [ROLE["choices"], []])
def test_the_progress_of_a_prompt_is_told_at_once(choices: list[Any]) -> None:
    subject = transformer()
    for number in range(100):
        progress = {"total": 100, "processed": number}
        (told,) = read(subject.feed(event({**ROLE, "choices": choices, "prompt_progress": progress})))
        assert told["prompt_progress"] == progress
    assert text(read(subject.feed(stream([HELLO, STOP])))) == "hello"


def test_what_a_server_adds_to_its_first_empty_chunk_does_not_open_the_stream() -> None:
    subject = transformer()
    assert subject.feed(event({**ROLE, "x_groq": {"id": "r"}, "provider": "p", "prompt_progress": None})) == b""


def test_usage_chunk_comes_last_when_asked() -> None:
    values = [{**one, "usage": None} for one in (ROLE, HELLO, HELLO, STOP)]
    chunks = read(run(stream([*values, usage_chunk()]), include_usage=True))
    assert [one["usage"] for one in chunks[:-1]] == [None] * 4
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 5
    assert chunks[-1]["id"] == "chatcmpl-j1"


@pytest.mark.parametrize("include_usage", [True, False])
def test_usage_beside_choices_moves_to_its_own_chunk(include_usage: bool) -> None:
    counts = usage_chunk()["usage"]
    values = [{**one, "usage": {**counts, "total_tokens": n}} for n, one in enumerate((ROLE, HELLO, HELLO, STOP), 2)]
    chunks = read(run(stream(values), include_usage=include_usage))
    assert all(one.get("usage") is None for one in chunks if one["choices"])
    assert [one["usage"]["total_tokens"] for one in chunks if not one["choices"]] == ([5] if include_usage else [])


def test_no_usage_is_invented() -> None:
    assert b"usage" not in run(stream([ROLE, HELLO, STOP]), include_usage=True)


def test_a_model_called_usage_survives() -> None:
    values = [{**one, "model": "usage"} for one in (ROLE, HELLO, HELLO, STOP)]
    assert text(read(run(stream(values)))) == "hellohello"


@pytest.mark.parametrize(
    ("given_reason", "public"),
    [
        ("stop", "stop"), ("length", "length"), ("tool_calls", "tool_calls"), ("content_filter", "content_filter"),
        ("function_call", "function_call"), ("eos", "stop"), ("end_turn", "stop"), ("max_tokens", "length"),
        ("tool_use", "tool_calls"), ("safety", "content_filter"), ("whatever", "stop"), ("MAX_TOKENS", "length"),
        ("model_context_window_exceeded", "length"), ("model_length", "length"), ("sensitive", "content_filter"),
    ],
)  # fmt: skip
def test_only_public_finish_reasons_leave(given_reason: str, public: str) -> None:
    subject = transformer()
    out = (subject.feed(stream([ROLE, HELLO, chunk(finish=given_reason)])) + subject.finish()).removesuffix(END)
    assert read(out)[-1]["choices"][0]["finish_reason"] == public
    assert subject.finish_reasons == {0: public}


def test_empty_finish_reason_is_null() -> None:
    chunks = read(run(stream([ROLE, chunk({"content": "a"}, finish=""), chunk({"content": "b"}, finish=""), STOP])))
    assert [one["choices"][0]["finish_reason"] for one in chunks] == [None, None, None, "stop"]


@pytest.mark.parametrize(
    "reason", ["abort", "cancelled", "error", "network_error", "insufficient_system_resource", "Network-Error"]
)
def test_an_aborted_answer_is_an_error(reason: str) -> None:
    with pytest.raises(BadBackendResponse, match="aborted"):
        run(stream([ROLE, chunk(finish=reason)]))


ERRORS = [
    (event({"error": {"message": "boom", "type": "x", "code": 429}}), 429),
    (event({"error": {"message": "boom", "code": "c"}}), 500),
    (event({"error": "boom"}), 500),
    (event({"object": "error", "message": "boom", "code": 400}), 400),
    (b"event: error\n" + event({"message": "boom"}), 500),
    (b'error: {"code":503,"message":"boom"}\n\n', 503),
    (b'{"error":{"message":"boom","code":400}}', 400),
]


@pytest.mark.parametrize(("data", "status"), ERRORS)
def test_errors_inside_the_stream_are_raised(data: bytes, status: int) -> None:
    with pytest.raises(AqueductError, match="boom") as caught:
        run(event(ROLE) + data)
    assert caught.value.status == status
    assert caught.value.code is None or isinstance(caught.value.code, str)


@pytest.mark.parametrize(("data", "status"), ERRORS[:-1])
def test_good_events_before_an_error_are_not_lost(data: bytes, status: int) -> None:
    subject = transformer()
    assert text(read(subject.feed(event(ROLE) + event(HELLO) + event(HELLO) + data + event(HELLO)))) == "hellohello"
    assert subject.done
    with pytest.raises(AqueductError) as caught:
        subject.finish()
    assert caught.value.status == status


@pytest.mark.parametrize(
    "data",
    [
        b"data: nonsense\n\n",
        b"data: {\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(BadBackendResponse):
        run(data + stream([STOP]))


@pytest.mark.parametrize(("broken", "read_as"), [(b"\xc3(", "\ufffd("), (b"\xff", "\ufffd"), (b"\xf0\x9f", "\ufffd")])
def test_a_broken_byte_costs_a_character_and_not_the_answer(broken: bytes, read_as: str) -> None:
    data = event(ROLE) + event(HELLO) + event(HELLO).replace(b"hello", broken) + stream([HELLO, STOP])
    assert text(read(run(data))) == f"hello{read_as}hello"


@pytest.mark.parametrize("beside", ["x", "\ud83d"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_json_does_not_know_becomes_null(number: str, beside: str) -> None:
    assert read_token(number, beside)["score"] is None


@pytest.mark.parametrize("beside", ["x", "\ud83d"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_logprob_is_a_number_whatever_json_knows(number: str, beside: str) -> None:
    token = read_token(number, beside)
    assert [one["logprob"] for one in (token, *token["top_logprobs"])] == [-9999.0, -0.5, -9999.0]


def read_token(number: str, beside: str) -> dict[str, Any]:
    """Return what is read of a token with these numbers."""
    top = [{"token": "x", "logprob": -0.5}, {"token": "y", "logprob": "@"}]
    one = chunk({"content": beside})
    one["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": "@", "score": "@", "top_logprobs": top}]}
    data = event(ROLE) + json.dumps(one).encode().join((b"data: ", b"\n\n")).replace(b'"@"', number.encode())
    out = run(data + stream([STOP]))
    chunks = [json.loads(line[6:], parse_constant=pytest.fail) for line in out.split(b"\n\n") if line]
    token: dict[str, Any] = chunks[1]["choices"][0]["logprobs"]["content"][0]
    return token


@pytest.mark.parametrize(
    "data",
    [b"", b": ping\n\n", b"data: [DONE]\n\n", event(ROLE), stream([ROLE]), event(ROLE) + event(HELLO),
     event(ROLE) + event(HELLO) + event(STOP)[:-40], b'{"object":"chat.completion","choices":[]}'],
)  # fmt: skip
def test_a_stream_that_ended_early_is_an_error(data: bytes) -> None:
    with pytest.raises(BadBackendResponse):
        run(data)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n", b"\n\ndata: [DONE]", b"\n\n: bye"])
def test_a_complete_answer_needs_no_done(end: bytes) -> None:
    data = event(ROLE) + event(HELLO) + event(STOP)[:-2] + end
    assert [one["choices"][0]["finish_reason"] for one in read(run(data))] == [None, None, "stop"]


@pytest.mark.parametrize("include_usage", [True, False])
def test_text_and_done_without_finish_reason_have_stopped(include_usage: bool) -> None:
    values = [ROLE, HELLO, chunk({"content": "b"}, index=1), chunk(finish="length", index=1)]
    seen = read(run(stream([*values, usage_chunk()]), include_usage=include_usage))
    chunks = [one for one in seen if one["choices"]]
    ChatCompletionChunk.model_validate(chunks[-1])
    assert [one["choices"][0]["finish_reason"] for one in chunks] == [None, None, None, "length", "stop"]
    assert chunks[-1]["choices"][0]["index"] == 0
    assert (seen[-1]["choices"] == []) is include_usage


@pytest.mark.parametrize(
    "delta",
    [{"content": ""}, {"reasoning_content": "x"}, {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]}],
)
def test_done_proves_no_end_where_there_is_no_text(delta: dict[str, Any]) -> None:
    with pytest.raises(BadBackendResponse, match="before the answer was complete"):
        run(stream([ROLE, chunk(delta)]))


def test_text_before_tool_calls_that_were_told_complete_ends_as_tool_calls() -> None:
    chunks = read(run(stream([ROLE, HELLO, chunk({"tool_calls": [_piece("{}", "f", index=0, id="a")]})])))
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_an_unknown_finish_reason_proves_no_end() -> None:
    with pytest.raises(BadBackendResponse, match="before the answer was complete"):
        run(event(ROLE) + event(HELLO) + event(chunk(finish="whatever")))


@pytest.mark.parametrize("created", [1746709563.49, "1746709563"])
def test_created_is_a_whole_number(created: object) -> None:
    assert {one["created"] for one in read(run(stream([{**HELLO, "created": created}, STOP])))} == {1746709563}


def _calls_of(*pieces: list[dict[str, Any]]) -> list[tuple[int, str | None, str]]:
    """Return index, id and arguments of each piece that the client gets."""
    values = [ROLE, *(chunk({"tool_calls": calls}) for calls in pieces), chunk(finish="tool_calls")]
    chunks = read(run(stream(values)))
    for one in chunks:
        ChatCompletionChunk.model_validate(one)
    found = [call for one in chunks for call in one["choices"][0]["delta"].get("tool_calls", ())]
    return [(call["index"], call.get("id"), call["function"]["arguments"]) for call in found]


def _piece(arguments: str, name: str | None = None, **rest: Any) -> dict[str, Any]:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {**rest, "function": function}


def test_calls_of_one_index_and_two_ids_are_renumbered() -> None:
    seen = _calls_of(
        [_piece('{"p"', "f", index=0, id="a")], [_piece(":1}", index=0)], [_piece('{"p":2}', "f", index=0, id="b")],
        [_piece(" ", index=0)], [_piece("{}", "g", index=1, id="c")],
        [_piece(" ", index=0, id="a"), _piece("", index=1)], [_piece(" ", index=0, id="")],
    )  # fmt: skip
    assert [number for number, _, _ in seen] == [0, 0, 1, 1, 2, 0, 2, 0]


def test_calls_of_one_index_in_one_chunk_are_renumbered() -> None:
    seen = _calls_of([_piece("1", "f", index=0, id="a"), _piece("2", "f", index=0, id="b")])
    assert seen == [(0, "a", "1"), (1, "b", "2")]


@pytest.mark.parametrize("index", [{}, {"index": None}, {"index": "x"}, {"index": -1}, {"index": True}])
def test_calls_without_an_index_get_one(index: dict[str, Any]) -> None:
    seen = _calls_of(
        [_piece("1", "f", id="a", **index)], [_piece("1", **index)], [_piece("2", "f", id="b", **index)],
        [_piece("2", **index)], [_piece("1", id="a", **index)],
    )  # fmt: skip
    assert [number for number, _, _ in seen] == [0, 0, 1, 1, 0]


def test_whole_calls_with_neither_index_nor_id_are_told_apart_by_their_names() -> None:
    seen = _calls_of([_piece("1", "f"), _piece("2", "f", id="")], [_piece("3", "g")])
    assert [number for number, _, _ in seen] == [0, 1, 2]


def test_indexes_that_tell_calls_apart_are_counted_from_zero_even_with_one_id() -> None:
    seen = _calls_of(
        [_piece("1", "f", index=1, id="x")], [_piece("2", "f", index=4, id="x")], [_piece("1", index=1, id="x")]
    )
    assert [number for number, _, _ in seen] == [0, 1, 0]


def _functions_of(*pieces: Any) -> list[dict[str, Any]]:
    """Return each piece that the client gets, whole."""
    values = [ROLE, *(chunk({"tool_calls": calls}) for calls in pieces), chunk(finish="tool_calls")]
    return [call for one in read(run(stream(values))) for call in one["choices"][0]["delta"].get("tool_calls", ())]


def test_a_call_that_stands_alone_is_one_of_a_list() -> None:
    (call,) = _functions_of(_piece("{}", "f", index=0, id="a"))
    assert (call["id"], call["index"]) == ("a", 0)


def test_a_call_begins_with_its_sort_and_an_id_if_its_server_gave_none() -> None:
    first, second, custom = _functions_of(
        [_piece("{", "f", index=0, id="")], [_piece("}", index=0)], [{"index": 1, "id": "b", "custom": {"name": "g"}}]
    )
    assert (first["type"], second.get("type"), custom["type"]) == ("function", None, "custom")
    assert first["id"].startswith("call_")
    assert (second.get("id"), custom["id"]) == (None, "b")


def test_an_id_that_comes_after_one_of_ours_is_not_joined_to_it() -> None:
    seen = _functions_of([_piece("{", "f", index=0)], [_piece("}", index=0, id="late")], [_piece("1", "g", index=1)])
    ids = [call.get("id") for call in seen]
    assert ids[1] is None
    assert ids[0] != ids[2]


def test_arguments_as_an_object_become_text() -> None:
    seen = _functions_of(
        [{"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": "ü"}}}],
        [{"index": 0, "function": {"arguments": []}}],
    )
    assert [call["function"]["arguments"] for call in seen] == ['{"x":"ü"}', "[]"]


@pytest.mark.parametrize("place", ["choice", "x_groq"])
def test_usage_that_stands_elsewhere_is_told_where_it_belongs(place: str) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    last = {**STOP, "x_groq": {"usage": usage}} if place == "x_groq" else chunk(finish="stop")
    if place == "choice":
        last["choices"][0]["usage"] = usage
    subject = transformer(include_usage=True)
    chunks = read((subject.feed(stream([HELLO, last])) + subject.finish()).removesuffix(END))
    assert (subject.usage, chunks[-1]["choices"], chunks[-1]["usage"]) == (Usage(3, 2, 5), [], usage)


def test_an_unfinished_choice_says_null_where_its_server_says_nothing() -> None:
    def bare(content: str) -> dict[str, Any]:
        return {**chunk(), "choices": [{"index": 0, "delta": {"content": content}}]}

    chunks = read(run(stream([bare("a"), bare("b"), bare("c"), STOP])))
    assert [one["choices"][0]["finish_reason"] for one in chunks] == [None, None, None, "stop"]


def test_a_choice_behind_its_end_says_null_too() -> None:
    late = {**chunk(), "choices": [{"index": 0, "delta": {}}]}
    chunks = read(run(stream([HELLO, STOP, late])))
    assert [one["choices"][0]["finish_reason"] for one in chunks] == [None, "stop", None]


@pytest.mark.parametrize("bare", [{}, {"delta": None}, {"finish_reason": None, "message": None}])
def test_a_choice_without_a_delta_has_an_empty_one(bare: dict[str, Any]) -> None:
    late = {**chunk(), "choices": [{"index": 0, **bare, "content_filter_results": {"hate": {"filtered": False}}}]}
    chunks = read(run(stream([ROLE, late, HELLO, late, STOP, late])))
    assert [one["choices"][0]["delta"] for one in chunks if "content_filter_results" in one["choices"][0]] == [{}] * 3
    assert text(chunks) == "hello"


@pytest.mark.parametrize("given", [{}, {"role": None}, {"role": ""}])
def test_the_first_delta_of_a_choice_says_who_speaks(given: dict[str, Any]) -> None:
    beginnings = [chunk({**given, "content": "a"}), chunk({**given, "content": "b"}, index=1)]
    chunks = read(run(stream([*beginnings, STOP, chunk(finish="stop", index=1)])))
    assert [one["choices"][0]["delta"].get("role") for one in chunks] == ["assistant", "assistant", None, None]


def test_an_empty_role_is_none() -> None:
    chunks = read(run(stream([ROLE, chunk({"role": "", "content": "a"}), chunk({"role": ""}), STOP])))
    assert [one["choices"][0]["delta"].get("role") for one in chunks] == ["assistant", None, None, None]


def a_bare_call(index: int, **function: Any) -> dict[str, Any]:
    return {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": "f", **function}}


@pytest.mark.parametrize("given", [{}, {"arguments": ""}, {"arguments": None}])
def test_a_call_of_a_tool_that_takes_nothing_has_arguments_all_the_same(given: dict[str, Any]) -> None:
    calls = [a_bare_call(0, **given), a_bare_call(1, arguments=""), a_bare_call(2, **given)]
    late = [{"index": 1, "function": {"arguments": '{"a":1}'}}]
    out = run(stream([chunk({"tool_calls": calls}), chunk({"tool_calls": late}), chunk({}, finish="tool_calls")]))
    assert arguments(out) == {0: "{}", 1: '{"a":1}', 2: "{}"}


def test_arguments_that_were_cut_are_not_made_up() -> None:
    out = run(stream([chunk({"tool_calls": [a_bare_call(0, arguments="")]}), chunk({}, finish="length")]))
    assert arguments(out) == {0: ""}


def arguments(out: bytes) -> dict[int, str]:
    """Return what a client joins of each call's arguments."""
    joined: dict[int, str] = {}
    for one in read(out):
        for call in one["choices"][0]["delta"].get("tool_calls") or ():
            given = call["function"].get("arguments") or ""
            joined[call["index"]] = joined.get(call["index"], "") + given
    return joined


@pytest.mark.parametrize("given", [{"total_tokens": 30}, {"total_tokens": 30.0, "prompt_tokens": None}])
def test_usage_has_its_three_counts(given: dict[str, Any]) -> None:
    last = {**chunk(), "choices": [], "usage": {**given, "total_characters": 0}}
    out = run(stream([HELLO, STOP, last]), include_usage=True)
    usage = read(out)[-1]["usage"]
    assert repr(usage["total_tokens"]) == "30"
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_characters"]) == (0, 0, 0)


def test_a_finish_reason_may_say_more_behind_a_colon() -> None:
    chunks = read(run(stream([HELLO, chunk(finish="content_filter: PROHIBITED_CONTENT")])))
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"


def test_endless_tool_calls_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_calls, "MAX_CALLS", 3)
    with pytest.raises(BadBackendResponse, match="too many tool calls"):
        _calls_of([_piece("", "f", index=0, id=str(number)) for number in range(4)])


@pytest.mark.parametrize("calls", [5, "x", [5], [{"id": "a"}, None]])
@pytest.mark.parametrize("earlier", [[], [chunk({"tool_calls": [{"index": 0, "id": "a"}]})]])
def test_tool_calls_that_are_none_are_the_backends_fault(calls: object, earlier: list[dict[str, Any]]) -> None:
    with pytest.raises(BadBackendResponse, match="tool calls"):
        run(stream([*earlier, chunk({"tool_calls": calls}), STOP]))


@pytest.mark.parametrize("index", [None, "0", 0.0, False, -1, [0]])
def test_a_choice_has_a_whole_index(index: object) -> None:
    values = [chunk({"content": "a"}, index=index), chunk(finish="stop", index=index)]  # type: ignore[arg-type]
    assert [one["choices"][0]["index"] for one in read(run(stream(values)))] == [0, 0]


def test_choices_without_an_index_are_told_apart_by_their_place() -> None:
    def both(**rest: Any) -> dict[str, Any]:
        return {**chunk(), "choices": [{"delta": {"content": letter}, **rest} for letter in "ab"]}

    chunks = read(run(stream([both(), both(finish_reason="stop")])))
    assert (text(chunks, 0), text(chunks, 1)) == ("aa", "bb")


def test_events_that_are_no_chunks_are_dropped() -> None:
    odd = [{"type": "ping"}, [1], "x", {**chunk(), "choices": []}]
    assert len(read(run(stream([*odd, ROLE, HELLO, *odd, HELLO, STOP])))) == 4


@pytest.mark.parametrize("opening", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n\r\n", b" \n\n"])
@pytest.mark.parametrize("cuts", [(), (1,), (2,), (3,), (4,), (1, 2, 3)])
def test_a_byte_order_mark_costs_no_event_however_it_is_cut(opening: bytes, cuts: tuple[int, ...]) -> None:
    data = stream([chunk({"role": "assistant", "content": "Hel"}), chunk({"content": "lo"}), STOP])
    assert run(opening + data, cuts=cuts) == run(data)


WHOLE = {
    "id": "x",
    "object": "chat.completion",
    "created": "5",
    "model": "b",
    "choices": [
        {
            "message": {
                "role": "assistant",
                "content": "hi",
                "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            "finish_reason": "tool_use",
        },
        {"index": 1, "message": {"role": "assistant", "content": "a\n\nb"}, "finish_reason": None},
    ],
    "usage": usage_chunk()["usage"],
}


@pytest.mark.parametrize("end", [b"", b"\n\n", b"data: [DONE]\n\n", b"\r\n[DONE]"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("cuts", [(), range(400)])
def test_a_whole_answer_to_a_stream_request_becomes_a_stream(
    end: bytes, indent: int | None, cuts: Iterable[int]
) -> None:
    body = json.dumps(WHOLE, indent=indent).encode().replace(b"\n", b"\n\n") + end
    first, last, usage = read(run(body, include_usage=True, cuts=cuts))
    for one in (first, last, usage):
        ChatCompletionChunk.model_validate(one)
        assert (one["id"], one["object"], one["created"]) == ("chatcmpl-j1", "chat.completion.chunk", 5)
    one, two = first["choices"]
    assert (one["index"], one["delta"]["content"], one["finish_reason"]) == (0, "hi", "tool_calls")
    assert [call["index"] for call in one["delta"]["tool_calls"]] == [0]
    assert (two["index"], two["delta"]["content"], two["finish_reason"]) == (1, "a\n\nb", None)
    assert [(choice["index"], choice["finish_reason"]) for choice in last["choices"]] == [(1, "stop")]
    assert usage["usage"]["total_tokens"] == 5


def test_tool_calls_of_a_whole_answer_without_finish_reason_are_whole() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body = {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [call]}}]}
    first, last = read(run(json.dumps(body).encode()))
    assert first["choices"][0]["delta"]["tool_calls"] == [{**call, "index": 0}]
    assert last["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "body", [b"{}", b'{"choices":[]}', b'{"choices":[{"message":{"content":""}}]}', b'{"choices":[{"mess', b"{" * 9]
)
def test_a_document_that_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(BadBackendResponse):
        run(body)


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    subject = transformer()
    for _ in range(10):
        assert subject.feed(b"x" * 100) == b""
    with pytest.raises(BadBackendResponse, match="too long"):
        subject.feed(b"x")


def test_a_refusal_keeps_status_and_code() -> None:
    error = {"error": {"message": "maximum context length is 10", "type": "BadRequestError", "code": 400}}
    with pytest.raises(BackendRefused) as caught:
        run(event(error))
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "context_length_exceeded", "messages")


_CONTENT = st.one_of(st.text(max_size=20), st.sampled_from(TRICKY))
_VALUE = st.one_of(
    _CONTENT.map(lambda content: chunk({"content": content})),
    _CONTENT.map(lambda content: {**chunk({"content": content}), "usage": None}),
    _CONTENT.map(lambda content: {**chunk({"content": content}), "created": 1700000001}),
    _CONTENT.map(lambda content: chunk({"content": content}, index=1)),
    _CONTENT.map(lambda content: {**usage_chunk(), "choices": chunk({"content": content})["choices"]}),
    st.just(usage_chunk()),
    st.just(chunk(finish="eos")),
)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(_VALUE, max_size=10),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
    separators=st.sampled_from(SEPARATORS),
    line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    include_usage=st.booleans(),
)
def test_output_does_not_depend_on_the_cuts(
    values: list[dict[str, Any]], cuts: list[int], separators: tuple[str, str], line_end: bytes, include_usage: bool
) -> None:
    values = [ROLE, *values, chunk(finish="stop"), chunk(finish="length", index=1)]
    data = stream(values, separators).replace(b"\n", line_end)
    whole = run(data, include_usage=include_usage)
    assert run(data, include_usage=include_usage, cuts=cuts) == whole
    assert run(data, include_usage=include_usage, cuts=range(len(data))) == whole
    chunks = [
        ChatCompletionChunk.model_validate(json.loads(one.data)) for one in SSEDecoder().iter_bytes(iter([whole]))
    ]
    assert {(one.id, one.created, one.model, one.object) for one in chunks} == {
        ("chatcmpl-j1", 1700000000 if values[1].get("created") else 1, "llama", "chat.completion.chunk")
    }
    assert [text(read(whole), index) for index in (0, 1)] == [text(values, index) for index in (0, 1)]
    assert sum(not one.choices for one in chunks) == (include_usage and any(one.get("usage") for one in values))


def test_the_tier_is_ours_in_every_chunk_where_one_was_asked_for_and_in_none_otherwise() -> None:
    values = [{**one, "service_tier": "default"} for one in (ROLE, HELLO, STOP, usage_chunk())]
    for tier in ("flex", None):
        made = open_stream(a_spec(tier=tier, options={"include_usage": True}), "j1")
        chunks = read((made.feed(stream(values)) + made.finish()).removesuffix(END))
        assert len(chunks) == len(values)
        assert [one.get("service_tier") for one in chunks] == [tier] * len(values)
        assert all(("service_tier" in one) is (tier is not None) for one in chunks)
