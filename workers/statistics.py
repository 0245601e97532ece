"""What a worker tells of itself over Celery's remote control, and Flower shows: all but Redis's password.

Celery leaves the password out where a URL has a place for it; the URL of a unix socket is all one host name to Celery.
"""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command
from kombu.utils.url import maybe_sanitize_url


@inspect_command(name="stats")
def statistics(state: Any, **_: Any) -> dict[str, Any]:
    """Answer in place of Celery's own command, which importing this module replaces."""
    told: dict[str, Any] = state.consumer.controller.stats()
    broker = told.get("broker")
    if isinstance(broker, dict):
        broker["hostname"] = maybe_sanitize_url(broker.get("hostname") or "")
    return told
