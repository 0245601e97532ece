"""The Playground page: a question to a model, in the name of the session's token, on the road of everybody's requests.

The browser has no token to send. What it posts passes the frame's checks (session, origin, form token) and then goes to
the endpoint of chat completions with the session's token as its caller: its models, lane, limits and usage hold.
"""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from api.exchange import Message, Receive, Scope, Send
from api.ui.page import Action, Page, Visit

MAX_BODY_BYTES: Final = 1024 * 1024
_ENDPOINT: Final = "chat.completions"


async def _view(visit: Visit) -> Response:
    gateway = visit.gateway
    models = [name for name in gateway.settings.models if gateway.tokens.allows(visit.token, name)]
    return visit.page("playground.html", models=[(name, name) for name in models])


async def _send(visit: Visit) -> Response:
    return _Answer(visit)


class _Answer(Response):
    """Whatever the endpoint of chat completions answers to the JSON that was posted."""

    def __init__(self, visit: Visit) -> None:
        super().__init__()
        self._visit = visit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the endpoint answer. Of the browser's request it gets the body, neither cookies nor other headers."""
        body, is_read = self._visit.body, False

        async def receive_again() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        endpoint = self._visit.gateway.endpoints[_ENDPOINT]
        await endpoint({**scope, "headers": headers}, receive_again, send, caller=self._visit.token)


PAGE: Final = Page(
    "playground", "Playground", _view, actions={"send": Action(_send, role="viewer", max_bytes=MAX_BODY_BYTES)}
)
