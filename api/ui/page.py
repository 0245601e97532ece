"""What a page of `/ui` is, and what it is asked with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import FormData, QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from api.gateway import Gateway
from api.ui.rendering import rendered
from api.ui.session import Session
from shared.control.actor import UI, Actor
from shared.roles import Role, is_allowed
from shared.token_settings import TokenSettings

MAX_FORM_BYTES = 64 * 1024


@dataclass(kw_only=True)
class Visit:
    """One request of somebody who is logged in and may do what they ask for."""

    request: Request
    gateway: Gateway
    session: Session
    token: TokenSettings
    """Whose session it is, as it is now."""
    here: Page
    notice: str = ""
    """What the last action had to say, shown once."""
    body: bytes = b""
    form: FormData = field(default_factory=FormData)
    """Of an action that was posted as a form."""

    @property
    def query(self) -> QueryParams:
        """What stands behind the question mark."""
        return self.request.query_params

    @property
    def may_act(self) -> bool:
        """Whether actions are shown."""
        return is_allowed(self.token.role, "operator")

    @property
    def actor(self) -> Actor:
        """Who acts, for the audit log."""
        return Actor(self.token.name, UI)

    @property
    def is_script(self) -> bool:
        """Whether a script asks, which wants JSON."""
        return "application/json" in self.request.headers.get("accept", "")

    @property
    def is_confirmed(self) -> bool:
        """Whether the form says that it was asked once more."""
        return self.form.get("confirmed") == "yes"

    def page(self, template: str, status: int = 200, **context: Any) -> Response:
        """Return a page, or a part of one."""
        return HTMLResponse(rendered(template, visit=self, **context), status)

    def json(self, content: Any, status: int = 200) -> Response:
        """Return what a script reads."""
        return JSONResponse(content, status)

    def ask(self, question: str, warning: str = "", verb: str = "Yes") -> Response:
        """Return a page that posts the same form again once it is confirmed."""
        fields = [(name, value) for name, value in self.form.multi_items() if isinstance(value, str) and name != "csrf"]
        return self.page("ask.html", question=question, warning=warning, verb=verb, fields=fields)

    async def done(self, notice: str, back: str | None = None) -> Response:
        """Return what leads back to the page, or to another place under `/ui`, and says there what was done."""
        if self.is_script:
            return self.json({"notice": notice})
        await self.session.say(notice)
        return RedirectResponse(back or f"/ui/{self.here.name}", 303)


View = Callable[[Visit], Awaitable[Response]]


@dataclass(frozen=True)
class Action:
    """What is posted to a page."""

    run: View
    role: Role = "operator"
    max_bytes: int = MAX_FORM_BYTES
    """Of its body; past it: 413."""


@dataclass(frozen=True)
class Page:
    """One page: `/ui/NAME`."""

    name: str
    title: str
    view: View
    parts: Mapping[str, View] = field(default_factory=dict)
    actions: Mapping[str, Action] = field(default_factory=dict)
