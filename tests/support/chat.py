"""The request of nearly every test: where chat completions are posted, and the smallest body that says something."""

from __future__ import annotations

from typing import Any

CHAT = "/v1/chat/completions"


def chat_body(model: str, prompt: str = "hi", *, stream: bool = False) -> dict[str, Any]:
    """Return a request for one answer to one user message; by its prompt it is found in the demo backend's record."""
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": prompt}]}


def prompt_of(record: dict[str, Any]) -> Any:
    """Return the last message's content of a request that the demo backend recorded; for other kinds its prompt."""
    body = record["body"]
    return body["messages"][-1].get("content") if "messages" in body else body.get("prompt", body.get("input"))
