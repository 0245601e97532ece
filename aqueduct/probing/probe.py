"""What a backend refuses or does otherwise, and which switch of its settings helps: real requests of one token each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import httpx

from aqueduct.probing.asking import PROBE_SECONDS, Asker, Told
from aqueduct.probing.lookup import headers_of, label_of, other_url, refused_key, shown, unreachable
from aqueduct.probing.shape import mended
from shared.backend_parameters import TOKEN_LIMITS, ParameterSettings
from shared.backend_settings import BackendSettings
from shared.redis_checks import Check
from shared.settings import ModelSettings

USUAL: Final[dict[str, Any]] = {
    **{"temperature": 1, "top_p": 1, "n": 1, "seed": 1, "user": "aqueduct-check", "presence_penalty": 0},
    **{"frequency_penalty": 0, "logprobs": False, "service_tier": "auto", "store": False, "stop": ["\n\n\n"]},
}
"""What clients send often, with values that change nothing."""
IGNORED_FROM_TOKENS: Final = 8
"""Tokens of an answer that was to have one."""


def probe(public_name: str, model: ModelSettings, backend: BackendSettings) -> list[Check]:
    """Return what is found. It costs four requests of a token each, and a dozen more where something is refused."""
    asker = Asker(public_name, model, backend)
    name = label_of(public_name, backend)
    found: list[Check] = []
    try:
        with asker.client:
            found.extend(_Probe(name, asker).findings())  # each as it comes: an error hides none
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
        found.append(unreachable(name, error, PROBE_SECONDS))
    return found or [Check(name, "ok", "probed: answers chat, whole and streamed, with the usual parameters")]


class _Probe:
    def __init__(self, name: str, asker: Asker) -> None:
        self._name = name
        self._asker = asker
        self._backend = asker.backend
        self._limit = self._backend.max_tokens_field or TOKEN_LIMITS[0]

    def findings(self) -> Iterator[Check]:
        plain = self._ask()
        if plain.is_refused and (told := self._refused_limit(plain)) is not None:
            yield told
            self._limit = next(field for field in TOKEN_LIMITS if field != self._limit)
            plain = self._ask()
        elif plain.is_good:
            yield from self._limits(plain)
        if not plain.is_good:
            yield self._refused(plain)
            return
        yield from self._form(plain)
        yield from self._streams()
        yield from self._usual()

    def _ask(self, *, backend: BackendSettings | None = None, limit: str = "", **more: Any) -> Told:
        more[limit or self._limit] = 1
        return self._asker.ask(backend=backend, **more)

    def _warn(self, message: str, fix: str) -> Check:
        return Check(self._name, "warn", message, fix)

    def _fail(self, message: str, fix: str) -> Check:
        return Check(self._name, "fail", message, fix)

    # --- the first request is refused ---------------------------------------------------------------------------------

    def _refused_limit(self, plain: Told) -> Check | None:
        """Tell whether it is the name of the limit of tokens that is refused."""
        other = next(field for field in TOKEN_LIMITS if field != self._limit)
        switched = self._backend.but(max_tokens_field=other)
        if not self._ask(backend=switched).is_good:
            return None
        self._backend = self._asker.backend = switched
        return self._fail(f"refuses {self._limit} ({plain.status})", f"set max_tokens_field: {other}")

    def _refused(self, plain: Told) -> Check:
        status = plain.status
        if status in (401, 403):
            return refused_key(self._name, self._backend, status)
        if status in (404, 405) or plain.is_refused:
            return self._other_kind() or self._no_model(plain) or self._other_way(plain)
        if 300 <= status < 400:
            return self._fail(f"answered {status}, a redirect", "set url to where it leads; workers follow none")
        if status == 429:
            return self._warn("answered 429: over its rate limit", "probe it again later")
        return self._fail(f"answered {status} to a chat request: {plain.reason}", "see its own log")

    def _other_kind(self) -> Check | None:
        for kind in ("embeddings", "completions"):
            parameters: dict[str, Any] = {} if kind == "embeddings" else {"max_tokens": 1}
            if self._asker.ask(kind, **parameters).is_good:
                return Check(self._name, "ok", f"probed: answers {kind}, and no chat")
        return None

    def _no_model(self, plain: Told) -> Check | None:
        wanted = str(plain.sent["model"])
        is_meant = plain.error is not None and plain.error.param == "model"
        is_named = wanted.encode() in plain.body or b"model_not_found" in plain.body
        if not is_meant and (plain.is_refused or not is_named):
            return None
        return self._fail(f"does not know the model {wanted!r} ({plain.status})", f"set `model:` to {self._models()}")

    def _models(self) -> str:
        answer = self._asker.client.get(f"{self._backend.url}/models", headers=headers_of(self._backend))
        try:
            listed = [str(model["id"]) for model in answer.json()["data"]][:5]
        except (ValueError, KeyError, TypeError):
            listed = []
        return f"one that it lists: {', '.join(map(repr, listed))}" if listed else "the backend's own name"

    def _other_way(self, plain: Told) -> Check:
        """Tell of a path that is not there, or of a request that is wrong, which may be of our own making."""
        if not plain.is_refused:
            moved = self._backend.but(url=other_url(self._backend.url))
            if self._ask(backend=moved).status not in (404, 405):
                return self._fail(f"answered {plain.status} to /chat/completions", f"set url: {shown(moved.url)}")
            fix = "see whether the url is that of an OpenAI-compatible server; most end in /v1"
            return self._fail(f"answered {plain.status} to /chat/completions", fix)
        bare = self._backend.but(parameters=ParameterSettings(), by_lane={})
        if self._backend.changed_names and self._ask(backend=bare).is_good:
            blamed = plain.blames(sorted(self._backend.changed_names)) or sorted(self._backend.changed_names)
            message = f"refuses what parameters or by_lane add ({plain.status}): {plain.reason}"
            return self._fail(message, f"take out {', '.join(blamed)}")
        return self._fail(f"refuses a plain chat request ({plain.status}): {plain.reason}", "see its own log")

    # --- it is answered -----------------------------------------------------------------------------------------------

    def _limits(self, plain: Told) -> Iterator[Check]:
        """Try the other name of the limit, where clients' own is passed on."""
        if self._backend.changed_names & {*TOKEN_LIMITS}:
            return
        if self._backend.max_tokens_field is not None:
            if _ignores(plain):
                other = next(field for field in TOKEN_LIMITS if field != self._limit)
                message = f"ignores {self._limit}: {plain.answer_tokens} tokens where 1 was asked for"
                yield self._warn(message, f"try max_tokens_field: {other}")
            return
        told = {self._limit: plain, TOKEN_LIMITS[1]: self._ask(limit=TOKEN_LIMITS[1])}
        good = [field for field, one in told.items() if one.is_good and not _ignores(one)]
        for field, one in told.items():
            if one.is_refused:
                yield self._warn(f"refuses {field} ({one.status})", f"set max_tokens_field: {self._limit}")
            elif _ignores(one) and good:
                message = f"ignores {field}: {one.answer_tokens} tokens where 1 was asked for"
                yield self._warn(message, f"set max_tokens_field: {good[0]}")

    def _form(self, plain: Told) -> Iterator[Check]:
        if plain.is_stream:  # nothing to tell where it is always asked to
            if not self._backend.fold_streams:
                yield self._warn("streams though it is not asked to", "set fold_streams: true")
            return
        problem, notes = mended(plain)
        if problem:
            yield self._fail(f"its answer cannot be used: {problem.rstrip('.')}", "see its own log")
        elif notes:
            yield Check(self._name, "ok", f"its answers are mended by the gateway: {', '.join(notes)}")

    def _streams(self) -> Iterator[Check]:
        stream = self._ask(stream=True)
        if stream.is_refused and "stream_options" in stream.sent:
            without = self._backend.but(stream_options="never")
            if (again := self._ask(backend=without, stream=True)).is_good:
                yield self._fail(f"refuses stream_options ({stream.status})", "set stream_options: never")
                stream = again
        if stream.status == 429 or stream.status >= 500:
            yield self._warn(f"answered {stream.status} to a stream request", "see its own log, and probe it again")
        elif not stream.is_good:
            yield self._fail(f"refuses to stream ({stream.status}): {stream.reason}", "see its own log")
        elif not stream.is_stream:
            fix = "set fold_streams: false" if self._backend.fold_streams else "nothing: its answer becomes one chunk"
            yield self._warn("never streams: it answers whole", fix)
        elif stream.answer_tokens is None and "stream_options" in stream.sent:
            yield self._warn("tells no usage in streams", "nothing: what they cost is estimated")

    def _usual(self) -> Iterator[Check]:
        """Find out which of the usual parameters are refused."""
        names = [name for name in USUAL if name not in self._backend.changed_names]
        refused: list[str] = []
        status = 0
        while names and (told := self._with(names)).is_refused:
            status = told.status
            blamed = told.blames(names) or [name for name in names if self._with([name]).is_refused]
            if not blamed:
                message = f"refuses some of {', '.join(names)} together ({told.status}): {told.reason}"
                yield self._warn(message, "parameters: {removed: […]} with those of them that it means")
                break
            refused += blamed
            names = [name for name in names if name not in blamed]
        if refused:
            message = f"refuses {', '.join(refused)} ({status})"
            yield self._warn(message, f"set parameters: {{removed: [{', '.join(refused)}]}}")

    def _with(self, names: list[str]) -> Told:
        return self._ask(**{name: USUAL[name] for name in names})


def _ignores(told: Told) -> bool:
    return told.is_good and (told.answer_tokens or 0) >= IGNORED_FROM_TOKENS
