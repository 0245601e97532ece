"""A visitor of `/ui` without a browser: keeps the cookie, says where forms come from, finds their tokens."""

from __future__ import annotations

import re
from typing import Any

import httpx

from tests.support.system import System


class Visitor:
    """Somebody who may be logged in. Close it, or use it in a `with`."""

    def __init__(self, system: System, name: str | None = None) -> None:
        """Come with no session, or log in with the token of that name."""
        self.client = httpx.Client(base_url=system.base_url, timeout=30)
        self.origin = system.base_url.rstrip("/")
        if name is not None:
            answer = self.login(system.tokens[name])
            assert answer.status_code == 303, answer.text

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def login(self, token: str, onward: str = "", **more: Any) -> httpx.Response:
        """Send the form of the login page."""
        headers = {"origin": self.origin, **more.pop("headers", {})}
        return self.client.post("/ui/login", data={"token": token, "next": onward}, headers=headers, **more)

    def get(self, path: str, status: int = 200, **more: Any) -> str:
        """Return a page's text."""
        answer = self.client.get(path, **more)
        assert answer.status_code == status, f"{answer.status_code} {answer.text}"
        return answer.text

    @property
    def csrf(self) -> str:
        """What a form of this session holds, as read from a page."""
        found = re.search(r'data-csrf="([0-9a-f]+)"', self.get("/ui/audit"))
        assert found is not None
        return found[1]

    def post(self, path: str, fields: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        """Send a form as one of our own pages would."""
        data = {"csrf": self.csrf, **(fields or {})}
        return self.client.post(path, data=data, headers={"origin": self.origin, **headers})
