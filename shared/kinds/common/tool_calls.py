"""The tool calls of one choice in, whole or in pieces; the same as clients can read them out. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shared.errors import BadBackendResponse
from shared.kinds.common.answers import dumps

MAX_CALLS = 4096
"""Of one choice: more are nothing a client could answer, and would fill the memory."""

WHOLE_ENDS = frozenset({"stop", "tool_calls", "function_call"})
"""Finish reasons that leave no call cut."""
NO_ARGUMENTS = "{}"
"""Of a call whose tool takes none: clients parse them, and an empty text is no JSON."""

_NONE = object()

Calls = list[dict[str, Any]]


def calls_of(said: Any) -> Any:
    """Return the tool calls of a message or delta, as a list there too: older TGI sends one that stands alone."""
    calls = said.get("tool_calls") if type(said) is dict else None
    if type(calls) is dict:
        calls = said["tool_calls"] = [calls]
    return calls


def mend_whole_calls(calls: Any, job_id: str, *, end: str | None) -> None:
    """Mend the calls of a whole message in place; raises BadBackendResponse for what is no list of calls.

    Args:
        calls: As the backend sent them.
        job_id: What the ids of calls without one are made of.
        end: The choice's finish reason; after some of them a call may have been cut.
    """
    for number, call in enumerate(_checked(calls)):
        if not call.get("id"):
            call["id"] = made_id(job_id, number)
        _mend_beginning(call)
        _mend_arguments(call)
        function = call.get("function")
        if type(function) is dict and not function.get("arguments"):
            function["arguments"] = NO_ARGUMENTS if end in WHOLE_ENDS else ""


def made_id(job_id: str, number: int) -> str:
    """Return an id for a call that its server gave none: without one its result cannot be told to the model."""
    return f"call_{job_id[:24]}{number}"


def _mend_beginning(call: dict[str, Any]) -> None:
    """Say what sort of call it is where the server left that out (Mistral): strict clients tell by it."""
    if not call.get("type"):
        call["type"] = "custom" if "custom" in call and "function" not in call else "function"


def _mend_arguments(call: dict[str, Any]) -> None:
    """Write arguments that came as an object (TGI, some templates) as the text that they are everywhere else."""
    function = call.get("function")
    if type(function) is dict and type(given := function.get("arguments")) in (dict, list):
        function["arguments"] = dumps(given).decode()


def _checked(calls: Any) -> Calls:
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadBackendResponse("The model's backend sent tool calls that are no list of JSON objects.")
    return calls


@dataclass(slots=True)
class ToolCalls:
    """Which call each piece belongs to.

    Clients join pieces by index alone, and some take it for a place in their list. Some servers give none (Gemini's
    compatible endpoint), some give each parallel call index 0 (Ollama), so that two calls would become one of both
    arguments, and some count what else they say (behind Anthropic's models the first call is 1). So ours are 0, 1, 2.
    """

    job_id: str = ""
    """What the ids of calls without one are made of."""

    _last: int = -1
    """The number of the call that the last piece was of."""
    _ids: dict[int, str] = field(default_factory=dict)
    """The id of each call by our number; empty while it has none."""
    _named: set[int] = field(default_factory=set)
    """The numbers of those whose tool was named."""
    _numbers: dict[int, int] = field(default_factory=dict)
    """Our number of the call that a backend's index means now."""
    _running: object = _NONE
    """The backend's index of the last piece, if it gave one."""
    _ours: set[int] = field(default_factory=set)
    """The numbers of those whose id was made here: clients would join a later one to it."""
    _bare: set[int] = field(default_factory=set)
    """The numbers of those that have no arguments yet."""

    def mend(self, calls: object) -> None:
        """Set each piece's index in place; raises BadBackendResponse for what is no list of calls."""
        call = calls[0] if type(calls) is list and len(calls) == 1 else None
        if type(call) is dict and call.get("index") == self._running and not call.get("id"):  # as nearly all are
            call["index"] = self._last
            _mend_arguments(call)
            if self._bare:
                self._note_arguments(call)
            return
        for call in _checked(calls):
            self._mend(call)
            _mend_arguments(call)
            self._note_arguments(call)

    def missing_arguments(self) -> Calls:
        """Return pieces that give arguments to the calls without, for the end of a choice whose calls are whole."""
        bare, self._bare = sorted(self._bare), set()
        return [{"index": number, "function": {"arguments": NO_ARGUMENTS}} for number in bare]

    def _note_arguments(self, call: dict[str, Any]) -> None:
        function = call.get("function")
        if type(function) is dict and function.get("arguments"):
            self._bare.discard(call["index"])

    def _mend(self, call: dict[str, Any]) -> None:
        given, call_id, is_named = call.get("index"), call.get("id"), _is_named(call)
        index = given if type(given) is int and given >= 0 else None
        number = self._number(index, call_id if isinstance(call_id, str) else "", is_named=is_named)
        call["index"] = self._last = number
        if is_named and number not in self._named:
            self._named.add(number)
            if "function" in call:
                self._bare.add(number)
            _mend_beginning(call)
            if not self._ids[number]:
                self._ours.add(number)
                call["id"] = made_id(self.job_id, number)
        elif number in self._ours:
            call.pop("id", None)
        self._running = _NONE if index is None else index

    def _number(self, index: int | None, call_id: str, *, is_named: bool) -> int:
        number = self._last if index is None else self._numbers.get(index, -1)
        if self._is_new(number, call_id, has_index=index is not None, is_named=is_named):
            known = next((of for of, known_id in self._ids.items() if call_id and known_id == call_id), None)
            # An id that is used again under an index of its own is another call's.
            number = known if known is not None and (number >= 0 or index is None) else self._free()
        if index is not None:
            self._numbers[index] = number
        self._ids[number] = self._ids.get(number) or call_id
        return number

    def _is_new(self, number: int, call_id: str, *, has_index: bool, is_named: bool) -> bool:
        """Tell whether a piece is of another call than the one its index, or its place behind the last, points to."""
        if number < 0:
            return True
        if call_id and self._ids[number]:
            return call_id != self._ids[number]
        return not has_index and not call_id and is_named and number in self._named

    def _free(self) -> int:
        if len(self._ids) >= MAX_CALLS:
            raise BadBackendResponse("The model's backend sent too many tool calls.")
        return len(self._ids)


def _is_named(call: dict[str, Any]) -> bool:
    tool = call.get("function") or call.get("custom")
    return isinstance(tool, dict) and bool(tool.get("name"))
