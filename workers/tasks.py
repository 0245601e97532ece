"""The one Celery task: a ticket came, jobs of its model wait. The ticket carries no job, so losing one is harmless."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from shared.broker import TICKET_TASK


def bind_ticket(app: Celery, wake: Callable[[str], None]) -> None:
    """Register the ticket's task with this app."""

    def ticket(model: str) -> None:
        """Wake the model's slots; they take what waits, up to what is free."""
        wake(model)

    app.task(name=TICKET_TASK, send_events=False, ignore_result=True, serializer="json")(ticket)
