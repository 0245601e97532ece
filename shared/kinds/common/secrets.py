"""The keys that a model's backends are reached with in; what takes them out of whatever a backend says, by value.

Patterns know only keys that look like some; a backend may quote any. Nothing in here is ever shown or logged.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus, unquote, urlsplit

from shared.backend_settings import BackendSettings

REDACTED = "[redacted]"
_WHOLE_WORDS_BELOW = 8
"""Shorter keys are often words (`EMPTY`, `none`), which are taken out only where they stand alone."""
_SHORTEST = 4


class Secrets:
    """Texts that nobody may see, in each spelling in which a server might repeat them."""

    __slots__ = ("_pattern",)

    def __init__(self, values: Iterable[str] = ()) -> None:
        found = {value for value in values if len(value) >= _SHORTEST}
        patterns = {pattern for value in found for pattern in _spellings(value)}
        longest_first = sorted(patterns, key=len, reverse=True)
        self._pattern = re.compile("|".join(longest_first), re.IGNORECASE) if longest_first else None

    def hide(self, text: str) -> str:
        """Return the text without them."""
        return text if self._pattern is None else self._pattern.sub(REDACTED, text)

    def __repr__(self) -> str:
        return "Secrets(…)"


NO_SECRETS = Secrets()


def secrets_of(backends: Iterable[BackendSettings]) -> Secrets:
    """Return the API keys of these backends, what their headers say, and the passwords in their URLs and their
    proxies'.
    """
    return Secrets(value for backend in backends for value in _values(backend))


def _values(backend: BackendSettings) -> Iterator[str]:
    if backend.api_key is not None:
        yield backend.api_key.get_secret_value()
    for value in (backend.headers or {}).values():
        yield value.get_secret_value()
        yield value.get_secret_value().rpartition(" ")[2]  # of `Bearer KEY` the key alone
    yield from _login(backend.url)
    if backend.proxy is not None:
        yield from _login(backend.proxy.get_secret_value())


def _login(url: str) -> Iterator[str]:
    """Yield a URL's password as it is sent and as it is written, and what Basic authentication makes of it."""
    parts = urlsplit(url)
    if parts.password:
        password = unquote(parts.password)
        yield from (parts.password, password, f"{unquote(parts.username or '')}:{password}")


def _spellings(value: str) -> Iterator[str]:
    """Yield patterns for a value: plain, URL-quoted, and in Base64, alone or inside of something longer."""
    if len(value) < _WHOLE_WORDS_BELOW:
        yield rf"(?<![A-Za-z0-9]){re.escape(value)}(?![A-Za-z0-9])"
    else:
        yield from map(
            re.escape, {value, json.dumps(value)[1:-1], quote(value, safe=""), quote(value), quote_plus(value)}
        )
    raw = value.encode()
    for shift in range(3):  # three bytes become four characters: what stands before the value moves its bits
        encoded = base64.b64encode(bytes(shift) + raw).decode()
        # Characters that hold bits of the value alone; those at its edges, which hold others' too, go with them.
        core = encoded[-(-shift * 4 // 3) : (shift + len(raw)) * 4 // 3]
        if len(core) >= _WHOLE_WORDS_BELOW or not shift:
            for spelt in {core, core.translate(_URL_SAFE)}:
                yield rf"{re.escape(spelt)}[A-Za-z0-9+/_=-]{{0,3}}"


_URL_SAFE = str.maketrans("+/", "-_")
